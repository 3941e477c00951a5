"""Single users: a view of the shards with one dynamic partition for each user on a watch list.

DVC embeds shards, and inside a shard only what changed, so a user is no stage and no stage's partition. Here a user
can be found, looked at and embedded again alone; what happened is the shard's, and the shard's events say so too.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import dagster as dg
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,  # what define_asset_job gives
)

from orchestration import dvc_process
from orchestration.background import Background, StillWorking
from orchestration.dvc_assets import RunOptions, read_state
from orchestration.dvc_graph import Graph, Item, group_name
from orchestration.dvc_lock import BROKEN
from orchestration.dvc_state import Locked, Workspace, read_lock, read_workspace
from orchestration.metadata import describe_user
from orchestration.reporting import ABSENT, OBSERVED, Tags, input_tags, known, unreported_events, version_tags
from orchestration.sensors import SECONDS_PER_TICK
from orchestration.user_map import read_user_map
from ppd.files import atomic_path
from ppd.preferences.store import Preferences

WATCHED_USERS = ("watched_users",)
WATCH_LIST = dg.DynamicPartitionsDefinition(name="watched_users")
MAX_WATCHED = 200
"""Each user is an event when their embedding changes, at 25-45 ms; the shards hold all users all the same."""
FIRST_WATCHED = 6

MAX_ATTEMPTS, RUNS_LOOKED_AT = 3, 25
CHANGE_TAG = "ppd/change"
"""Which change of the log or of a shard a run is for."""

EMBED, INGEST = "embed", "ingest"
SHARDS = ("artifacts", "users")
MANIFEST = ("artifacts", "users.parquet")
PREFERENCES = ("artifacts", "preferences")
DATA = ("data/choices", "artifacts/")


@dataclass(frozen=True)
class UserIndex:
    """Which users there are, and which are embedded, as the files say now."""

    shard_of: pd.Series
    """user_id -> shard, of all users in the preferences."""
    versions: pd.Series
    """user_id -> version of all their embeddings, of all users in a shard."""

    @property
    def arrived(self) -> list[str]:
        """Users without an embedding in a shard that has been embedded before."""
        embedded = self.shard_of[self.shard_of.index.isin(self.versions.index)]
        waiting = self.shard_of[~self.shard_of.index.isin(self.versions.index)]
        return sorted(waiting.index[waiting.isin(embedded.unique())])


def read_user_index(root: Path) -> UserIndex:
    """Raises FileNotFoundError before the first ingestion."""
    users = pd.read_parquet(root.joinpath(*PREFERENCES, "users.parquet"), columns=["user_id", "shard"])
    files = sorted(root.joinpath(*SHARDS).glob("*/embeddings.parquet"))
    keys = [pd.read_parquet(file, columns=["user_id", "key"]) for file in files]
    rows = pd.concat(keys) if keys else pd.DataFrame({"user_id": [], "key": []})
    versions = rows.groupby("user_id").key.agg(lambda of_user: _digest(dict.fromkeys(of_user, "")))
    return UserIndex(users.set_index("user_id").shard, versions)


def build_users(
    graph: Graph,
) -> tuple[Sequence[dg.AssetsDefinition], Sequence[UnresolvedAssetJobDefinition], Sequence[dg.SensorDefinition]]:
    """The asset of single users, the jobs and the sensors that notice and embed new ones."""
    inputs = [dg.AssetKey(tracked.key) for tracked in graph.tracked]
    jobs = (
        dg.define_asset_job("ingest_log", selection=dg.AssetSelection.assets(*inputs, dg.AssetKey(PREFERENCES))),
        dg.define_asset_job("embed_shard", selection=dg.AssetSelection.assets(dg.AssetKey(SHARDS))),
    )
    return [_watched_users(graph)], jobs, [_watch(graph), _embed_arrivals(graph, jobs)]


def _watched_users(graph: Graph) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name="watched_users",
        specs=[
            dg.AssetSpec(
                dg.AssetKey(WATCHED_USERS),
                deps=[dg.AssetKey(MANIFEST)],
                code_version=OBSERVED,
                description="One user of a shard: taste as the model reads it, place among the others, pictures. "
                "Materialising embeds what has changed of this user's shard; with `force`, this user again. "
                "To watch another user, add the user_id as a partition.",
                group_name=group_name(graph, "users"),
                kinds={"parquet"},
            )
        ],
        partitions_def=WATCH_LIST,
    )
    def embed_user(context: dg.AssetExecutionContext, config: RunOptions) -> Iterator[dg.MaterializeResult[None]]:
        user_id = context.partition_key
        item = _shard_item(graph, read_user_index(graph.root), user_id)
        if config.force:
            _forget(graph.root / item.outs[0] / "embeddings.parquet", user_id)
        outcomes = dvc_process.repro(graph.root, [item.address], context.log.info)
        for event in unreported_events(read_state(graph, context.instance)):
            context.instance.report_runless_asset_event(event)
        yield dg.MaterializeResult(
            dg.AssetKey(WATCHED_USERS),
            tags=_all_tags(graph, read_user_index(graph.root), [user_id])[user_id],
            metadata={"outcome": outcomes.get(item.address, "skipped"), **describe_user(graph.root, user_id)},
        )

    return embed_user


def _watch(graph: Graph, interval_s: int = 30) -> dg.SensorDefinition:
    mapping = Background(lambda: read_user_map(graph.root))

    @dg.sensor(
        name="watched_users",
        minimum_interval_seconds=interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Puts newly arrived users on the watch list, and reports those on it whose embedding changed.",
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        if not graph.root.joinpath(*PREFERENCES, "support").exists():
            return dg.SkipReason("There are no users before the first ingestion.")
        user_index = read_user_index(graph.root)
        watched = context.instance.get_dynamic_partitions(WATCH_LIST.name or "")
        new = user_index.arrived or ([] if watched else user_index.versions.index[:FIRST_WATCHED].tolist())
        new = [user_id for user_id in new if user_id not in watched and "..." not in user_id]  # a range to Dagster
        new = new[: MAX_WATCHED - len(watched)]
        if new:
            context.instance.add_dynamic_partitions(WATCH_LIST.name or "", new)
        tags = _all_tags(graph, user_index, [*watched, *new])
        changed = [user for user, own in tags.items() if not known(context.instance, WATCHED_USERS, user, own)]
        if changed:
            try:
                mapping.result(SECONDS_PER_TICK)
            except StillWorking:
                return dg.SkipReason("The map of users is being made, until the next tick.")
            preferences = Preferences.open(graph.root.joinpath(*PREFERENCES))
        started = time.monotonic()
        for done, user_id in enumerate(changed):
            if done and time.monotonic() - started > SECONDS_PER_TICK:
                return dg.SkipReason(f"Reported {done} users; {len(changed) - done} at the next tick.")
            shown = describe_user(graph.root, user_id, preferences)
            context.instance.report_runless_asset_event(  # at once, so that what is done stays done
                dg.AssetMaterialization(
                    dg.AssetKey(WATCHED_USERS), partition=user_id, tags=tags[user_id], metadata=shown
                )
            )
        if not new and not changed:
            return dg.SkipReason("No user is new or has changed.")
        return dg.SkipReason(f"New on the watch list: {len(new)}. Reported: {len(changed)}.")

    return sense


def _embed_arrivals(graph: Graph, jobs: Sequence[UnresolvedAssetJobDefinition]) -> dg.SensorDefinition:
    ingest_log, embed_shard = jobs
    reading = Background(lambda: read_workspace(graph.root))

    @dg.sensor(
        name="embed_arrivals",
        jobs=jobs,
        minimum_interval_seconds=60,
        description="When the log of choices has changed, ingests it; then embeds the shards of users who are new or "
        "have other pairs, and no other. Off until turned on: it takes the machine for a while.",
    )
    def sense(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        try:
            locks, workspace = read_lock(graph.root), reading.result(SECONDS_PER_TICK)
        except BROKEN:
            yield dg.SkipReason("dvc.lock is being written; it is read at the next tick.")
            return
        except StillWorking:
            yield dg.SkipReason("Hashing what has changed goes on until the next tick.")
            return
        if changed := _changed(graph, INGEST, locks, workspace):
            yield _arrival(context.instance, ingest_log.name, None, changed)
            return
        waiting = [
            _arrival(context.instance, embed_shard.name, item.partition, changed)
            for item in graph.stage(EMBED).items
            if (changed := _changed(graph, item.address, locks, workspace))
        ]
        requests = [request for request in waiting if isinstance(request, dg.RunRequest)]
        yield from requests or waiting[:1]

    return sense


def _arrival(
    instance: dg.DagsterInstance, job: str, partition: str | None, changed: Mapping[str, str]
) -> dg.RunRequest | dg.SkipReason:
    """A run for this change: one at a time, again when it failed or was cancelled, and not for ever.

    Dagster ignores a run key that it has seen, so the key counts: what comes back to an earlier state, and what was
    tried before, are new runs.
    """
    change = _digest(changed)
    own = {"dagster/partition": partition} if partition else {}
    runs = instance.get_runs(dg.RunsFilter(job_name=job, tags=own), limit=RUNS_LOOKED_AT)
    arrivals = [run for run in runs if CHANGE_TAG in run.tags]
    what = f"{job} {partition or ''}".strip()
    if any(not run.is_finished for run in arrivals):
        return dg.SkipReason(f"{what} is under way.")
    failed = list(takewhile(lambda run: run.tags[CHANGE_TAG] == change and not run.is_success, arrivals))
    if len(failed) >= MAX_ATTEMPTS:
        return dg.SkipReason(
            f"{what} has ended {len(failed)} times without success for this change, last in run {failed[0].run_id}. "
            "Materialise it by hand once its cause is gone."
        )
    count = instance.get_runs_count(dg.RunsFilter(job_name=job, tags=own))
    return dg.RunRequest(run_key=f"{change}-{count}", job_name=job, partition_key=partition, tags={CHANGE_TAG: change})


def _changed(graph: Graph, address: str, locks: Mapping[str, Locked], workspace: Workspace) -> dict[str, str]:
    """Versions now of the data that the item read, if they are others than then, or if an output is gone.

    Code and settings are for a person, and so is the first run of an item.
    """
    if address not in locks:
        return {}
    locked = locks[address]
    read = {path: version for path, version in locked.deps.items() if path.startswith(DATA)}
    now = {path: workspace.paths.get(path, ABSENT) for path in read}
    gone = any(not (graph.root / path).exists() for path in locked.outs)  # a run that fails takes them with it
    return now if now != read or gone else {}


def _shard_item(graph: Graph, user_index: UserIndex, user_id: str) -> Item:
    if user_id not in user_index.shard_of.index:
        raise dg.Failure(
            f"nobody in artifacts/preferences/users.parquet has the user_id {user_id!r}; it knows "
            f"{len(user_index.shard_of)} users, such as {', '.join(user_index.shard_of.index[:3])}",
            allow_retries=False,
        )
    return next(item for item in graph.stage(EMBED).items if item.partition == user_index.shard_of[user_id])


def _forget(file: Path, user_id: str) -> None:
    """Take one user out of a shard, so that it is out of date and embeds this user and no other."""
    rows = pq.read_table(file)
    with atomic_path(file) as fresh:
        pq.write_table(rows.filter(pc.field("user_id") != user_id), fresh)


def _all_tags(graph: Graph, user_index: UserIndex, user_ids: Sequence[str]) -> dict[str, Tags]:
    """The version of each user who is embedded, and that of the manifest."""
    path = "/".join(MANIFEST)
    manifest = next((lock.outs[path] for lock in read_lock(graph.root).values() if path in lock.outs), ABSENT)
    return {
        user_id: version_tags(user_index.versions[user_id], OBSERVED) | input_tags(MANIFEST, manifest)
        for user_id in user_ids
        if user_id in user_index.versions.index
    }


def _digest(versions: Mapping[str, str]) -> str:
    return hashlib.sha256(repr(sorted(versions.items())).encode()).hexdigest()[:16]
