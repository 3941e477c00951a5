"""Second half of the nano VLM: teach the language model to read a person's choices.

Every packed row pays several times: after each pair the model says what it believes by now (heads that are not kept,
against the exact posterior), and branches ask it to choose for the person and to describe them.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

from ppd.pretrain.loop import autocast
from ppd.pretrain.vlm_packing import Packing, Words, layout
from ppd.pretrain.vlm_users import Batch, PopulationCache, ScenePool
from ppd.simulation.users import TRAITS
from ppd.simulation.world import N_FEATURES


class Reader(nn.Module):
    """The language model of a LLaVA-OneVision with heads on its inner layers; the heads are not kept."""

    def __init__(self, model: LlavaOnevisionForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.language = model.model.language_model
        self.newline = model.model.image_newline
        self.words = Words(tokenizer)
        width = model.config.text_config.hidden_size
        depth = model.config.text_config.num_hidden_layers
        self.difference_layer = 2
        self.belief_layers = tuple(range(depth - 2, depth + 1))
        self.difference = nn.Linear(width, N_FEATURES)
        self.taste = nn.ModuleList(nn.Linear(width, N_FEATURES) for _ in self.belief_layers)
        self.profile = nn.ModuleList(nn.Linear(width, len(TRAITS) * (len(TRAITS) + 1)) for _ in self.belief_layers)

    def forward(self, plan: Packing, tokens: Tensor, images: Tensor) -> tuple[Tensor, ...]:
        """Hidden states of every layer, [N, length, width]: tokens [N, length], image tokens [N, slots, width]."""
        device = self.newline.device
        slots = plan.images.to(device)
        embedded = self.language.embed_tokens(tokens.to(device))
        embedded = embedded.index_copy(1, slots, images.to(embedded))
        newline = self.newline.to(embedded).expand(len(tokens), len(slots), -1)
        embedded = embedded.index_copy(1, slots + 1, newline)
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else embedded.dtype
        mask = torch.zeros(plan.mask.shape, dtype=dtype, device=device)
        mask = mask.masked_fill(~plan.mask.to(device), float("-inf"))
        output = self.language(
            inputs_embeds=embedded,
            attention_mask=mask[None, None],
            position_ids=plan.positions[None].to(device),
            output_hidden_states=True,
            use_cache=False,
        )
        return output.hidden_states

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary (tied to the embeddings), on the CPU, where losses are computed."""
        return (hidden.float() @ self.language.embed_tokens.weight.T).cpu()


def read(
    reader: Reader, batch: Batch, plan: Packing, pool: ScenePool, sights: Tensor, *, bf16: bool
) -> tuple[Tensor, ...]:
    """Hidden states [N, length, width] of every layer; sights [scenes, width] are the image tokens of the pool."""
    concepts = pool.scenes.concept
    pairs, questions = (concepts[rows[..., 0]] for rows in (batch.pairs, batch.questions))
    tokens = reader.words.pack(plan, pairs, questions, batch.own_profile)
    rows = np.concatenate([batch.pairs, batch.questions], axis=1).reshape(len(batch.kinds), -1)
    with autocast(reader.newline.device, bf16):
        return reader(plan, tokens, sights[rows])


def batch_loss(
    reader: Reader, hidden: tuple[Tensor, ...], batch: Batch, plan: Packing, pool: ScenePool
) -> dict[str, Tensor]:
    """The parts of the loss, each a mean; `total` is their weighted sum."""
    features = torch.from_numpy(pool.features).float()
    parts: dict[str, Tensor] = {}
    # Belief after each pair and where the profile begins, against the exact posterior.
    known = torch.cat([torch.arange(1, plan.n_pairs + 1), torch.tensor(plan.profiles_after)])
    where = torch.cat([plan.rejected, plan.profiles])
    taste = torch.from_numpy(batch.taste).float()[:, known]
    profile = torch.from_numpy(batch.profile).float()[:, known].flatten(2)
    parts["taste"] = parts["profile"] = torch.zeros(())
    for layer, taste_head, profile_head in zip(reader.belief_layers, reader.taste, reader.profile, strict=True):
        state = hidden[layer][:, where].float()
        parts["taste"] = parts["taste"] + F.mse_loss(taste_head(state).cpu(), taste) / len(reader.belief_layers)
        log_p = profile_head(state).cpu().log_softmax(-1)
        parts["profile"] = parts["profile"] - (profile * log_p).sum(-1).mean() / len(reader.belief_layers)
    # What sets the two images of a pair, or of a question, apart.
    where = torch.cat([plan.rejected, plan.seconds])
    rows = torch.from_numpy(np.concatenate([batch.pairs, batch.questions], axis=1))
    apart = features[rows[..., 0]] - features[rows[..., 1]]
    seen = reader.difference(hidden[reader.difference_layer][:, where].float()).cpu()
    parts["difference"] = F.mse_loss(seen, apart)
    # The answers, in words.
    answer = torch.from_numpy(batch.answers).float()
    log_p = reader.logits(hidden[-1][:, plan.answers]).log_softmax(-1)
    parts["answer"] = -(answer * log_p[..., reader.words.first] + (1 - answer) * log_p[..., reader.words.second]).mean()
    parts["words"] = _words_loss(reader, hidden[-1], batch, plan)
    parts["total"] = (
        2 * parts["answer"] + parts["taste"] + 0.3 * parts["profile"] + 0.2 * parts["difference"] + 0.3 * parts["words"]
    )
    return parts


