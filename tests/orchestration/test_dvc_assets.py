"""The assets made from dvc.yaml: what Dagster shows, runs and remembers."""

import dagster as dg
import pytest

from orchestration.dvc_assets import MAX_PARTITIONS, build_assets
from orchestration.dvc_graph import read_graph
from orchestration.dvc_state import read_lock


def latest(project, key: tuple[str, ...], partition: str | None = None) -> dg.AssetMaterialization:
    record = project.instance.get_latest_data_version_record(dg.AssetKey(key), False, partition)
    assert record is not None
    return record.asset_materialization


def test_every_edge_and_hint_of_dvc_yaml_is_in_the_asset_graph(project):
    graph = project.defs.resolve_asset_graph()
    for stage in project.graph.stages:
        for key in stage.outputs:
            assert graph.get(dg.AssetKey(key)).parent_keys == {dg.AssetKey(p) for p in project.graph.parents(stage)}
    prepared = graph.get(dg.AssetKey("prepared"))
    assert (prepared.group_name, prepared.owners) == ("1_inputs", ["team:data"])
    assert prepared.kinds == {"dvc", "text"}
    assert prepared.description == "The inputs, cut in shards."
    assert graph.get(dg.AssetKey("embedded")).pools == {"gpu"}
    assert graph.get(dg.AssetKey("embedded")).partitions_def.get_partition_keys() == ["s-00", "s-01", "s-02"]
    dg.Definitions.validate_loadable(project.defs)


def test_selections_typed_as_text_mean_what_they_say(project):
    # With the ANTLR that DVC's dependencies ask for by default, any of these raises TypeError.
    graph = project.defs.resolve_asset_graph()
    after_users = {"users.txt", "models/ppd", "models/dpo", "reports/lines.txt", "reports/metrics.json"}
    for selection, expected in {
        'key:"models/ppd"': {"models/ppd"},
        'key:"users.txt"+': after_users,
        '+key:"prepared"': {"prepared", "data"},
        'group:"1_inputs"': {"prepared", "data"},
        'owner:"team:data" or key:"models/*"': {"prepared", "models/ppd", "models/dpo"},
    }.items():
        found = dg.AssetSelection.from_string(selection).resolve(graph)
        assert {key.to_user_string() for key in found} == expected, selection


def test_materialising_runs_the_stage_and_remembers_what_dvc_locked(project):
    done = project.materialize("prepare")
    assert done.success
    event = latest(project, ("prepared",))
    locked = read_lock(project.root)
    assert event.tags["dagster/data_version"] == locked["prepare"].outs["prepared"]
    assert event.tags["dagster/input_data_version/data"] == locked["prepare"].deps["data"]
    assert event.metadata["outcome"].value == "ran"
    [check] = done.get_asset_check_evaluations()
    assert check.passed
    assert latest(project, ("prepared", "shards"), "s-01")  # the parts of an output are reported with it


def test_a_second_materialisation_says_that_there_was_nothing_to_do(project):
    project.materialize("prepare")
    version = latest(project, ("prepared",)).tags["dagster/data_version"]
    project.materialize("prepare")
    assert latest(project, ("prepared",)).metadata["outcome"].value == "skipped"
    assert latest(project, ("prepared",)).tags["dagster/data_version"] == version
    project.materialize("prepare", force=True)
    assert latest(project, ("prepared",)).metadata["outcome"].value == "ran"


def test_who_asks_for_one_output_of_a_stage_gets_it_and_the_others_are_reported(project):
    project.repro("train@ppd")
    project.repro("train@dpo")
    keys = dg.AssetSelection.from_string('key:"reports/metrics.json"')
    done = dg.materialize(project.assets, selection=keys, instance=project.instance)
    assert done.success
    locked = read_lock(project.root)["report"]
    for out in ("reports/metrics.json", "reports/lines.txt"):
        assert latest(project, tuple(out.split("/"))).tags["dagster/data_version"] == locked.outs[out]


def test_what_others_made_is_reported_but_not_as_made_by_this_run(project):
    """A backfill skips what one of its runs has materialised: with a lock from git it would leave stages out."""
    project.repro()
    done = project.materialize("prepare")
    made = {event.asset_key.to_user_string() for event in done.get_asset_materialization_events()}
    assert made == {"prepared"}
    assert latest(project, ("users.txt",)).tags["dagster/data_version"]


def test_asking_for_the_check_alone_runs_nothing(project):
    check = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey("prepared"), "dvc_up_to_date"))
    done = dg.materialize(project.assets, selection=check, instance=project.instance)
    [evaluation] = done.get_asset_check_evaluations()
    assert not evaluation.passed
    assert not (project.root / "prepared").exists()


def test_a_failing_stage_fails_the_run(project):
    project.write("dvc.yaml", "stages: {bad: {cmd: exit 3, outs: [x]}}")
    assets = build_assets(read_graph(project.root))
    failed = dg.materialize(
        [asset for asset in assets if isinstance(asset, dg.AssetsDefinition)],
        selection=dg.AssetSelection.assets("x"), instance=project.instance, raise_on_error=False,
    )  # fmt: skip
    assert not failed.success


def test_one_run_over_all_shards_gives_each_its_own_version(project):
    project.repro("prepare")
    tags = {"dagster/asset_partition_range_start": "s-00", "dagster/asset_partition_range_end": "s-02"}
    done = dg.materialize(project.assets, selection=[dg.AssetKey("embedded")], instance=project.instance, tags=tags)
    assert done.success
    versions = {
        latest(project, ("embedded",), shard).tags["dagster/data_version"] for shard in ("s-00", "s-01", "s-02")
    }
    assert len(versions) == 3


def test_all_shards_of_a_part_and_of_what_reads_it_run_in_one_go(project):
    # A step that reports its partitions and yields nothing would skip the steps after it, and their checks.
    project.repro("prepare")
    tags = {"dagster/asset_partition_range_start": "s-00", "dagster/asset_partition_range_end": "s-02"}
    keys = [dg.AssetKey("embedded"), dg.AssetKey(["prepared", "shards"])]
    done = dg.materialize(project.assets, selection=keys, instance=project.instance, tags=tags)
    assert {event.step_key for event in done.get_step_success_events()} == {"prepared__shards_part", "embed"}
    assert project.behind_for_dvc() == {"users", "train@ppd", "train@dpo", "report"}
    assert project.behind_for_dagster() == project.behind_for_dvc()


def test_tracked_data_is_recorded_like_dvc_add(project):
    project.write("data/s-01.txt", "somebody new\n")
    before = (project.root / "data.dvc").read_text()
    dg.materialize(project.assets, selection=[dg.AssetKey("data")], instance=project.instance)
    after = (project.root / "data.dvc").read_text()
    assert before != after
    assert latest(project, ("data",)).tags["dagster/data_version"] in after


def test_too_many_partitions_are_refused(project):
    shards = ", ".join(f"s-{at:03}" for at in range(MAX_PARTITIONS + 1))
    text = (project.root / "dvc.yaml").read_text().replace("[s-00, s-01, s-02]", f"[{shards}]")
    project.write("dvc.yaml", text)
    with pytest.raises(ValueError, match="100 partitions"):
        build_assets(read_graph(project.root))
