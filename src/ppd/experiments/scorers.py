"""Rewards that pull images apart: does it fit its caption, is it colourful, is it light?"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ppd.rewards.clip_score import ClipScorer
from ppd.rewards.scorer import Images, Scorer
from ppd.settings import Settings


def load_reward_functions(names: Sequence[str], settings: Settings) -> dict[str, Scorer]:
    """The scorers with these names. Raises ValueError for an unknown one."""
    plain: dict[str, Scorer] = {"colourfulness": colourfulness, "lightness": lightness}
    if unknown := sorted(set(names) - {"clip", *plain}):
        raise ValueError(f"no scorer {unknown[0]!r}; there are clip, colourfulness and lightness")
    return {name: plain[name] if name in plain else ClipScorer.from_pretrained(settings.models.clip) for name in names}


def colourfulness(images: Images, captions: Sequence[str]) -> NDArray[np.float64]:
    """Spread plus strength of the opponent colours (Hasler & Süsstrunk 2003), in units of 8-bit sRGB: [N].

    Stands in for an aesthetic score, which no model of this size knows.
    """
    rgb = np.stack(list(images)).astype(np.float64)
    red_green = rgb[..., 0] - rgb[..., 1]
    yellow_blue = (rgb[..., 0] + rgb[..., 1]) / 2 - rgb[..., 2]
    spread = np.hypot(red_green.std(axis=(1, 2)), yellow_blue.std(axis=(1, 2)))
    strength = np.hypot(red_green.mean(axis=(1, 2)), yellow_blue.mean(axis=(1, 2)))
    return np.asarray(spread + 0.3 * strength)


def lightness(images: Images, captions: Sequence[str]) -> NDArray[np.float64]:
    """Mean luma (Rec. 709 weights on 8-bit sRGB), in per cent of white: [N]."""
    rgb = np.stack(list(images)).astype(np.float64)
    return np.asarray((rgb @ [0.2126, 0.7152, 0.0722]).mean(axis=(1, 2)) / 2.55)
