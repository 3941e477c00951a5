"""What is known of a step that came to no number: which of its inputs are none, and all that it computed with."""

from torch import Tensor

from ppd.diffusion.training.dataset import Draw, TrainingData
from ppd.errors import InputError


class NonFiniteError(InputError, ArithmeticError):
    """The loss or its gradient is not a number; the weights are still those of the step before."""


def suspects(data: TrainingData, draw: Draw) -> str:
    """A sentence: which latents and embeddings of a batch are no numbers themselves, by pair and user."""
    pairs = data.train[draw.pairs]
    images = [data.latents[rows].flatten(1).isfinite().all(dim=1) for rows in (pairs.chosen, pairs.rejected)]
    embeddings = data.embeddings_of(pairs.user, draw.group).flatten(1).isfinite().all(dim=1)
    wrong = [
        f"{what} of training pair {pair} (user {data.name_of(user)})"
        for what, rows in {"latents": ~(images[0] & images[1]), "embeddings": ~embeddings}.items()
        for pair, user in zip(draw.pairs[rows].tolist(), pairs.user[rows].tolist(), strict=True)
    ]
    if not wrong:
        return f"All {len(pairs)} pairs that it read are numbers: lower learning_rate or beta, or use precision: fp32"
    return f"No numbers are the {'; '.join(wrong[:3])}: {len(wrong)} of the {len(pairs)} pairs that it read"


def batch_tensors(data: TrainingData, draw: Draw) -> dict[str, Tensor]:
    """All that a step reads of the data, and its randomness."""
    pairs = data.train[draw.pairs]
    return {
        "pairs": draw.pairs,
        "t": draw.t,
        "noise": draw.noise,
        "latents_chosen": data.latents[pairs.chosen],
        "latents_rejected": data.latents[pairs.rejected],
        "embeddings": data.embeddings_of(pairs.user, draw.group),
    }
