"""Rendering in a process beside the one that trains.

A module of its own that imports neither torch nor diffusers: each process that renders begins by importing it.
"""

import numpy as np
from numpy.typing import NDArray

from ppd.simulation.render import Atlas, render
from ppd.simulation.world import Scenes

_atlas: Atlas


def begin(atlas: Atlas) -> None:
    """Give this process its atlas, once."""
    global _atlas
    _atlas = atlas


def render_scenes(scenes: Scenes) -> NDArray[np.uint8]:
    """`ppd.simulation.render.render` with the atlas of `begin`."""
    return render(_atlas, scenes)
