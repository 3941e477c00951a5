"""The graph of dvc.yaml, as plain data: what the rest of this package works with."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from dvc.stage import PipelineStage

from orchestration.dvc_lock import undisturbed
from orchestration.dvc_state import digest, relative

Key = tuple[str, ...]
"""Names a node of the graph; becomes a Dagster asset key. A path, cut at its slashes."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """What DVC runs at once: a stage, or one item of a matrix stage. All paths are relative to the repository."""

    address: str
    """As `dvc repro` takes it: `ingest`, `embed@s-03`."""
    partition: str | None
    cmd: str
    deps: tuple[str, ...]
    params: tuple[tuple[str, str], ...]
    """(file, section) of every parameter that it reads."""
    outs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One node that Dagster materialises: a stage, or a whole matrix whose items are its partitions."""

    name: str
    """Its address without the item of its matrix: `embed`, `finetune@ppd`, `experiments/dvc.yaml:users`."""
    description: str
    meta: Mapping[str, Any]
    """What `meta: {dagster: ...}` says: group, kinds, owners, pool, partitions."""
    items: tuple[Item, ...]

    @cached_property
    def partitions(self) -> tuple[str, ...]:
        """The items' names when they are partitions; empty for a plain stage."""
        return tuple(item.partition for item in self.items if item.partition is not None)

    @cached_property
    def outputs(self) -> Mapping[Key, Mapping[str | None, str]]:
        """Asset key -> partition -> path."""
        outputs: dict[Key, dict[str | None, str]] = {}
        for item in self.items:
            for path in item.outs:
                outputs.setdefault(key_of(path, item.partition), {})[item.partition] = path
        return outputs

    @property
    def group(self) -> str:
        return str(self.meta.get("group", "pipeline"))

    @property
    def code_version(self) -> str:
        """Changes with the command. What the command runs and reads are inputs with versions of their own."""
        return code_version(self.items[0].cmd, self.items[0].partition)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What stages read and nothing here makes: code, or a section of params.yaml."""

    key: Key
    path: str | None
    params: tuple[str, str] | None


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file or folder inside an output or inside tracked data that a stage reads by itself.

    It has a version of its own, so that what reads it is not stale when another part of the whole has changed.
    """

    key: Key
    paths: Mapping[str | None, str]
    """Partition -> path; one path under None for what is not partitioned."""
    wholes: tuple[Key, ...]

    @property
    def partitions(self) -> tuple[str, ...]:
        return tuple(sorted(partition for partition in self.paths if partition is not None))


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """What a .dvc file keeps, such as data/ of data.dvc."""

    key: Key
    path: str
    file: str


@dataclass(frozen=True, kw_only=True)
class Graph:
    """dvc.yaml and the .dvc files of the repository at `root`."""

    root: Path
    stages: tuple[Stage, ...]
    sources: tuple[Source, ...]
    parts: tuple[Part, ...]
    tracked: tuple[Tracked, ...]

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def inputs(self, item: Item) -> Iterator[tuple[Key, str | None]]:
        """The nodes that `item` depends on, each with the path that it reads there (None for parameters)."""
        for path in item.deps:
            if producers := self._producers(path):
                yield from ((key, path) for key in producers)
            else:
                yield self._other_key(path), path
        for file, section in item.params:
            yield params_key(file, section), None

    def parents(self, stage: Stage) -> tuple[Key, ...]:
        """Every node that some item of `stage` depends on, once."""
        return tuple(dict.fromkeys(key for item in stage.items for key, _ in self.inputs(item)))

    def _producers(self, path: str) -> tuple[Key, ...]:
        """The outputs that are `path` or lie inside it. A `Part` is what lies inside one output."""
        return tuple(
            key
            for stage in self.stages
            for key, outs in stage.outputs.items()
            if any(_inside(out, path) for out in outs.values())
        )

    def _other_key(self, path: str) -> Key:
        parts = {inside: part.key for part in self.parts for inside in part.paths.values()}
        return parts.get(path, key_of(path))

    @cached_property
    def in_order(self) -> tuple[Stage | Part, ...]:
        """Stages and parts, each after all that it depends on."""
        makers: dict[Key, Stage | Part] = {key: stage for stage in self.stages for key in stage.outputs}
        makers |= {part.key: part for part in self.parts}
        nodes: list[Stage | Part] = [*self.stages, *self.parts]
        needs: list[tuple[Key, ...]] = [
            self.parents(node) if isinstance(node, Stage) else node.wholes for node in nodes
        ]
        order = TopologicalSorter(
            {at: [nodes.index(makers[key]) for key in keys if key in makers] for at, keys in enumerate(needs)}
        )
        return tuple(nodes[at] for at in order.static_order())


def group_name(graph: Graph, group: str) -> str:
    """The group as the UI shows it: numbered, since it sorts by name, from inputs along the flow of the data.

    What only explains (parts of outputs, settings, code) comes last.
    """
    depth: dict[Key, int] = {}
    last: dict[str, int] = {}
    for node in graph.in_order:
        parents = graph.parents(node) if isinstance(node, Stage) else node.wholes
        level = 1 + max((depth.get(parent, 0) for parent in parents), default=0)
        depth |= dict.fromkeys(node.outputs if isinstance(node, Stage) else [node.key], level)
        if isinstance(node, Stage):
            last[node.group] = max(level, last.get(node.group, 0))
    flow = sorted(last, key=lambda each: last[each])
    order = [*dict.fromkeys(["inputs", *flow, "parts", "settings", "code"])]
    return f"{order.index(group) + 1}_{group}" if group in order else group


