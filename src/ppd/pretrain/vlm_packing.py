"""Many questions about one person in one sequence, so that the pairs are read once.

A packed row is the pairs, then branches: each branch continues the conversation after some of the pairs and sees these
and itself alone, at the positions it would have there. To the model every branch *is* the plain conversation (tested).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ppd.pretrain.vlm_architecture import ASSISTANT, END, IMAGE, PAD, USER
from ppd.simulation.users import TRAITS
from ppd.simulation.world import CONCEPTS, caption

Ints = NDArray[np.int64]

PAIR = 8  # caption (2), image and newline, "preferred", image and newline, "rejected"
QUESTION = 10  # caption (2), image and newline, "first", image and newline, "second", question, assistant
PROFILE = 6  # question, assistant, "likes", trait, "and", trait


@dataclass(frozen=True)
class Packing:
    """Where things are in a packed row of `length` positions. One patch an image: its newline follows it.

    images [slots]: positions of images in the order pairs (preferred, rejected) then questions (first, second).
    rejected [K]: where a pair is complete. answers [B]: where a question is to be answered. profiles [P]: where a
    profile begins ("assistant"); the next four positions hold likes, trait, and, trait. mask [length,
    length]: who sees whom.
    """

    n_pairs: int
    questions_after: tuple[int, ...]
    profiles_after: tuple[int, ...]
    images: Tensor
    preferred: Tensor
    rejected: Tensor
    seconds: Tensor
    answers: Tensor
    profiles: Tensor
    positions: Tensor
    mask: Tensor

    @property
    def length(self) -> int:
        return len(self.positions)


def layout(n_pairs: int, questions_after: tuple[int, ...], profiles_after: tuple[int, ...]) -> Packing:
    """Lay out `n_pairs` pairs, a question after each of these numbers of pairs, and a profile after each of those."""
    shared = 1 + n_pairs * PAIR
    starts = [(known, QUESTION) for known in questions_after] + [(known, PROFILE) for known in profiles_after]
    length = shared + sum(size for _, size in starts)
    seen = torch.zeros(length, length, dtype=torch.bool)
    seen[:shared, :shared] = torch.ones(shared, shared, dtype=torch.bool).tril()
    positions = torch.arange(length)
    begins = []
    at = shared
    for known, size in starts:
        prefix = 1 + known * PAIR
        seen[at : at + size, :prefix] = True
        seen[at : at + size, at : at + size] = torch.ones(size, size, dtype=torch.bool).tril()
        positions[at : at + size] = prefix + torch.arange(size)
        begins.append(at)
        at += size
    pairs = 1 + PAIR * torch.arange(n_pairs)
    questions = torch.tensor(begins[: len(questions_after)], dtype=torch.long)
    profiles = torch.tensor(begins[len(questions_after) :], dtype=torch.long)
    blocks = torch.cat([pairs, questions])
    return Packing(
        n_pairs,
        questions_after,
        profiles_after,
        images=(blocks[:, None] + torch.tensor([2, 5])).flatten(),
        preferred=pairs + 4,
        rejected=pairs + 7,
        seconds=questions + 7,
        answers=questions + 9,
        profiles=profiles + 1,
        positions=positions,
        mask=seen,
    )


class Words:
    """Token ids of the prompt `short-1`, block by block."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        def ids(text: str) -> list[int]:
            return list(tokenizer(text, add_special_tokens=False).input_ids)

        self.captions = np.array([ids(caption(c)) for c in range(len(CONCEPTS))])
        self.pair = np.array(ids(f"{IMAGE}{IMAGE} preferred {IMAGE}{IMAGE} rejected"))
        self.question = np.array(ids(f"{IMAGE}{IMAGE} first {IMAGE}{IMAGE} second which is preferred {ASSISTANT}"))
        self.describe = np.array(ids(f"describe this person {ASSISTANT} likes"))
        self.traits = np.array([i for trait in TRAITS for i in ids(trait)])
        self.likes, self.and_, self.end, self.user, self.pad = (ids(w)[0] for w in ("likes", "and", END, USER, PAD))
        self.first, self.second = (ids(w)[0] for w in ("first", "second"))

    def pack(self, plan: Packing, pair_concepts: Ints, question_concepts: Ints, traits: Ints) -> Tensor:
        """Token ids [N, length]: concepts [N, K] and [N, B]; traits [N, 2] of the profiles (len(TRAITS): none)."""
        n = len(pair_concepts)

        def blocks(concepts: Ints, words: Ints) -> Ints:
            tail = np.broadcast_to(words, (*concepts.shape, len(words)))
            return np.concatenate([self.captions[concepts], tail], axis=-1).reshape(n, -1)

        trait = np.append(self.traits, self.pad)[traits]
        and_ = np.where(traits[:, 1:] < len(self.traits), self.and_, self.pad)
        profile = np.concatenate([np.tile(self.describe, (n, 1)), trait[:, :1], and_, trait[:, 1:]], axis=1)
        branches = [blocks(question_concepts, self.question), np.tile(profile, (1, len(plan.profiles_after)))]
        user, pairs = np.full((n, 1), self.user), blocks(pair_concepts, self.pair)
        return torch.from_numpy(np.concatenate([user, pairs, *branches], axis=1))
