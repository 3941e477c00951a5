"""What DVC knows, reported to Dagster as events: versions of everything and what each was made from.

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

from orchestration.dvc_graph import Graph, Item, Key, Part, Stage, code_version, key_of
from orchestration.dvc_state import Locked, Workspace
from orchestration.metadata import describe

Tags: TypeAlias = dict[str, str]

ABSENT = "absent"
"""The version of an input that dvc.lock does not know."""
OBSERVED = code_version("observed", None)
"""Code version of parts and tracked data: they are looked at, not computed."""
LOCK_ENTRY_TAG = "dvc/lock_entry"
"""Names the run that an event tells of: the fingerprint of its entry in dvc.lock."""
_NO_POINTER = "NULL"
_OLDER_THAN_ALL = "1"


@dataclass(frozen=True, kw_only=True)
class State:
    """What dvc.lock says, what lies in the workspace, and the Dagster instance to compare them with."""

    graph: Graph
    locks: Mapping[str, Locked]
    workspace: Workspace
    instance: dg.DagsterInstance

    @property
    def fingerprint(self) -> str:
        """Changes when something could have to be reported."""
        digest = hashlib.md5(usedforsecurity=False)
        for address, locked in sorted(self.locks.items()):
            digest.update(f"{address} {locked.fingerprint}\n".encode())
        for what, version in [*sorted(self.workspace.paths.items()), *sorted(self.workspace.params.items())]:
            digest.update(f"{what} {version}\n".encode())
        return digest.hexdigest()


def unreported_events(state: State) -> Iterator[dg.AssetMaterialization]:
    """What Dagster's instance does not know yet, inputs first. Store each event before asking for the next."""
    yield from _input_events(state)
    for node in state.graph.in_order:
        if isinstance(node, Part):
            yield from _part_events(state, node)
        else:
            for item in node.items:
                if item.address in state.locks:
                    yield from _item_events(state, node, item)


def output_tags(state: State, stage: Stage, item: Item, key: Key) -> Tags:
    """Tags of the event of one output: its version in dvc.lock and those of all its inputs at that run."""
    locked = state.locks[item.address]
    tags = version_tags(locked.outs[stage.outputs[key][item.partition]], code_version(locked.cmd, item.partition))
    tags[LOCK_ENTRY_TAG] = locked.fingerprint
    reported = reported_tags(state.instance, key, item.partition)
    for parent in dict.fromkeys(name for name, _ in state.graph.inputs(item)):
        tags |= _made_from(state, item, parent, reported if reported.get(LOCK_ENTRY_TAG) == locked.fingerprint else {})
    return tags


def part_tags(state: State, part: Part, partition: str | None) -> Tags:
    """Tags of the event of one part: its version in the workspace, and those of the whole around it."""
    tags = version_tags(state.workspace.paths.get(part.paths[partition], ABSENT), OBSERVED)
    for whole in part.wholes:
        tags |= input_tags(whole, _current_version(state, whole))
    return tags


def tracked_tags(state: State, path: str) -> Tags:
    """Tags of the event of what a .dvc file tracks."""
    return version_tags(state.workspace.paths.get(path, ABSENT), OBSERVED)


def _input_events(state: State) -> Iterator[dg.AssetMaterialization]:
    now = state.workspace
    for source in state.graph.sources:
        version = now.params.get(source.params) if source.params else now.paths.get(source.path or "")
        if version:
            yield from _materialization(state, source.key, None, {DATA_VERSION_TAG: version})
    for tracked in state.graph.tracked:
        if tracked.path in now.paths:
            yield from _materialization(state, tracked.key, None, tracked_tags(state, tracked.path))


def _part_events(state: State, part: Part) -> Iterator[dg.AssetMaterialization]:
    for partition, path in part.paths.items():
        if path in state.workspace.paths:
            yield from _materialization(state, part.key, partition, part_tags(state, part, partition))


def _item_events(state: State, stage: Stage, item: Item) -> Iterator[dg.AssetMaterialization]:
    for key, paths in stage.outputs.items():
        if paths.get(item.partition) in state.locks[item.address].outs:
            tags = output_tags(state, stage, item, key)
            yield from _materialization(state, key, item.partition, tags, paths[item.partition])


def _materialization(
    state: State, key: Key, partition: str | None, tags: Tags, path: str | None = None
) -> Iterator[dg.AssetMaterialization]:
    """The event, unless it is known; with what there is to see at `path`."""
    if not known(state.instance, key, partition, tags):
        metadata = describe(state.graph.root, path) if path else {}
        yield dg.AssetMaterialization(dg.AssetKey(key), partition=partition, tags=tags, metadata=metadata)


def known(instance: dg.DagsterInstance, key: Key, partition: str | None, tags: Tags) -> bool:
    """Whether Dagster's last event says the same. Pointers to events are left out: they say when, not what."""
    reported = reported_tags(instance, key, partition)
    return all(
        reported.get(name) == value
        for name, value in tags.items()
        if not name.startswith(INPUT_EVENT_POINTER_TAG_PREFIX)
    )


def reported_tags(instance: dg.DagsterInstance, key: Key, partition: str | None) -> Mapping[str, str]:
    """The tags of the last event of an asset."""
    record = instance.get_latest_data_version_record(dg.AssetKey(key), False, partition)
    return (record.event_log_entry.tags or {}) if record else {}


def _made_from(state: State, item: Item, parent: Key, reported: Mapping[str, str]) -> Tags:
    """What dvc.lock says of one input of `item`. `reported` is what Dagster already knows of this very run.

    Of an input with partitions, Dagster compares events in place of versions; and of a folder that holds several
    outputs dvc.lock knows one version only. For both it matters whether what was read is what lies there now: then the
    input is the current one. Else it is what was reported when it still was, or something unknown.
    """
    locked = state.locks[item.address]
    paths = [path for key, path in state.graph.inputs(item) if key == parent and path is not None]
    if not paths:
        return input_tags(parent, locked.params.get(("/".join(parent[:-1]), parent[-1]), ABSENT))
    read = {path: locked.deps.get(path, ABSENT) for path in paths}
    partitions = _partitions(state.graph, parent)
    if not partitions and key_of(paths[0]) == parent:
        return input_tags(parent, read[paths[0]])
    asset = dg.AssetKey(parent)
    if any(state.workspace.paths.get(path) != version for path, version in read.items()):
        version = reported.get(get_input_data_version_tag(asset), ABSENT)
        return input_tags(
            parent,
            version,
            reported.get(get_input_event_pointer_tag(asset), _OLDER_THAN_ALL if partitions else _NO_POINTER),
        )
    if partitions:
        own = [item.partition] if item.partition is not None and item.partition in partitions else None
        return input_tags(parent, _digest(read), _latest_pointer(state, parent, own))
    return input_tags(parent, _current_version(state, parent))


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


def version_tags(version: str, code: str) -> Tags:
    return {DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true", CODE_VERSION_TAG: code}


def input_tags(key: Key, version: str, pointer: str = _NO_POINTER) -> Tags:
    asset = dg.AssetKey(key)
    return {get_input_data_version_tag(asset): version, get_input_event_pointer_tag(asset): pointer}


def _digest(versions: Mapping[str, str]) -> str:
    return hashlib.md5(repr(sorted(versions.items())).encode(), usedforsecurity=False).hexdigest()
