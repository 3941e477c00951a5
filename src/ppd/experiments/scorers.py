"""Rewards that pull pictures apart: does it fit its caption, is it colourful, is it light?

Each takes images (uint8 [H, W, 3] each) and their captions and gives one number an image, as every scorer of
`ppd.rewards` does.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ppd.rewards.clip_score import ClipScorer
from ppd.settings import Settings

Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
RewardFunction = Callable[[Images, Sequence[str]], NDArray[np.float64]]


def load_reward_functions(names: Sequence[str], settings: Settings) -> Mapping[str, RewardFunction]:
    """The scorers with these names."""
    return {name: _load(name, settings) for name in names}


def _load(name: str, settings: Settings) -> RewardFunction:
    match name:
        case "clip":
            return ClipScorer.from_pretrained(settings.models.clip)
        case "colourfulness":
            return colourfulness
        case "lightness":
            return lightness
        case _:
            raise ValueError(f"no scorer {name!r}; there are clip, colourfulness and lightness")


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
