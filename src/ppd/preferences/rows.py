"""What every reader yields: a raw row as it was found, or a refusal of one that cannot even be read."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

BATCH_ROWS = 64
"""Rows held at once. With Pick-a-Pic's images (about 175 kB each) that is some 22 MB."""


class RawRow(NamedTuple):
    """One choice as the log has it, nothing checked: any value may be missing (`None`) or wrong.

    `row` counts from 0 within `file`; `created_us` is microseconds since 1970; images are encoded bytes.
    """

    file: str
    row: int
    ranking_id: int | None
    user_id: str | None
    caption: str | None
    created_us: int | None
    uid_0: str | None
    uid_1: str | None
    image_0: bytes | None
    image_1: bytes | None
    label_0: float | None
    label_1: float | None
    best_uid: str | None
    has_label: bool | None
    are_different: bool | None


class Refusal(NamedTuple):
    """A row that is not taken, and why: `reason` is one of a small set of words, `detail` is for a person to read."""

    file: str
    row: int
    reason: str
    detail: str


class Position(NamedTuple):
    """Where reading goes on: the index of a file in `Source.files` and the first of its rows not yet read."""

    file: int
    row: int


class Batch(NamedTuple):
    """At most `BATCH_ROWS` rows of one file, in order, and the position behind them."""

    rows: list[RawRow | Refusal]
    after: Position


class Source(Protocol):
    """A log that can be read in batches, and again from any position between two of them."""

    @property
    def root(self) -> Path: ...

    @property
    def files(self) -> tuple[Path, ...]: ...

    @property
    def n_rows(self) -> int: ...

    def batches(self, start: Position) -> Iterator[Batch]:
        """Batches from `start` on. Batches depend on the files alone, never on where reading started."""
        ...
