"""Single people: a view of the shards with one dynamic partition for each person on a watch list.

DVC embeds shards, and inside a shard only what changed, so a person is no stage and no stage's partition. Here a person
can be found, looked at and embedded again alone; what happened is the shard's, and the shard's events say so too.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,  # what define_asset_job gives
)

from orchestration import dvc_process
from orchestration.dvc_assets import RunOptions, read_state
from orchestration.dvc_graph import Graph, Item
from orchestration.dvc_state import Locked, Workspace, read_lock, read_workspace
from orchestration.metadata import describe_person
from orchestration.reporting import ABSENT, LOOK, Tags, input_tags, known, news, version_tags
from ppd.files import atomic_path

PERSON = ("people",)
WATCHED = dg.DynamicPartitionsDefinition(name="people")
MAX_WATCHED = 200
"""Each person is an event when their embedding changes, at 25-45 ms; the shards hold everybody all the same."""
FIRST_WATCHED = 6

EMBED, INGEST = "embed", "ingest"
SHARDS = ("artifacts", "users")
MANIFEST = ("artifacts", "users.parquet")
PREFERENCES = ("artifacts", "preferences")


@dataclass(frozen=True)
class Crowd:
    """Who is there, and who is embedded, as the files say now."""

    shard_of: pd.Series
    """user_id -> shard, of everybody in the preferences."""
    versions: pd.Series
    """user_id -> version of all their embeddings, of everybody in a shard."""

    @property
    def arrived(self) -> list[str]:
        """People without an embedding in a shard that has been embedded before."""
        embedded = self.shard_of[self.shard_of.index.isin(self.versions.index)]
        waiting = self.shard_of[~self.shard_of.index.isin(self.versions.index)]
        return sorted(waiting.index[waiting.isin(embedded.unique())])


def read_crowd(root: Path) -> Crowd:
    """Raises FileNotFoundError before the first ingestion."""
    users = pd.read_parquet(root.joinpath(*PREFERENCES, "users.parquet"), columns=["user_id", "shard"])
    files = sorted(root.joinpath(*SHARDS).glob("*/embeddings.parquet"))
    keys = [pd.read_parquet(file, columns=["user_id", "key"]) for file in files]
    everybody = pd.concat(keys) if keys else pd.DataFrame({"user_id": [], "key": []})
    versions = everybody.groupby("user_id").key.agg(lambda of_user: _digest(dict.fromkeys(of_user, "")))
    return Crowd(users.set_index("user_id").shard, versions)


def build_people(
    graph: Graph,
) -> tuple[Sequence[dg.AssetsDefinition], Sequence[UnresolvedAssetJobDefinition], Sequence[dg.SensorDefinition]]:
    """The asset of single people, the jobs and the sensors that notice and embed new ones."""
    inputs = [dg.AssetKey(tracked.key) for tracked in graph.tracked]
    jobs = (
        dg.define_asset_job("ingest_log", selection=dg.AssetSelection.assets(*inputs, dg.AssetKey(PREFERENCES))),
        dg.define_asset_job("embed_shard", selection=dg.AssetSelection.assets(dg.AssetKey(SHARDS))),
    )
    return [_person(graph)], jobs, [_watch(graph), _embed_arrivals(graph, jobs)]


def _person(graph: Graph) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name="person",
        specs=[
            dg.AssetSpec(
                dg.AssetKey(PERSON),
                deps=[dg.AssetKey(MANIFEST)],
                code_version=LOOK,
                description="One person of a shard: taste as the model reads it, place among the others, pictures. "
                "Materialising embeds what has changed of this person's shard; with `force`, this person again. "
                "To watch somebody else, add their user_id as a partition.",
                group_name="users",
                kinds={"parquet"},
            )
        ],
        partitions_def=WATCHED,
    )
    def person(context: dg.AssetExecutionContext, config: RunOptions) -> Iterator[dg.MaterializeResult[None]]:
        user_id = context.partition_key
        item = _shard_item(graph, read_crowd(graph.root), user_id)
        if config.force:
            _forget(graph.root / item.outs[0] / "embeddings.parquet", user_id)
        outcomes = dvc_process.repro(graph.root, [item.address], context.log.info)
        for event in news(read_state(graph, context.instance)):
            context.instance.report_runless_asset_event(event)
        yield dg.MaterializeResult(
            dg.AssetKey(PERSON),
            tags=_tags(graph, read_crowd(graph.root), user_id),
            metadata={"outcome": outcomes.get(item.address, "skipped"), **describe_person(graph.root, user_id)},
        )

    return person


def _watch(graph: Graph, interval_s: int = 30) -> dg.SensorDefinition:
    @dg.sensor(
        name="people",
        minimum_interval_seconds=interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Puts newly arrived people on the watch list, and reports those on it whose embedding changed.",
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if not graph.root.joinpath(*PREFERENCES, "support").exists():
            return dg.SkipReason("Nobody is there before the first ingestion.")
        crowd = read_crowd(graph.root)
        watched = context.instance.get_dynamic_partitions(WATCHED.name or "")
        new = crowd.arrived or ([] if watched else crowd.versions.index[:FIRST_WATCHED].tolist())
        new = [user_id for user_id in new if user_id not in watched and "..." not in user_id]  # a range to Dagster
        new = new[: MAX_WATCHED - len(watched)]
        events = []
        for user_id in (*watched, *new):
            if user_id not in crowd.versions.index:
                continue
            tags = _tags(graph, crowd, user_id)
            if not known(context.instance, PERSON, user_id, tags):
                seen = describe_person(graph.root, user_id)
                events.append(dg.AssetMaterialization(dg.AssetKey(PERSON), partition=user_id, tags=tags, metadata=seen))
        if not new and not events:
            return dg.SkipReason("Nobody is new or has changed.")
        return dg.SensorResult(
            dynamic_partitions_requests=[WATCHED.build_add_request(new)] if new else [], asset_events=events
        )

    return sense


def _embed_arrivals(graph: Graph, jobs: Sequence[UnresolvedAssetJobDefinition]) -> dg.SensorDefinition:
    ingest_log, embed_shard = jobs

    @dg.sensor(
        name="embed_arrivals",
        jobs=jobs,
        minimum_interval_seconds=60,
        description="When the log of choices has changed, ingests it; then embeds the shards of people who are new or "
        "have other pairs, and no other. Off until turned on: it takes the machine for a while.",
    )
    def sense(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest]:
        locks, workspace = read_lock(graph.root), read_workspace(graph.root)
        if news_of_log := _changed(locks.get(INGEST), workspace, "data"):
            yield dg.RunRequest(run_key=_digest(news_of_log), job_name=ingest_log.name)
            return
        for item in graph.stage(EMBED).items:
            if news_of_shard := _changed(locks.get(item.address), workspace, "artifacts"):
                yield dg.RunRequest(
                    run_key=_digest(news_of_shard), job_name=embed_shard.name, partition_key=item.partition
                )

    return sense


def _changed(locked: Locked | None, workspace: Workspace, folder: str) -> dict[str, str]:
    """Versions of what the item read in `folder`, if they are others now. The first run of an item is for people."""
    read = {path: version for path, version in (locked.deps if locked else {}).items() if path.startswith(folder + "/")}
    now = {path: workspace.paths.get(path, ABSENT) for path in read}
    return {} if now == read else now


def _shard_item(graph: Graph, crowd: Crowd, user_id: str) -> Item:
    if user_id not in crowd.shard_of.index:
        raise dg.Failure(
            f"nobody in artifacts/preferences/users.parquet has the user_id {user_id!r}; it knows "
            f"{len(crowd.shard_of)} people, such as {', '.join(crowd.shard_of.index[:3])}",
            allow_retries=False,
        )
    return next(item for item in graph.stage(EMBED).items if item.partition == crowd.shard_of[user_id])


def _forget(file: Path, user_id: str) -> None:
    """Take one person out of a shard, so that it is out of date and embeds this person and nobody else."""
    everybody = pq.read_table(file)
    with atomic_path(file) as fresh:
        pq.write_table(everybody.filter(pc.field("user_id") != user_id), fresh)


def _tags(graph: Graph, crowd: Crowd, user_id: str) -> Tags:
    """The version of this person, and that of the manifest it belongs to."""
    path = "/".join(MANIFEST)
    manifest = next((lock.outs[path] for lock in read_lock(graph.root).values() if path in lock.outs), ABSENT)
    return version_tags(crowd.versions[user_id], LOOK) | input_tags(MANIFEST, manifest)


def _digest(versions: Mapping[str, str]) -> str:
    return hashlib.sha256(repr(sorted(versions.items())).encode()).hexdigest()[:16]
