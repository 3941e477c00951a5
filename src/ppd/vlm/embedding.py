"""A person's embedding: what a vision-language model makes of a few of their pairs (PPD, arXiv 2501.06655, stage 1)."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppd.errors import InputError
from ppd.preferences.images import READING
from ppd.settings import EmbeddingSettings
from ppd.users.support import Pair
from ppd.vlm.prompts import Conversation, profile_conversation
from ppd.vlm.transformers_backend import TransformersVlm


@dataclass(frozen=True)
class Embedded:
    """G groups of pairs: hidden [G, rows, dim] float32, not whitened, and the profile written about each."""

    hidden: Tensor
    profiles: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """What somebody else wrote. cut: its tokens were used up, so its last one was never read by whoever wrote it."""

    text: str
    cut: bool


Writer = Callable[[Sequence[Conversation]], Sequence[Profile]]


def embed(
    vlm: TransformersVlm,
    supports: Sequence[Sequence[Pair]],
    settings: EmbeddingSettings,
    writer: Writer | None = None,
) -> Embedded:
    """Embed each group of pairs. A group's embedding does not depend on the other groups.

    writer: writes the profiles in place of `vlm`, which then only reads them.
    """
    conversations = [profile_conversation(pairs, settings.prompt) for pairs in supports]
    rows = kept_rows(vlm, settings)
    if writer is not None:
        profiles = writer(conversations)
        # Of a text that was cut its writer never read the last token, and what it was about to say is what is wanted.
        answers = [vlm.tokens_of(profile.text) for profile in profiles]
        answers = [answer[:-1] if profile.cut else answer for answer, profile in zip(answers, profiles, strict=True)]
        hidden = vlm.hidden_at_end(conversations, rows, answers).clone()
        return Embedded(hidden, tuple(profile.text.strip() for profile in profiles))
    if settings.max_new_tokens:
        written = vlm.write(conversations, max_new_tokens=settings.max_new_tokens)
        texts = tuple(answer.text for answer in written)
        hidden = torch.stack([a.before if settings.read == "prompt-end" else a.after for a in written])
        return Embedded(hidden[:, list(rows)], texts)
    hidden = vlm.hidden_at_end(conversations, rows).clone()  # a tensor like any other, not one of inference mode
    return Embedded(hidden, ("",) * len(conversations))


def kept_rows(vlm: TransformersVlm, settings: EmbeddingSettings) -> tuple[int, ...]:
    """Which layers an embedding holds, counted from 0 (the input embedding)."""
    rows = tuple(range(vlm.n_rows)) if settings.rows is None else settings.rows
    wrong = [row for row in rows if not -vlm.n_rows <= row < vlm.n_rows]
    if wrong:
        raise InputError(
            f"embedding.rows names layer {wrong[0]}, but this model has rows 0 to {vlm.n_rows - 1}", column="rows"
        )
    return tuple(row % vlm.n_rows for row in rows)


def support_key(pairs: Sequence[Pair], revision: str, settings: EmbeddingSettings) -> str:
    """Changes exactly when these pairs' embedding may: with an image's bytes, a caption, the order, model or prompt."""
    digest = hashlib.sha256()
    how: tuple[object, ...] = (
        READING,
        revision,
        settings.prompt,
        settings.read,
        settings.max_new_tokens,
        settings.rows,
        settings.precision,
    )
    if (server := settings.server) is not None:  # not its address: the same model elsewhere writes the same
        how += (server.model, server.temperature, str(server.extra_body))
    digest.update(repr(how).encode())
    for pair in pairs:
        for part in (pair.caption.encode(), pair.preferred, pair.rejected):
            digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:32]