def _words_loss(reader: Reader, last: Tensor, batch: Batch, plan: Packing) -> Tensor:
    """Cross-entropy of the written profile, word by word, against the posterior of each next word."""
    words, n_traits = reader.words, len(TRAITS)
    joint = torch.from_numpy(batch.profile).float()[:, torch.tensor(plan.profiles_after)]  # [N, P, first, second]
    own = torch.from_numpy(batch.own_profile)
    strongest = joint.sum(-1)
    rows = torch.arange(len(own))
    second = joint[rows, :, own[:, 0]]  # [N, P, second], given the strongest
    second = second / second.sum(-1, keepdim=True).clamp_min(1e-12)
    more = 1 - second[..., n_traits]
    log_p = [reader.logits(last[:, plan.profiles + k]).log_softmax(-1) for k in range(5)]
    traits = torch.from_numpy(words.traits)
    loss = -log_p[0][..., words.likes].mean()
    loss = loss - (strongest * log_p[1][..., traits]).sum(-1).mean()
    loss = loss - (more * log_p[2][..., words.and_] + (1 - more) * log_p[2][..., words.end]).mean()
    has_second = (own[:, 1] < n_traits).float()[:, None]
    given_more = second[..., :n_traits] / more[..., None].clamp_min(1e-12)
    loss = loss - (has_second * (given_more * log_p[3][..., traits]).sum(-1)).mean()
    return loss - (has_second * log_p[4][..., words.end]).mean()


def sample_packing(rng: np.random.Generator, n_pairs: int) -> Packing:
    """Questions after 4, all and two random numbers of pairs; profiles after 4 and after a random number."""
    questions_after = (min(4, n_pairs), n_pairs, *(int(k) for k in rng.integers(1, n_pairs + 1, size=2)))
    return layout(n_pairs, questions_after, (min(4, n_pairs), int(rng.integers(1, n_pairs + 1))))


def answers_of(reader: Reader, hidden: tuple[Tensor, ...], plan: Packing) -> Tensor:
    """Log odds of "first" over "second" at each question: [N, B]."""
    logits = reader.logits(hidden[-1][:, plan.answers])
    return logits[..., reader.words.first] - logits[..., reader.words.second]


@torch.no_grad()
def population_quality(
    reader: Reader, cache: PopulationCache, pool: ScenePool, sights: Tensor, batch: Batch, plan: Packing
) -> dict[str, float]:
    """Quick measurement while training: judge and exact judge on the same real choices, R² of the taste head."""
    quality: dict[str, float] = {}
    parts, tastes = [], []
    for at in range(0, len(batch.kinds), 64):
        hidden = read(reader, batch.rows(slice(at, at + 64)), plan, pool, sights, bf16=False)
        parts.append(answers_of(reader, hidden, plan))
        tastes.append(reader.taste[-1](hidden[-1][:, plan.profiles]).cpu())
    odds, taste = torch.cat(parts).numpy(), torch.cat(tastes).numpy()
    truth = cache.people.tastes[batch.kinds]
    shown = pool.features[batch.questions]
    gap = np.einsum("nbd,nd->nb", shown[:, :, 0] - shown[:, :, 1], truth)
    # Expected accuracy against the person's own choice, which is drawn from gap and temperature.
    p_first = 1 / (1 + np.exp(-gap / cache.people.temperature[batch.kinds][:, None]))
    for b, known in enumerate(plan.questions_after):
        for name, says in (("model", odds[:, b] > 0), ("exact", batch.answers[:, b] > 0.5)):
            quality[f"{name}_{known}"] = round(float(np.where(says, p_first[:, b], 1 - p_first[:, b]).mean()), 4)
    spread = ((truth - truth.mean(0)) ** 2).sum()
    for p, known in enumerate(plan.profiles_after):
        for name, mean in (("model", taste[:, p]), ("exact", batch.taste[:, known])):
            quality[f"r2_{name}_{known}"] = round(float(1 - ((truth - mean) ** 2).sum() / spread), 4)
    return quality
