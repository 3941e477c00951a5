"""Users' embeddings as the vision-language model left them: a parquet file a shard."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ppd.errors import InputError
from ppd.files import atomic_path
from ppd.stored_tables import read_table, reading, write_table

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


def write_rows(file: Path, rows: Sequence[dict[str, object]], vlm: VlmRef) -> None:
    """Write rows of `SCHEMA`, all of them by one model, whole or not at all."""
    with atomic_path(file) as fresh:
        write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA.with_metadata(asdict(vlm))), fresh)


def read_rows(files: Iterable[Path]) -> list[dict[str, object]]:
    """Rows of the files that are there; the hidden states stay arrays."""
    rows: list[dict[str, object]] = []
    for file in files:
        if file.suffix != ".parquet" or not file.exists():
            continue
        table = read_table(file, schema=SCHEMA)
        hidden = table["hidden"].combine_chunks()
        offsets, values = hidden.offsets.to_numpy(), hidden.values.to_numpy()
        for i, row in enumerate(table.drop_columns(["hidden"]).to_pylist()):
            rows.append(row | {"hidden": values[offsets[i] : offsets[i + 1]]})
    return rows


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


def load_embeddings(files: Iterable[str | Path]) -> UserEmbeddings:
    """Read the shards' files. Raises InputError where one is missing or two do not fit together."""
    paths = [Path(file) for file in files]
    for path in paths:
        if not path.exists():
            raise InputError("no embeddings here", file=path, fix="Run `ppd stage embed` for every shard first")
    models = {_model_of(path) for path in paths}
    rows = sorted(read_rows(paths), key=lambda row: (row["user_id"], row["support_group"]))
    shapes: set[tuple[int, ...]] = {tuple(row["shape"]) for row in rows}  # type: ignore[arg-type]
    if len(shapes) > 1:
        raise InputError(f"shards hold embeddings of different shapes {sorted(shapes)}", fix="Embed every shard again")
    if len(models) != 1:
        raise InputError(f"shards hold embeddings of {len(models)} models", fix="Embed every shard again")
    hidden: dict[str, list[Tensor]] = {}
    profiles: dict[str, list[str]] = {}
    for row in rows:
        user = str(row["user_id"])
        array = np.array(row["hidden"]).reshape(row["shape"])  # type: ignore[call-overload]
        if not np.isfinite(array).all():
            raise InputError(f"the embedding of user {user} is no number", fix="Delete their shard and embed it again")
        hidden.setdefault(user, []).append(torch.from_numpy(array))
        profiles.setdefault(user, []).append(str(row["profile"]))
    return UserEmbeddings(
        {user: torch.stack(groups) for user, groups in hidden.items()},
        {user: tuple(texts) for user, texts in profiles.items()},
        models.pop(),
    )
