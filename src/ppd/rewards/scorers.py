"""The scorers that the settings name."""

from collections.abc import Sequence

import torch

from ppd.rewards.aesthetic import AestheticScorer
from ppd.rewards.clip_score import ClipScorer
from ppd.rewards.scorer import Scorer
from ppd.settings import RewardSettings


def load_scorer(settings: RewardSettings, *, device: torch.device | str = "cpu") -> Scorer:
    """One scorer with its published formula.

    clip, hps: 100 · cosine (hps: of the CLIP that was tuned on people's rankings, arXiv 2306.09341); pick-score: the
    model's own scale · cosine (arXiv 2305.01569); aesthetic: a rating from the image alone.
    """
    match settings.kind:
        case "clip" | "hps":
            return ClipScorer.from_pretrained(settings.checkpoint, device=device)
        case "pick-score":
            scorer = ClipScorer.from_pretrained(settings.checkpoint, device=device)
            scorer.scale = float(scorer.model.logit_scale.exp())
            return scorer
        case "aesthetic":
            return AestheticScorer.from_pretrained(settings.checkpoint, str(settings.head), device=device)


def load_scorers(rewards: Sequence[RewardSettings], *, device: torch.device | str = "cpu") -> dict[str, Scorer]:
    """All of them, by their kind."""
    return {reward.kind: load_scorer(reward, device=device) for reward in rewards}
