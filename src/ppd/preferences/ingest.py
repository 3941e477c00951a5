"""Ingestion: a log of choices in, clean and split preferences out."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow as pa

from ppd.errors import InputError
from ppd.files import writing
from ppd.preferences.cleaning import Cleaner, Pair
from ppd.preferences.enough import check_enough
from ppd.preferences.folder import Folder
from ppd.preferences.journal import Journal, Limits, open_journal
from ppd.preferences.pick_a_pic import PickAPic
from ppd.preferences.rows import Refusal, Source
from ppd.preferences.schema import INDEX, PAIRS, SUPPORT_PAIRS
from ppd.preferences.splits import SUPPORT, Splits, assign, shard_names
from ppd.preferences.store import IMAGE_INDEX
from ppd.preferences.studio import Studio
from ppd.progress import progress_bar
from ppd.settings import PreferenceSettings
from ppd.stored_tables import write_table

Summary = dict[str, object]
_GROUP_PAIRS = 1 << 17  # rows a row group of pairs.parquet


def open_source(settings: PreferenceSettings, source: Path) -> Source:
    """The reader that `settings.source_format` names. Raises `InputError` when the source is not of that format."""
    if not source.exists():
        raise InputError("there is no such file or folder; expected the log of choices", file=source)
    if settings.source_format == "folder":
        return Folder.open(source, settings.max_image_pixels, settings.columns)
    if settings.source_format == "studio":
        return Studio.open(source)
    return PickAPic.open(source)


def ingest(
    settings: PreferenceSettings,
    source: Path,
    out_dir: Path,
    *,
    workers: int | None = None,
    limits: Limits | None = None,
    for_training: bool = False,
) -> Summary:
    """Read the log at `source`, clean and split it, and put `ppd.preferences.schema`'s tables into `out_dir`.

    Writes images/part-NNNNN.parquet (each image once, as it came), image_index.parquet, pairs.parquet, users.parquet,
    captions.parquet, support/s-NN.parquet, refused.parquet and summary.json; returns the summary. `out_dir` appears as
    a whole, replacing an older one, or not at all. A run that was killed goes on from its last finished part
    (`ppd.preferences.journal`), with the same result.

    Memory: a batch of images, the pages of the shard that are being read (pyarrow writes pages of up to 1,024 images),
    and about 0.9 kB a pair; `bench/ingest.py` measures it. `workers` threads decode (all cores by default; Pillow and
    hashing release the interpreter's lock) and do not change the result.

    Raises `InputError` for an unreadable source, for more than `max_refused_share` of the rows refused (as soon as
    that is certain), and when nobody has enough pairs for one support group; `for_training`, also when there is too
    little for the stages that follow (`ppd.preferences.enough`).
    """
    log = open_source(settings, source)
    if log.n_rows == 0:
        raise InputError("the log has no rows", file=source)
    with (
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
        open_journal(out_dir, settings.model_dump(mode="json"), log, limits) as journal,
    ):
        cleaner = Cleaner(settings.max_image_pixels, pool)
        _clean(log, journal, cleaner, settings.max_refused_share)
        pairs = journal.pairs().to_pandas()
        splits = assign(pairs, settings)
        if splits.users.empty:
            raise InputError(
                f"of {journal.counts['read']} rows {len(pairs)} can be used, but no user has {settings.pairs_per_group}"
                " pairs with training captions and images of their own, which one support group needs",
                file=source,
                fix="Lower pairs_per_group or eval_caption_share, or give more choices",
            )
        if for_training:
            check_enough(splits, pairs["user_id"].nunique(), settings, source)
        summary = _summary(settings, journal.counts, len(pairs), splits)
        with writing(out_dir):
            _write_tables(journal.folder, splits)
            _write_index(journal.folder / IMAGE_INDEX, cleaner.digests)
            _write_support(journal.folder / "support", splits, cleaner.digests, settings.n_shards)
            journal.write_refused(journal.folder / "refused.parquet")
            (journal.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
            journal.publish(out_dir)
    return summary


def _clean(log: Source, journal: Journal, cleaner: Cleaner, max_refused_share: float) -> None:
    """Take every row of the log that the journal does not have yet through the cleaner."""
    if journal.has_parts:
        cleaner.remember(_stored_pairs(journal.pairs()), journal.digests())
    examples: dict[str, Refusal] = {}
    _check_share(journal.counts, log, max_refused_share, examples)
    with progress_bar() as progress:
        task = progress.add_task("ingest", total=log.n_rows, completed=journal.counts["read"])
        for batch in log.batches(journal.position):
            cleaned = cleaner.clean(batch.rows)
            with writing(journal.folder):
                journal.add(cleaned, len(batch.rows), batch.after)
            for refusal in cleaned.refused:
                examples.setdefault(refusal.reason, refusal)
            _check_share(journal.counts, log, max_refused_share, examples)
            progress.advance(task, len(batch.rows))
    with writing(journal.folder):
        journal.finish_part()


def _stored_pairs(table: pa.Table) -> list[Pair]:
    columns = [table["created_at"].cast(pa.int64()) if name == "created_at" else table[name] for name in PAIRS.names]
    return [Pair(*values) for values in zip(*(column.to_pylist() for column in columns), strict=True)]


def _check_share(counts: Counter[str], log: Source, max_share: float, examples: dict[str, Refusal]) -> None:
    if counts["refused"] <= max_share * log.n_rows:
        return
    reasons = Counter(_under("refused.", counts))
    listed = "; ".join(f"{n} x {reason}{_example(examples.get(reason))}" for reason, n in reasons.most_common(5))
    raise InputError(
        f"{counts['refused']} of the first {counts['read']} rows are refused, more than {max_share:.1%} of all"
        f" {log.n_rows}: {listed}",
        file=log.root,
        fix="Repair the log, or raise max_refused_share if it is meant to be like this",
    )


def _example(refusal: Refusal | None) -> str:
    return f", as in {refusal.file} row {refusal.row} ({refusal.detail})" if refusal else ""


def _under(prefix: str, counts: Counter[str]) -> dict[str, int]:
    return {name.removeprefix(prefix): n for name, n in sorted(counts.items()) if name.startswith(prefix)}


def _write_tables(folder: Path, splits: Splits) -> None:
    def write(name: str, frame: pd.DataFrame, schema: pa.Schema) -> None:
        table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata(None)
        write_table(table, folder / name, row_group_size=_GROUP_PAIRS)

    role = [("role", pa.string()), ("support_group", pa.int32())]
    users = [("user_id", pa.string()), ("split", pa.string()), ("shard", pa.string())]
    sizes = [("n_pairs", pa.int32()), ("n_support_groups", pa.int32())]
    write("pairs.parquet", splits.pairs, pa.schema([*PAIRS, *(pa.field(*field) for field in role)]))
    write("users.parquet", splits.users, pa.schema(users + sizes))
    write("captions.parquet", splits.captions, pa.schema([("caption", pa.string()), ("split", pa.string())]))


def _write_index(file: Path, digests: Mapping[str, bytes]) -> None:
    """All images in the order in which they are stored, so that nobody has to open every part to find one."""
    columns = [
        pa.array(list(values), field.type) for values, field in zip((digests, digests.values()), INDEX, strict=True)
    ]
    write_table(pa.table(columns, schema=INDEX), file)


def _write_support(folder: Path, splits: Splits, digests: Mapping[str, bytes], n_shards: int) -> None:
    """A file a shard, so that one user's change is a change for one shard of embeddings and for no other."""
    support = splits.pairs[splits.pairs["role"] == SUPPORT].sort_values(["user_id", "support_group", "pair_id"])
    support = support.assign(
        chosen_digest=support["chosen_uid"].map(digests), rejected_digest=support["rejected_uid"].map(digests)
    )
    shard = support["user_id"].map(splits.users.set_index("user_id")["shard"])
    folder.mkdir()
    for name in shard_names(n_shards):
        table = pa.Table.from_pandas(support[shard == name], schema=SUPPORT_PAIRS, preserve_index=False)
        write_table(table.replace_schema_metadata(None), folder / f"{name}.parquet")


def _summary(settings: PreferenceSettings, counts: Counter[str], n_cleaned: int, splits: Splits) -> Summary:
    """Counts that add up: rows = pairs + the sum of dropped + the sum of refused."""

    def tally(values: pd.Series) -> dict[str, int]:
        return {str(value): int(n) for value, n in values.value_counts().sort_index().items()}

    return {
        "n_rows": counts["read"],
        "n_pairs": len(splits.pairs),
        "n_users": len(splits.users),
        "n_images": counts["images"],
        "n_captions": len(splits.captions),
        "dropped": {**_under("dropped.", counts), "few_pairs": n_cleaned - len(splits.pairs)},
        "refused": _under("refused.", counts),
        "users": tally(splits.users["split"]),
        "roles": tally(splits.pairs["role"]),
        "captions": tally(splits.captions["split"]),
        "n_support_groups": int(splits.users["n_support_groups"].sum()),
        "settings": settings.model_dump(mode="json"),
    }
