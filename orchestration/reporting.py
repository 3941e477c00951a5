"""What DVC knows, told to Dagster as events: versions of everything and what each was made from.

Dagster calls an asset stale when a version that its last event names as input is no longer the current one. Here both
come from DVC (dvc.lock for what was, hashes of the workspace for what is), so Dagster's verdict is DVC's.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import dagster as dg
from dagster._core.definitions.data_version import (  # tag names: documented, exported nowhere else
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    INPUT_EVENT_POINTER_TAG_PREFIX,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

from orchestration.dvc_graph import Graph, Item, Key, Locked, Part, Stage, Workspace, code_version

Event: TypeAlias = dg.AssetMaterialization | dg.AssetObservation
Tags: TypeAlias = dict[str, str]

ABSENT = "absent"
"""The version of an input that dvc.lock does not know."""
LOOK = code_version("look", None)
"""Code version of parts and tracked data: they are looked at, not computed."""
_NO_POINTER = "NULL"
_OLDER_THAN_ALL = "1"


@dataclass(frozen=True, kw_only=True)
class State:
    """One moment: what dvc.lock says, what lies in the workspace, and the Dagster instance to compare with."""

    graph: Graph
    locks: Mapping[str, Locked]
    workspace: Workspace
    instance: dg.DagsterInstance

    @property
    def fingerprint(self) -> str:
        """Changes when something could have to be told."""
        digest = hashlib.md5(usedforsecurity=False)
        for address, locked in sorted(self.locks.items()):
            digest.update(f"{address} {locked.fingerprint}\n".encode())
        for what, version in [*sorted(self.workspace.paths.items()), *sorted(self.workspace.params.items())]:
            digest.update(f"{what} {version}\n".encode())
        return digest.hexdigest()


def news(state: State) -> Iterator[Event]:
    """What Dagster's instance does not know yet, inputs first. Store each event before asking for the next."""
    yield from _inputs_news(state)
    for node in state.graph.in_order:
        if isinstance(node, Part):
            yield from _part_news(state, node)
        else:
            for item in node.items:
                if item.address in state.locks:
                    yield from _item_news(state, node, item)


def output_tags(state: State, stage: Stage, item: Item, key: Key) -> Tags:
    """Tags of the event of one output: its version in dvc.lock and those of all its inputs at that run."""
    locked = state.locks[item.address]
    tags = _version(locked.outs[stage.outputs[key][item.partition]], code_version(locked.cmd, item.partition))
    for parent in dict.fromkeys(name for name, _ in state.graph.inputs(item)):
        tags |= _made_from(state, item, locked, parent)
    return tags


def part_tags(state: State, part: Part, partition: str | None) -> Tags:
    """Tags of the event of one part: its version in the workspace, and those of the whole around it."""
    tags = _version(state.workspace.paths.get(part.paths[partition], ABSENT), LOOK)
    for whole in part.wholes:
        tags |= _input(whole, _current_version(state, whole))
    return tags


def tracked_tags(state: State, path: str) -> Tags:
    """Tags of the event of what a .dvc file tracks."""
    return _version(state.workspace.paths.get(path, ABSENT), LOOK)


def _inputs_news(state: State) -> Iterator[Event]:
    for source in state.graph.sources:
        versions = state.workspace
        version = versions.params.get(source.params) if source.params else versions.paths.get(source.path or "")
        if version and not _known(state, source.key, None, tags := {DATA_VERSION_TAG: version}, observed=True):
            yield dg.AssetObservation(dg.AssetKey(source.key), tags=tags)
    for tracked in state.graph.tracked:
        if tracked.path in state.workspace.paths:
            yield from _materialization(state, tracked.key, None, tracked_tags(state, tracked.path))


def _part_news(state: State, part: Part) -> Iterator[Event]:
    for partition, path in part.paths.items():
        if path in state.workspace.paths:
            yield from _materialization(state, part.key, partition, part_tags(state, part, partition))


def _item_news(state: State, stage: Stage, item: Item) -> Iterator[Event]:
    for key, paths in stage.outputs.items():
        if paths.get(item.partition) in state.locks[item.address].outs:
            yield from _materialization(state, key, item.partition, output_tags(state, stage, item, key))


def _materialization(state: State, key: Key, partition: str | None, tags: Tags) -> Iterator[Event]:
    if not _known(state, key, partition, tags):
        yield dg.AssetMaterialization(dg.AssetKey(key), partition=partition, tags=tags)


def _known(state: State, key: Key, partition: str | None, tags: Tags, *, observed: bool = False) -> bool:
    """Whether Dagster's last event says the same. Pointers to events are left out: they say when, not what."""
    record = state.instance.get_latest_data_version_record(dg.AssetKey(key), observed, partition)
    told = (record.event_log_entry.tags or {}) if record else {}
    return all(
        told.get(name) == value for name, value in tags.items() if not name.startswith(INPUT_EVENT_POINTER_TAG_PREFIX)
    )


def _made_from(state: State, item: Item, locked: Locked, parent: Key) -> Tags:
    """What `locked` says of one input. Of several partitions Dagster compares events in place of versions."""
    paths = [path for key, path in state.graph.inputs(item) if key == parent and path is not None]
    if not paths:
        return _input(parent, locked.params.get((parent[0], parent[-1]), ABSENT))
    versions = {path: locked.deps.get(path, ABSENT) for path in paths}
    version = next(iter(versions.values())) if len(versions) == 1 else _digest(versions)
    partitions = _partitions(state.graph, parent)
    if not partitions:
        return _input(parent, version)
    as_read = all(state.workspace.paths.get(path) == read for path, read in versions.items())
    own = [item.partition] if item.partition is not None and item.partition in partitions else None
    return _input(parent, version, _latest_pointer(state, parent, own) if as_read else _OLDER_THAN_ALL)


def _latest_pointer(state: State, key: Key, partitions: list[str] | None) -> str:
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(key), asset_partitions=partitions)
    records = state.instance.fetch_materializations(wanted, limit=1).records
    return str(records[0].storage_id) if records else _OLDER_THAN_ALL


def _current_version(state: State, whole: Key) -> str:
    for stage in state.graph.stages:
        for item in stage.items:
            if whole in stage.outputs and item.address in state.locks:
                return state.locks[item.address].outs.get(stage.outputs[whole][item.partition], ABSENT)
    path = next((tracked.path for tracked in state.graph.tracked if tracked.key == whole), "")
    return state.workspace.paths.get(path, ABSENT)


def _partitions(graph: Graph, key: Key) -> tuple[str, ...]:
    for node in graph.in_order:
        if key == node.key if isinstance(node, Part) else key in node.outputs:
            return node.partitions
    return ()


def _version(version: str, code: str) -> Tags:
    return {DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true", CODE_VERSION_TAG: code}


def _input(key: Key, version: str, pointer: str = _NO_POINTER) -> Tags:
    asset = dg.AssetKey(key)
    return {get_input_data_version_tag(asset): version, get_input_event_pointer_tag(asset): pointer}


def _digest(versions: Mapping[str, str]) -> str:
    return hashlib.md5(repr(sorted(versions.items())).encode(), usedforsecurity=False).hexdigest()
