"""The scorers' scores of sampled images: units of some images, which several processes may share."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ppd.evaluation.tables import Images
from ppd.files import atomic_path
from ppd.parts import share
from ppd.resumable import work_folder
from ppd.rewards.scorer import Scorer
from ppd.settings import RewardSettings
from ppd.stored_tables import read_frame, write_table

IMAGES_PER_UNIT = 128

Scores = Mapping[tuple[str, str], NDArray[np.float64]]
"""(reward, model) -> the scores of the model's images, in their order."""


def score_images(
    samples: Mapping[str, tuple[pd.DataFrame, Images]],
    scorers: Mapping[str, Scorer],
    unfinished: Path,
    rewards: tuple[RewardSettings, ...],
    files: Mapping[str, Path],
) -> Scores | None:
    """What each scorer says of each model's images; None in processes that only helped (`ppd.parts`).

    rewards: the settings of the scorers. files: where the samples were read from. Both name the work in `unfinished`,
    from where a killed run goes on.
    """
    if not scorers:
        return {}
    work = work_folder(unfinished, [*rewards, sorted(samples)], files.values())
    units = [
        (reward, model, start)
        for reward in scorers
        for model, (requests, _) in samples.items()
        for start in range(0, len(requests), IMAGES_PER_UNIT)
    ]
    made = [work / f"{reward}-{model}-{start:08d}.parquet" for reward, model, start in units]

    def make(number: int) -> None:
        reward, model, start = units[number]
        requests, images = samples[model]
        rows = slice(start, start + IMAGES_PER_UNIT)
        scores = scorers[reward](images[rows], requests.caption[rows].tolist())
        with atomic_path(made[number]) as fresh:
            write_table(pd.DataFrame({"score": scores}), fresh)

    sizes = [len(samples[model][0][start : start + IMAGES_PER_UNIT]) for _, model, start in units]
    if not share(made, sizes, make, label="score", check=read_frame):
        return None
    scores: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    for (reward, model, _), file in zip(units, made, strict=True):
        scores.setdefault((reward, model), []).append(read_frame(file).score.to_numpy())
    shutil.rmtree(unfinished)
    return {key: np.concatenate(parts) for key, parts in scores.items()}
