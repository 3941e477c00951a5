"""Rewards with known answers."""

import numpy as np
import pytest

from ppd.experiments.scorers import colourfulness, lightness, load_reward_functions
from ppd.settings import Settings

GREY, RED, WHITE = ((128, 128, 128), (255, 0, 0), (255, 255, 255))


def plain(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((8, 8, 3), colour, dtype=np.uint8)


def test_grey_has_no_colour_and_red_has_some():
    half = plain(GREY)
    half[:4] = RED
    grey, red, both = colourfulness([plain(GREY), plain(RED), half], [""] * 3)
    assert grey == 0
    assert red == pytest.approx(0.3 * np.hypot(255, 127.5))
    assert both > red  # contrast counts more than a plain colour


def test_lightness_is_that_of_the_luma():
    assert lightness([plain((0, 0, 0)), plain(WHITE), plain(RED)], [""] * 3) == pytest.approx([0, 100, 21.26])


def test_an_unknown_scorer_is_refused_by_name():
    with pytest.raises(ValueError, match="no scorer 'beauty'; there are clip, colourfulness"):
        load_reward_functions(["beauty"], Settings())
