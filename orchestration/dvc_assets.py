"""Dagster assets made from the graph of dvc.yaml: one multi-asset a stage, one asset an output.

Dagster decides when something runs and shows why; DVC alone decides whether it has to. `meta: {dagster: ...}` of a
stage in dvc.yaml takes `group`, `kinds`, `owners`, `pool`, on Kubernetes `gpus`, `cpu` and `memory`, and for a matrix
`partitions: true`, which makes one asset with the matrix items as its partitions in place of one asset for each item.
"""

from collections.abc import Iterator, Sequence

import dagster as dg

from orchestration import dvc_process
from orchestration.dvc_graph import Graph, Key, Part, Source, Stage, Tracked, group_name
from orchestration.dvc_state import out_of_date, read_lock, read_workspace
from orchestration.kubernetes import op_tags
from orchestration.metadata import describe
from orchestration.reporting import OBSERVED, State, output_tags, part_tags, tracked_tags, unreported_events

MAX_PARTITIONS = 99
"""From 100 partitions of an input on, Dagster no longer compares their versions, without a word."""


class RunOptions(dg.Config):
    """What can be set when a stage is materialised by hand."""

    force: bool = False
    """Run the stage although nothing that it depends on has changed."""


def build_assets(graph: Graph) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Everything in dvc.yaml and *.dvc as assets. Raises ValueError for too many partitions (`MAX_PARTITIONS`)."""
    return [
        *(_source_spec(graph, source) for source in graph.sources),
        *(_tracked_asset(graph, tracked) for tracked in graph.tracked),
        *(
            _part_asset(graph, node) if isinstance(node, Part) else _stage_assets(graph, node)
            for node in graph.in_order
        ),
    ]


def read_state(graph: Graph, instance: dg.DagsterInstance) -> State:
    """What lock and workspace hold now, beside what the instance knows."""
    return State(graph=graph, locks=read_lock(graph.root), workspace=read_workspace(graph.root), instance=instance)


def _stage_assets(graph: Graph, stage: Stage) -> dg.AssetsDefinition:
    hints = stage.meta
    specs = [
        dg.AssetSpec(
            dg.AssetKey(key),
            deps=[dg.AssetKey(parent) for parent in graph.parents(stage)],
            description=stage.description,
            group_name=group_name(graph, stage.group),
            kinds={"dvc", *hints.get("kinds", [])},
            owners=hints.get("owners", []),
            code_version=stage.code_version,
            metadata={"stage": stage.name, "command": stage.items[0].cmd},
        )
        for key in stage.outputs
    ]

    @dg.multi_asset(
        name=_op_name(stage),
        specs=specs,
        partitions_def=_partitions(stage.partitions),
        # A GPU each means a pod each, and a run is a pod; without, one run spares many starts.
        backfill_policy=(dg.BackfillPolicy.multi_run(1) if hints.get("gpus") else dg.BackfillPolicy.single_run())
        if stage.partitions
        else None,
        op_tags=op_tags(hints),
        can_subset=True,  # whoever asks for one output gets it; what else the stage made is reported beside it
        check_specs=[
            dg.AssetCheckSpec(
                "dvc_up_to_date", asset=dg.AssetKey(_first(stage)), description="After the run, `dvc status` is clean."
            )
        ],
        pool=hints.get("pool"),
    )
    def run_stage(
        context: dg.AssetExecutionContext, config: RunOptions
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        selected = [key for key in stage.outputs if dg.AssetKey(key) in context.selected_asset_keys]
        wanted: Sequence[str | None] = context.partition_keys if stage.partitions and selected else stage.partitions
        items = [item for item in stage.items if item.partition in wanted or not stage.partitions]
        if selected:  # else somebody only wants to know whether it is up to date
            addresses = [item.address for item in items]
            outcomes = dvc_process.repro(graph.root, addresses, context.log.info, force=config.force)
        state = read_state(graph, context.instance)
        for event in unreported_events(state):  # inputs that nobody has reported yet, before what was made from them
            if tuple(event.asset_key.path) not in selected:
                # Not as an event of this run: a backfill would take the asset for one that it has made, and skip it.
                context.instance.report_runless_asset_event(event)
        for key in selected:
            paths = stage.outputs[key]
            if len(items) > 1:
                # One result for all would give all one version, and none would skip what comes after in this run. So
                # there is one, and each partition's own event comes after it.
                yield dg.MaterializeResult(dg.AssetKey(key))
            for item in items:
                tags = output_tags(state, stage, item, key)
                metadata = {
                    "outcome": outcomes.get(item.address, "skipped"),
                    "path": dg.MetadataValue.path(str(graph.root / paths[item.partition])),
                    **describe(graph.root, paths[item.partition]),
                }
                if len(items) == 1:
                    yield dg.MaterializeResult(dg.AssetKey(key), tags=tags, metadata=metadata)
                else:
                    context.log_event(
                        dg.AssetMaterialization(
                            dg.AssetKey(key), partition=item.partition, tags=tags, metadata=metadata
                        )
                    )
        if context.selected_asset_check_keys:
            behind = out_of_date(graph.root, [item.address for item in items])
            yield dg.AssetCheckResult(
                passed=not behind,
                asset_key=dg.AssetKey(_first(stage)),
                check_name="dvc_up_to_date",
                metadata={"dvc status": behind},
            )

    return run_stage


def _part_asset(graph: Graph, part: Part) -> dg.AssetsDefinition:
    spec = dg.AssetSpec(
        dg.AssetKey(part.key),
        deps=[dg.AssetKey(whole) for whole in part.wholes],
        description="Read by itself, so it has its own version. Materialising looks at it; nothing is computed.",
        group_name=group_name(graph, "parts"),
        kinds={"dvc"},
        code_version=OBSERVED,
    )

    @dg.multi_asset(
        name=dg.AssetKey(part.key).to_python_identifier() + "_part",
        specs=[spec],
        partitions_def=_partitions(part.partitions),
        backfill_policy=dg.BackfillPolicy.single_run() if part.partitions else None,
    )
    def look(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
        state = read_state(graph, context.instance)
        wanted: Sequence[str | None] = context.partition_keys if part.partitions else [None]
        if len(wanted) > 1:
            yield dg.MaterializeResult(dg.AssetKey(part.key))  # as in `run_stage`
        for partition in wanted:
            tags = part_tags(state, part, partition)
            if len(wanted) == 1:
                yield dg.MaterializeResult(dg.AssetKey(part.key), tags=tags)
            else:
                context.log_event(dg.AssetMaterialization(dg.AssetKey(part.key), partition=partition, tags=tags))

    return look


def _tracked_asset(graph: Graph, tracked: Tracked) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=dg.AssetKey(tracked.key).to_python_identifier() + "_tracked",
        specs=[
            dg.AssetSpec(
                dg.AssetKey(tracked.key),
                description=f"Inputs that {tracked.file} tracks. Materialising records them (`dvc add`).",
                group_name=group_name(graph, "inputs"),
                kinds={"dvc"},
                code_version=OBSERVED,
            )
        ],
    )
    def record(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
        dvc_process.run(graph.root, ["add", tracked.path], context.log.info)
        yield dg.MaterializeResult(
            dg.AssetKey(tracked.key), tags=tracked_tags(read_state(graph, context.instance), tracked.path)
        )

    return record


def _source_spec(graph: Graph, source: Source) -> dg.AssetSpec:
    if source.params:
        what, group, kind = "Settings", "settings", "yaml"
    elif source.key[0] == "src":
        what, group, kind = "Code", "code", "python"
    else:
        what, group, kind = "Verdicts of people", "evaluation", "json"
    return dg.AssetSpec(
        dg.AssetKey(source.key),
        description=f"{what} that stages read. Observed: a change makes them stale.",
        group_name=group_name(graph, group),
        kinds={kind},
    )


def _partitions(partitions: tuple[str, ...]) -> dg.StaticPartitionsDefinition | None:
    if len(partitions) > MAX_PARTITIONS:
        raise ValueError(f"{len(partitions)} partitions; from 100 on Dagster stops comparing their versions")
    return dg.StaticPartitionsDefinition(list(partitions)) if partitions else None


def _op_name(stage: Stage) -> str:
    """`finetune_ppd`, `experiments__users`."""
    return dg.AssetKey(stage.name.replace("@", "_").replace("/dvc.yaml:", "/").split("/")).to_python_identifier()


def _first(stage: Stage) -> Key:
    return next(iter(stage.outputs))
