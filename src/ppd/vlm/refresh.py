"""Embedding a shard's users: only what changed is embedded again, and a killed run goes on."""

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ppd.errors import DamagedFile, InputError
from ppd.settings import EmbeddingSettings
from ppd.users.embeddings import read_rows, write_rows
from ppd.users.support import SupportGroup
from ppd.vlm.embedding import embed, support_key
from ppd.vlm.transformers_backend import TransformersVlm

CHUNK = 256


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
    unfinished: Path,
    *,
    total: int | None = None,
    save_every_s: float = 60,
) -> Refreshed:
    """Make `file` hold exactly the embeddings of `groups`, in their order.

    Groups are read a chunk at a time. What an earlier run embedded is looked up by content, there and in `unfinished`,
    where a killed run left its part.
    total: how many groups there are, for the time that remains.
    """
    file = Path(file)
    unfinished.mkdir(parents=True, exist_ok=True)
    known = _known([file, *sorted(unfinished.iterdir())])
    wanted: list[tuple[str, int, str]] = []
    fresh: list[dict[str, object]] = []
    embedded = 0
    saved = time.monotonic()
    remaining = iter(groups)
    with Progress(*Progress.get_default_columns(), console=Console(stderr=True)) as progress:
        task = progress.add_task("embed", total=total)
        while chunk := list(islice(remaining, CHUNK)):
            keys = [support_key(group.pairs, vlm.ref.revision, settings) for group in chunk]
            wanted += [(group.user_id, group.support_group, key) for group, key in zip(chunk, keys, strict=True)]
            missing = {key: group for group, key in zip(chunk, keys, strict=True) if key not in known}
            progress.advance(task, len(chunk) - len(missing))
            for row in _embed(missing, vlm, settings):
                known[str(row["key"])] = row
                fresh.append(row)
                embedded += 1
                progress.advance(task)
                if time.monotonic() - saved > save_every_s:
                    write_rows(unfinished / f"{fresh[0]['key']}.parquet", fresh, vlm.ref)
                    fresh, saved = [], time.monotonic()
    rows = [known[key] | {"user_id": user, "support_group": group} for user, group, key in wanted]
    write_rows(file, rows, vlm.ref)
    shutil.rmtree(unfinished)
    return Refreshed(embedded, len(wanted) - embedded)


def _known(files: Iterable[Path]) -> dict[str, dict[str, object]]:
    """The rows of these files by key; what is damaged is embedded again."""
    known: dict[str, dict[str, object]] = {}
    for file in files:
        try:
            known |= {str(row["key"]): row for row in read_rows([file])}
        except DamagedFile as error:
            Console(stderr=True).print(f"{error}\nIts users are embedded again.", soft_wrap=True, markup=False)
    return known


def _embed(
    missing: dict[str, SupportGroup], vlm: TransformersVlm, settings: EmbeddingSettings
) -> Iterator[dict[str, object]]:
    for start in range(0, len(missing), vlm.batch_size):
        some = dict(islice(missing.items(), start, start + vlm.batch_size))
        result = embed(vlm, [group.pairs for group in some.values()], settings)
        for (key, group), hidden, profile in zip(some.items(), result.hidden, result.profiles, strict=True):
            if not hidden.isfinite().all():
                raise InputError(
                    f"the embedding of user {group.user_id}, support group {group.support_group} is no number",
                    fix="Look at this group's images, or set embedding.precision: fp32",
                )
            yield {
                "user_id": group.user_id,
                "support_group": group.support_group,
                "key": key,
                "profile": profile,
                "shape": list(hidden.shape),
                "hidden": hidden.numpy().reshape(-1),
            }