def read_graph(root: Path) -> Graph:
    """Read dvc.yaml and *.dvc through DVC's own index (templating and matrices resolved). Raises DVC's own errors.

    Raises ValueError when two outputs or parts would be one asset.
    """
    return undisturbed(root, lambda: _read_graph(root))


def _read_graph(root: Path) -> Graph:
    with Repo(str(root)) as repo:
        found = repo.index.stages
        pipeline = [stage for stage in found if isinstance(stage, PipelineStage)]
        stages = tuple(_stages(pipeline, root))
        tracked = tuple(
            Tracked(key=key_of(path), path=path, file=relative(stage.path, root))
            for stage in found
            if not isinstance(stage, PipelineStage)
            for path in [relative(out.fs_path, root) for out in stage.outs]
        )
    sources, parts = _surroundings(stages, tracked)
    _check_names(stages, parts, tracked)
    return Graph(root=root, stages=stages, sources=sources, parts=parts, tracked=tracked)


def key_of(path: str, partition: str | None = None) -> Key:
    """The asset key of a path: its parts, without the one that names the partition (`artifacts/users/s-03`)."""
    key = tuple(part for part in PurePosixPath(path).parts if partition is None or part.split(".")[0] != partition)
    if not key:
        raise ValueError(f"the path {path!r} of partition {partition!r} has no name apart from the partition's")
    return key


def params_key(file: str, section: str) -> Key:
    """The asset key of a section of a parameters file."""
    return *PurePosixPath(file).parts, section


def code_version(cmd: str, partition: str | None) -> str:
    """The version of a command, the same for every partition."""
    return digest(cmd if partition is None else cmd.replace(partition, "*"))


def _stages(pipeline: Sequence[PipelineStage], root: Path) -> Iterator[Stage]:
    """Items of a matrix that says `meta: {dagster: {partitions: true}}` together; every other item on its own.

    Stages are named by their address: two pipelines may have stages of the same name.
    """
    together: dict[str, list[PipelineStage]] = {}
    for stage in pipeline:
        address: str = stage.addressing
        base, _, item = address.partition("@")
        partitioned = item and _hints(stage).get("partitions", False)
        together.setdefault(base if partitioned else address, []).append(stage)
    for name, members in sorted(together.items()):
        partitioned = "@" in members[0].name and "@" not in name
        yield Stage(
            name=name,
            description=members[0].desc or "",
            meta=_hints(members[0]),
            items=tuple(
                _item(member, member.name.partition("@")[2] if partitioned else None, root)
                for member in sorted(members, key=lambda member: member.name)
            ),
        )


def _item(stage: PipelineStage, partition: str | None, root: Path) -> Item:
    params = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
    return Item(
        address=stage.addressing,
        partition=partition,
        cmd=stage.cmd if isinstance(stage.cmd, str) else "\n".join(stage.cmd),
        deps=tuple(relative(dep.fs_path, root) for dep in stage.deps if not isinstance(dep, ParamsDependency)),
        params=tuple((relative(dep.fs_path, root), section) for dep in params for section in dep.params),
        outs=tuple(relative(out.fs_path, root) for out in stage.outs),
    )


def _surroundings(stages: Sequence[Stage], tracked: Sequence[Tracked]) -> tuple[tuple[Source, ...], tuple[Part, ...]]:
    """What stages depend on beyond whole outputs and whole tracked data."""
    outs = {out: key for stage in stages for key, paths in stage.outputs.items() for out in paths.values()}
    wholes = outs | {entry.path: entry.key for entry in tracked}
    sources: dict[Key, Source] = {}
    parts: dict[Key, dict[str | None, str]] = {}
    within: dict[Key, tuple[Key, ...]] = {}
    for item in (item for stage in stages for item in stage.items):
        for path in item.deps:
            around = tuple(key for whole, key in wholes.items() if path != whole and _inside(path, whole))
            if around:
                # A path that names the partition is that partition of a part; any other is read by all alike.
                own = item.partition if item.partition and key_of(path, item.partition) != key_of(path) else None
                key = key_of(path, own)
                parts.setdefault(key, {})[own] = path
                within[key] = around
            elif not any(_inside(whole, path) for whole in wholes):
                sources[key_of(path)] = Source(key=key_of(path), path=path, params=None)
        sources |= {params_key(*pair): Source(key=params_key(*pair), path=None, params=pair) for pair in item.params}
    return (
        tuple(sources.values()),
        tuple(Part(key=key, paths=paths, wholes=within[key]) for key, paths in parts.items()),
    )


def _check_names(stages: Sequence[Stage], parts: Sequence[Part], tracked: Sequence[Tracked]) -> None:
    outs = [path for stage in stages for item in stage.items for path in item.outs]
    kept = [path for stage in stages for paths in stage.outputs.values() for path in paths.values()]
    keys = [key for stage in stages for key in stage.outputs]
    keys += [part.key for part in parts] + [entry.key for entry in tracked]
    twice = [f"{'/'.join(key)}" for key, n in Counter(keys).items() if n > 1] + sorted(set(outs) - set(kept))
    if twice:
        raise ValueError(
            f"two things in dvc.yaml would both be the asset {', '.join(twice)}. A path without the part that names "
            "the partition must still be a name of its own: put partitions in a folder that holds nothing else"
        )


def _hints(stage: PipelineStage) -> Mapping[str, Any]:
    hints: Mapping[str, Any] = (stage.meta or {}).get("dagster", {})
    return hints


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
