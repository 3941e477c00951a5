"""What visitors choose between: pictures that the base drew, and what choosing one over another would say of somebody.

Drawn once for a base and kept, then read in pairs by the vision-language model. For pictures x, y of a caption

    direction = (embedding of one who prefers x to y − embedding of one who prefers y to x) / 2

is where the choice moves a visitor, in the very space that the adapter reads. Near-identical pictures have a short one,
wholly unlike ones a long one that says everything at once: both are left out.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ppd.errors import InputError
from ppd.files import atomic_path
from ppd.studio.database import Database
from ppd.studio.models import Models, Wish
from ppd.users.support import Pair

PICTURES_A_CAPTION = 12
PAIRS_A_CAPTION = 30
MAX_CAPTIONS = 24
LEFT_OUT = 0.1
"""Share of the pairs left out at either end of the lengths."""


@dataclass(frozen=True)
class Pool:
    """P pairs of pictures. first, second: ids in the database; captions; directions [P, D] in the embedding's space."""

    captions: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]
    directions: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Captions:
    """What the pool is drawn for, and what visitors judge by: captions that no adapter was trained on, if there are."""

    pool: tuple[str, ...]
    blind: tuple[str, ...]

    @classmethod
    def of(cls, preferences: Path, own: Path | None) -> "Captions":
        """Those of the log at `preferences`, at most `MAX_CAPTIONS` each; or the lines of a file of one's own."""
        if own is not None:
            try:
                lines = [line.strip() for line in own.read_text(encoding="utf-8").splitlines() if line.strip()]
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"cannot be read as text ({error})", file=own) from error
            if len(set(lines)) < 8:
                raise InputError(f"{len(set(lines))} captions; expected at least 8, one a line", file=own)
            chosen = _some(lines)
            return cls(chosen, chosen)
        file = preferences / "captions.parquet"
        if not file.exists():
            raise InputError(
                "no captions to draw for", file=file, fix="Run `ppd stage ingest`, or name a file with --captions"
            )
        table = pd.read_parquet(file)
        pool = _some(table.caption[table.split == "train"])
        return cls(pool, _some(table.caption[table.split == "eval"]) or pool)


def _some(captions: Iterable[str]) -> tuple[str, ...]:
    """The same few whatever their order: by hash, so that they are a fair sample of a long list."""
    ordered = sorted(set(captions), key=lambda caption: hashlib.sha256(caption.encode()).digest())
    return tuple(ordered[:MAX_CAPTIONS])


class Preparation:
    """Makes the pool piece by piece, a piece a caption; what is made is kept under `folder` and not made again."""

    def __init__(self, models: Models, database: Database, captions: Sequence[str], folder: Path) -> None:
        self._models, self._database = models, database
        self._captions = tuple(captions)
        drawn_by = json.dumps([models.sampling, PICTURES_A_CAPTION])
        self._folder = folder / f"{models.base}-{hashlib.sha256(drawn_by.encode()).hexdigest()[:8]}"
        self._folder.mkdir(parents=True, exist_ok=True)

    def pieces(self) -> list[int]:
        """Which captions, by number, are still to be prepared."""
        return [at for at in range(len(self._captions)) if not self._pairs_file(at).exists()]

    def prepare(self, at: int) -> None:
        """Draw one caption's pictures, if they are not there, and let the vision-language model read their pairs."""
        caption = self._captions[at]
        file = self._pictures_file(at)
        if not file.exists():
            images = self._models.draw([Wish(caption, seed) for seed in range(PICTURES_A_CAPTION)])
            with atomic_path(file) as fresh:
                pd.DataFrame({"image": images}).to_parquet(fresh, index=False)
        images = pd.read_parquet(file).image.tolist()
        pairs = list(itertools.combinations(range(len(images)), 2))
        order = np.random.default_rng(0).permutation(len(pairs))[:PAIRS_A_CAPTION]
        chosen = [pairs[int(i)] for i in order]
        told = [Pair(caption, images[x], images[y]) for pair in chosen for x, y in (pair, pair[::-1])]
        embeddings, _ = self._models.read([[pair] for pair in told])
        towards, away = embeddings.flatten(1).double().unflatten(0, (len(chosen), 2)).unbind(1)
        directions = ((towards - away) / 2).numpy()
        rows = [{"first": x, "second": y, "direction": row} for (x, y), row in zip(chosen, directions, strict=True)]
        with atomic_path(self._pairs_file(at)) as fresh:
            pd.DataFrame(rows).to_parquet(fresh, index=False)

    def finish(self) -> Pool:
        """The whole pool, its pictures in the database."""
        columns: list[tuple[str, str, str, NDArray[np.float64]]] = []
        with self._database.change():
            for at, caption in enumerate(self._captions):
                images = pd.read_parquet(self._pictures_file(at)).image.tolist()
                ids = [self._keep(caption, seed, image) for seed, image in enumerate(images)]
                pairs = pd.read_parquet(self._pairs_file(at))
                for first, second, direction in zip(pairs["first"], pairs["second"], pairs.direction, strict=True):
                    columns.append((caption, ids[first], ids[second], np.asarray(direction, dtype=np.float64)))
        lengths = np.array([np.linalg.norm(direction) for *_, direction in columns])
        low, high = np.quantile(lengths, [LEFT_OUT, 1 - LEFT_OUT])
        kept = [column for column, length in zip(columns, lengths, strict=True) if low <= length <= high]
        captions, first_ids, second_ids, directions = zip(*kept, strict=True)
        return Pool(captions, first_ids, second_ids, np.stack(directions))

    def _keep(self, caption: str, seed: int, image: bytes) -> str:
        """The picture in the database, under the same id each time."""
        name = hashlib.sha256(image).hexdigest()[:24]
        self._database.run(
            "INSERT INTO pictures (id, model, caption, seed, made, image) VALUES (?, 'base', ?, ?, ?, ?)"
            " ON CONFLICT (id) DO NOTHING",
            *(name, caption, seed, self._models.made(), image),
        )
        return name

    def _pictures_file(self, at: int) -> Path:
        return self._folder / f"pictures-{_short(self._captions[at])}.parquet"

    def _pairs_file(self, at: int) -> Path:
        return self._folder / f"pairs-{_short(self._captions[at])}-{_short(self._models.reading)}.parquet"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
