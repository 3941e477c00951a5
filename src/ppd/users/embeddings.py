"""People's embeddings in a parquet file a shard: only what changed is embedded again, and a killed run goes on."""

import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from ppd.errors import InputError
from ppd.files import atomic_path
from ppd.settings import EmbeddingSettings
from ppd.vlm.conversation import Pair
from ppd.vlm.embedding import embed, support_key
from ppd.vlm.transformers_backend import TransformersVlm

SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("support_group", pa.int32()),
        ("key", pa.string()),
        ("profile", pa.string()),
        ("shape", pa.list_(pa.int32(), 2)),
        ("hidden", pa.list_(pa.float32())),
    ]
)
"""embeddings.parquet: `key` names all that the embedding depends on; `hidden` is [rows, dim] flat, not whitened."""

CHUNK = 256


@dataclass(frozen=True)
class SupportGroup:
    """One group of pairs of one person."""

    user_id: str
    support_group: int
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Refreshed:
    """How many groups were embedded and how many were there already."""

    embedded: int
    kept: int


def refresh(
    file: str | Path,
    groups: Iterable[SupportGroup],
    vlm: TransformersVlm,
    settings: EmbeddingSettings,
    *,
    total: int | None = None,
    save_every_s: float = 60,
) -> Refreshed:
    """Make `file` hold exactly the embeddings of `groups`, in their order.

    Groups are read a chunk at a time. What an earlier run embedded, even one that was killed, is looked up by content.
    total: how many groups there are, for the time that remains.
    """
    file = Path(file)
    unfinished = file.parent / f".{file.name}.parts"
    unfinished.mkdir(parents=True, exist_ok=True)
    known: dict[str, dict[str, object]] = {str(row["key"]): row for row in _rows([file, *sorted(unfinished.iterdir())])}
    wanted: list[tuple[str, int, str]] = []
    fresh: list[dict[str, object]] = []
    embedded = 0
    saved = time.monotonic()
    remaining = iter(groups)
    with Progress(*Progress.get_default_columns(), console=Console(stderr=True)) as progress:
        task = progress.add_task("embed", total=total)
        while chunk := list(islice(remaining, CHUNK)):
            keys = [support_key(group.pairs, vlm.revision, settings) for group in chunk]
            wanted += [(group.user_id, group.support_group, key) for group, key in zip(chunk, keys, strict=True)]
            missing = {key: group for group, key in zip(chunk, keys, strict=True) if key not in known}
            progress.advance(task, len(chunk) - len(missing))
            for row in _embed(missing, vlm, settings):
                known[str(row["key"])] = row
                fresh.append(row)
                embedded += 1
                progress.advance(task)
                if time.monotonic() - saved > save_every_s:
                    _write(unfinished / f"{fresh[0]['key']}.parquet", fresh)
                    fresh, saved = [], time.monotonic()
    rows = [known[key] | {"user_id": user, "support_group": group} for user, group, key in wanted]
    _write(file, rows)
    shutil.rmtree(unfinished)
    return Refreshed(embedded, len(wanted) - embedded)


def _embed(
    missing: dict[str, SupportGroup], vlm: TransformersVlm, settings: EmbeddingSettings
) -> Iterator[dict[str, object]]:
    for start in range(0, len(missing), vlm.batch_size):
        some = dict(islice(missing.items(), start, start + vlm.batch_size))
        result = embed(vlm, [group.pairs for group in some.values()], settings)
        for (key, group), hidden, profile in zip(some.items(), result.hidden, result.profiles, strict=True):
            yield {
                "user_id": group.user_id,
                "support_group": group.support_group,
                "key": key,
                "profile": profile,
                "shape": list(hidden.shape),
                "hidden": hidden.numpy().reshape(-1),
            }


def _write(file: Path, rows: Sequence[dict[str, object]]) -> None:
    with atomic_path(file) as fresh:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), fresh)


def _rows(files: Iterable[Path]) -> list[dict[str, object]]:
    """Rows of the files that are there; the hidden states stay arrays."""
    rows: list[dict[str, object]] = []
    for file in files:
        if file.suffix != ".parquet" or not file.exists():
            continue
        table = pq.read_table(file, schema=SCHEMA)
        hidden = table["hidden"].combine_chunks()
        offsets, values = hidden.offsets.to_numpy(), hidden.values.to_numpy()
        for i, row in enumerate(table.drop_columns(["hidden"]).to_pylist()):
            rows.append(row | {"hidden": values[offsets[i] : offsets[i + 1]]})
    return rows


@dataclass(frozen=True)
class People:
    """Embeddings [groups, rows, dim] of each user, in the order of their support groups, and their written profiles."""

    hidden: dict[str, Tensor]
    profiles: dict[str, tuple[str, ...]]


def load_people(files: Iterable[str | Path]) -> People:
    """Read the shards' files. Raises InputError where one is missing or two do not fit together."""
    paths = [Path(file) for file in files]
    for path in paths:
        if not path.exists():
            raise InputError("no embeddings here", file=path, fix="Run `ppd stage embed` for every shard first")
    rows = sorted(_rows(paths), key=lambda row: (row["user_id"], row["support_group"]))
    shapes: set[tuple[int, ...]] = {tuple(row["shape"]) for row in rows}  # type: ignore[arg-type]
    if len(shapes) > 1:
        raise InputError(f"shards hold embeddings of different shapes {sorted(shapes)}", fix="Embed every shard again")
    hidden: dict[str, list[Tensor]] = {}
    profiles: dict[str, list[str]] = {}
    for row in rows:
        user = str(row["user_id"])
        array = np.array(row["hidden"]).reshape(row["shape"])  # type: ignore[call-overload]
        hidden.setdefault(user, []).append(torch.from_numpy(array))
        profiles.setdefault(user, []).append(str(row["profile"]))
    return People(
        {user: torch.stack(groups) for user, groups in hidden.items()},
        {user: tuple(texts) for user, texts in profiles.items()},
    )
