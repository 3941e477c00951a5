"""Embedding a shard's users: only what changed is embedded again, and a killed run goes on."""

import hashlib
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console

from ppd.errors import DamagedFile, InputError
from ppd.parts import this_part
from ppd.progress import progress_bar
from ppd.settings import EmbeddingSettings
from ppd.stage_times import peak_mib
from ppd.users.embeddings import read_rows, write_rows
from ppd.users.support import SupportGroup
from ppd.vlm.embedding import Writer, embed, support_key
from ppd.vlm.prompts import profile_conversation
from ppd.vlm.transformers_backend import TransformersVlm

CHUNK = 256
UNIT = 64
"""A process embeds so many groups in one go, or one batch if that is more."""
UNIT_WRITTEN = 256
"""The same where a server writes: it gets that many to write at a time."""

Row = dict[str, object]


@dataclass(frozen=True)
class Refreshed:
    """How many groups the file did not have, and how many it had."""

    embedded: int
    kept: int


@dataclass
class _Plan:
    """What a file is to hold, in order, and the units in which the groups that it does not have are embedded."""

    unfinished: Path
    wanted: list[tuple[str, int, str]] = field(default_factory=list)
    units: list[Path] = field(default_factory=list)
    planned: set[str] = field(default_factory=set)

    def extend(
        self, groups: Mapping[str, SupportGroup], known: Mapping[str, Row], size: int
    ) -> Iterator[tuple[Path, dict[str, SupportGroup]]]:
        """The units of some more groups by key, each with its file, which is named by what is in it."""
        missing = [key for key in groups if key not in known and key not in self.planned]
        self.planned.update(missing)
        for start in range(0, len(missing), size):
            keys = missing[start : start + size]
            unit = self.unfinished / f"{hashlib.sha256(''.join(keys).encode()).hexdigest()[:32]}.parquet"
            self.units.append(unit)
            yield unit, {key: groups[key] for key in keys}


def refresh(
    file: str | Path,
    groups: Iterable[SupportGroup],
    vlm: TransformersVlm,
    settings: EmbeddingSettings,
    unfinished: Path,
    *,
    total: int | None = None,
    writer: Writer | None = None,
) -> Refreshed:
    """Make `file` hold exactly the embeddings of `groups`, in their order.

    Groups are read a chunk at a time; what `file` holds already is looked up by content. The others are embedded in
    units that several processes share (`ppd.parts`), each kept in `unfinished`, from where a killed run goes on.
    total: how many groups there are, for the time that remains. writer: of the profiles (`embedding.embed`).
    """
    file, part = Path(file), this_part()
    unfinished.mkdir(parents=True, exist_ok=True)
    known, plan, remaining = _known(file), _Plan(unfinished), iter(groups)
    size = vlm.batch_size * max(1, (UNIT if writer is None else UNIT_WRITTEN) // vlm.batch_size)
    console = Console(stderr=True, quiet=not part.is_first)
    with progress_bar(console=console) as progress:
        words = "embed" if part.count == 1 else f"embed, {part.count} processes"
        task, seen, told = progress.add_task(words, total=total), 0, False
        while chunk := list(islice(remaining, CHUNK)):
            keys = [support_key(group.pairs, vlm.ref.revision, settings) for group in chunk]
            plan.wanted += [(group.user_id, group.support_group, key) for group, key in zip(chunk, keys, strict=True)]
            for unit, some in plan.extend(dict(zip(keys, chunk, strict=True)), known, size):
                if (len(plan.units) - 1) % part.count == part.rank and not _is_whole(unit):
                    if not told:
                        console.print(_forecast(some, vlm, settings, total), soft_wrap=True)
                    began = time.perf_counter()
                    write_rows(unit, _embed(some, vlm, settings, writer), vlm.ref)
                    if not told:
                        rate = len(some) / (time.perf_counter() - began) * part.count
                        console.print(_measured(rate, vlm, total), soft_wrap=True)
                        told = True
                progress.advance(task, len(some))  # the others are about as far
            seen += len(chunk)
            progress.update(task, completed=seen)
        part.wait_for_all()
    refreshed = Refreshed(len(plan.planned), len(plan.wanted) - len(plan.planned))
    if part.is_first:
        known |= {str(row["key"]): row for row in read_rows(plan.units)}
        rows = (known[key] | {"user_id": user, "support_group": group} for user, group, key in plan.wanted)
        write_rows(file, rows, vlm.ref)
        shutil.rmtree(unfinished)
    return refreshed


def _known(file: Path) -> dict[str, Row]:
    """The rows of a file by key; what is damaged is embedded again."""
    try:
        return {str(row["key"]): row for row in read_rows([file])}
    except DamagedFile as error:
        Console(stderr=True).print(f"{error}\nIts users are embedded again.", soft_wrap=True, markup=False)
        return {}


def _is_whole(unit: Path) -> bool:
    return unit.exists() and bool(_known(unit))


def _forecast(
    groups: Mapping[str, SupportGroup], vlm: TransformersVlm, settings: EmbeddingSettings, total: int | None
) -> str:
    """What is about to be read and written, from the first of the groups."""
    conversation = profile_conversation(next(iter(groups.values())).pairs, settings.prompt)
    of = f"{total} groups" if total is not None else "groups"
    return (
        f"{of}, each about {vlm.n_positions(conversation)} positions with {len(conversation.images)} images"
        + (f", and at most {settings.max_new_tokens} tokens written" if settings.max_new_tokens else "")
        + f"; {vlm.batch_size} at once"
    )


def _measured(rate: float, vlm: TransformersVlm, total: int | None) -> str:
    """What the first unit says of all."""
    on_gpu = vlm.model.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(vlm.model.device) / 1e9 if on_gpu else peak_mib() * (1 << 20) / 1e9
    needs = "" if total is None else f", so at most {total / rate / 60:.1f} min in all"
    return f"{rate:.2g} groups/s{needs}; peak memory {peak:.1f} GB a process"


def _embed(
    missing: Mapping[str, SupportGroup], vlm: TransformersVlm, settings: EmbeddingSettings, writer: Writer | None
) -> list[Row]:
    result = embed(vlm, [group.pairs for group in missing.values()], settings, writer)
    rows: list[Row] = []
    for (key, group), hidden, profile in zip(missing.items(), result.hidden, result.profiles, strict=True):
        if not hidden.isfinite().all():
            raise InputError(
                f"the embedding of user {group.user_id}, support group {group.support_group} is no number",
                fix="Look at this group's images, or set embedding.precision: fp32",
            )
        rows.append(
            {
                "user_id": group.user_id,
                "support_group": group.support_group,
                "key": key,
                "profile": profile,
                "shape": list(hidden.shape),
                "hidden": hidden.numpy().reshape(-1),
            }
        )
    return rows
