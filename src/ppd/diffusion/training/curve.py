"""The curve of a training run: a CSV that grows by a row a step."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ppd.files import atomic_path

CURVE = "curve.csv"

COLUMNS = (
    "step",
    "loss",
    "margin",
    "accuracy",
    "error_chosen",
    "error_rejected",
    "reference_chosen",
    "reference_rejected",
    "grad_norm",
    "learning_rate",
    "seen_accuracy",
    "seen_accuracy_shuffled_user",
    "seen_margin",
    "held_out_accuracy",
    "held_out_accuracy_shuffled_user",
    "held_out_margin",
)


class Curve:
    """Appends rows to `path`; what a step has no number for stays empty.

    An existing file is cut to its first `keep_rows` rows first: those of the steps that a resumed run does not repeat.
    """

    def __init__(self, path: Path, keep_rows: int) -> None:
        self.path = path
        rows = path.read_text().splitlines()[1 : keep_rows + 1] if path.exists() else []
        with atomic_path(path) as fresh:
            fresh.write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")

    def append(self, row: Mapping[str, float]) -> None:
        cells = (f"{row[column]:.9g}" if column in row else "" for column in COLUMNS)
        with self.path.open("a") as file:
            file.write(",".join(cells) + "\n")


def read_curves(models: Path) -> dict[str, pd.DataFrame]:
    """The curve of every method that has been trained."""
    files = {folder.name: folder / CURVE for folder in sorted(models.iterdir())}
    return {method: pd.read_csv(file) for method, file in files.items() if file.exists()}
