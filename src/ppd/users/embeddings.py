"""Users' embeddings as the vision-language model left them: a parquet file a shard."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ppd.errors import InputError
from ppd.files import atomic_path
from ppd.stored_tables import read_frame, reading

ROWS_AT_ONCE = 256

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


@dataclass(frozen=True)
class VlmRef:
    """The vision-language model that embeddings come from: where it was, and a hash or commit of its content."""

    id: str
    revision: str


def write_rows(file: Path, rows: Iterable[dict[str, object]], vlm: VlmRef) -> None:
    """Write rows of `SCHEMA`, all of them by one model, whole or not at all; a few hundred in memory at a time."""
    schema, remaining = SCHEMA.with_metadata(asdict(vlm)), iter(rows)
    with atomic_path(file) as fresh, pq.ParquetWriter(fresh, schema, write_page_checksum=True) as writer:
        while some := list(islice(remaining, ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))


def read_rows(files: Iterable[Path]) -> Iterator[dict[str, object]]:
    """Rows of the files that are there, a few hundred in memory at a time; the hidden states stay arrays."""
    for file in files:
        if file.suffix != ".parquet" or not file.exists():
            continue
        # Without pre_buffer a column is read as it is asked for, however long its row group is.
        with (
            reading(file),
            pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True) as stored,
        ):
            for batch in stored.iter_batches(ROWS_AT_ONCE, use_threads=False):
                hidden = batch["hidden"]
                offsets, values = hidden.offsets.to_numpy(), hidden.values.to_numpy()
                for i, row in enumerate(batch.drop_columns(["hidden"]).to_pylist()):
                    yield row | {"hidden": values[offsets[i] : offsets[i + 1]]}


def _model_of(file: Path) -> VlmRef:
    with reading(file):
        metadata = pq.read_schema(file).metadata or {}
    if b"revision" not in metadata:
        raise InputError("it does not say which model made it", file=file, fix="Run `ppd stage embed` for it again")
    return VlmRef(metadata[b"id"].decode(), metadata[b"revision"].decode())


@dataclass(frozen=True)
class UserEmbeddings:
    """Embeddings [groups, rows, dim] of each user, in the order of their support groups, and their written profiles."""

    hidden: dict[str, Tensor]
    profiles: dict[str, tuple[str, ...]]
    vlm: VlmRef


def each_user(files: Iterable[str | Path]) -> Iterator[tuple[str, Tensor, tuple[str, ...]]]:
    """(user_id, embeddings, profiles) as in `UserEmbeddings`, of one user after another.

    Raises InputError where a file is missing or two do not fit together.
    """
    paths = [Path(file) for file in files]
    _one_model(paths)
    shape: tuple[int, ...] | None = None
    for user_id, rows in groupby(read_rows(paths), key=lambda row: str(row["user_id"])):
        groups = sorted(rows, key=lambda row: int(row["support_group"]))  # type: ignore[call-overload]
        shapes: set[tuple[int, ...]] = {tuple(row["shape"]) for row in groups} | ({shape} if shape else set())  # type: ignore[arg-type]
        if len(shapes) > 1:
            raise InputError(
                f"shards hold embeddings of different shapes {sorted(shapes)}", fix="Embed every shard again"
            )
        (shape,) = shapes
        hidden = np.stack([np.asarray(row["hidden"]).reshape(shape) for row in groups])
        if not np.isfinite(hidden).all():
            raise InputError(
                f"the embedding of user {user_id} is no number", fix="Delete their shard and embed it again"
            )
        yield user_id, torch.from_numpy(hidden), tuple(str(row["profile"]) for row in groups)


def load_embeddings(files: Iterable[str | Path]) -> UserEmbeddings:
    """All users' at once, by user_id. Raises as `each_user` does."""
    paths = [Path(file) for file in files]
    users = sorted(each_user(paths), key=lambda user: user[0])
    hidden = {user_id: embeddings for user_id, embeddings, _ in users}
    return UserEmbeddings(hidden, {user_id: profiles for user_id, _, profiles in users}, _one_model(paths))


def load_profiles(files: Iterable[Path]) -> dict[str, tuple[str, ...]]:
    """What was written of each user, without their embeddings."""
    columns = ["user_id", "support_group", "profile"]
    table = pd.concat([read_frame(file, columns) for file in files]).sort_values(columns[:2])
    return {str(user_id): tuple(profiles) for user_id, profiles in table.groupby("user_id").profile}


def _one_model(paths: list[Path]) -> VlmRef:
    """The one that all of these files are of."""
    for path in paths:
        if not path.exists():
            raise InputError("no embeddings here", file=path, fix="Run `ppd stage embed` for every shard first")
    models = {_model_of(path) for path in paths}
    if len(models) != 1:
        raise InputError(f"shards hold embeddings of {len(models)} models", fix="Embed every shard again")
    return models.pop()
