"""dvc.yaml as data: nothing is lost, and every edge is one that DVC knows."""

import threading

import pytest
from dvc.repo import Repo

from orchestration.dvc_graph import key_of, read_graph
from orchestration.dvc_state import read_lock, read_workspace


def test_matrix_items_are_partitions_where_the_stage_says_so_and_stages_elsewhere(project):
    assert [stage.name for stage in project.graph.stages] == [
        "embed", "prepare", "report", "train@dpo", "train@ppd", "users",
    ]  # fmt: skip
    assert project.graph.stage("embed").partitions == ("s-00", "s-01", "s-02")
    assert project.graph.stage("embed").outputs == {
        ("embedded",): {"s-00": "embedded/s-00", "s-01": "embedded/s-01", "s-02": "embedded/s-02"}
    }
    assert project.graph.stage("train@ppd").partitions == ()


def test_parents_are_outputs_parts_of_outputs_code_and_settings(project):
    parents = {stage.name: set(project.graph.parents(stage)) for stage in project.graph.stages}
    assert parents["prepare"] == {("data",), ("code", "prepare.txt"), ("params.yaml", "prepare")}
    assert parents["embed"] == {("prepared", "shards"), ("code", "embed.txt")}
    assert parents["users"] == {("embedded",)}
    assert parents["train@ppd"] == {("users.txt",), ("params.yaml", "train.ppd")}
    assert parents["report"] == {("models", "ppd"), ("models", "dpo")}


def test_every_edge_of_dvc_is_an_edge_here_and_none_is_added(project):
    makers = {key: stage for stage in project.graph.stages for key in stage.outputs}
    parts = {part.key: part for part in project.graph.parts}
    ours = set()
    for stage in project.graph.stages:
        for parent in project.graph.parents(stage):
            for whole in parts[parent].wholes if parent in parts else (parent,):
                if whole in makers:
                    ours.add((stage.name, makers[whole].name))
    with Repo(str(project.root)) as repo:
        merged = {
            stage.name: stage.name.split("@")[0] for stage in repo.index.stages if "embed" in str(stage.addressing)
        }
        theirs = {
            (merged.get(a.name, a.name), merged.get(b.name, b.name))
            for a, b in repo.index.graph.edges
            if b.addressing != "data.dvc"
        }
    assert ours == theirs


def test_code_version_is_the_same_for_all_partitions_and_changes_with_the_command(project):
    before = {stage.name: stage.code_version for stage in project.graph.stages}
    text = (project.root / "dvc.yaml").read_text()
    project.write("dvc.yaml", text.replace("cat code/embed.txt", "cat  code/embed.txt"))
    after = {stage.name: stage.code_version for stage in read_graph(project.root).stages}
    assert {name for name in before if before[name] != after[name]} == {"embed"}


def test_lock_and_workspace_speak_the_same_versions_after_a_run(project):
    assert read_lock(project.root) == {}
    project.repro()
    workspace = read_workspace(project.root)
    for address, locked in read_lock(project.root).items():
        assert {path: workspace.paths[path] for path in locked.deps} == locked.deps, address
        assert {pair: workspace.params[pair] for pair in locked.params} == locked.params, address


def test_a_fingerprint_changes_with_inputs_although_outputs_stay(project):
    project.repro("prepare")
    before = read_lock(project.root)["prepare"]
    project.write("params.yaml", "prepare: {scale: 2}\ntrain: {ppd: {lr: 1}, dpo: {lr: 1}}\n")
    project.repro("prepare")
    after = read_lock(project.root)["prepare"]
    assert after.outs == before.outs
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize(("at_line", "pause_s"), [(True, 0.1), (False, 1.0)], ids=["still YAML", "no YAML"])
@pytest.mark.parametrize("read", [read_lock, read_graph, read_workspace])
def test_a_lock_that_is_being_written_is_read_when_it_is_whole(project, read, at_line, pause_s):
    """DVC writes it in pieces, beside whom every step of a run reads it."""
    project.repro()
    file = project.root / "dvc.lock"
    whole, expected = file.read_text(), read(project.root)
    half = whole[: whole.index("  prepare:")] if at_line else whole[: len(whole) // 2] + ": ["
    file.write_text(half)
    writer = threading.Timer(pause_s, file.write_text, [whole])
    writer.start()
    found = read(project.root)
    writer.join()
    assert found == expected


@pytest.mark.parametrize(
    ("path", "partition", "key"),
    [
        ("artifacts/users.parquet", None, ("artifacts", "users.parquet")),
        ("artifacts/users/s-03", "s-03", ("artifacts", "users")),
        ("artifacts/users/s-03.parquet", "s-03", ("artifacts", "users")),
        ("artifacts/users/s-03/norms.parquet", "s-03", ("artifacts", "users", "norms.parquet")),
        ("src/ppd/vlm", "s-03", ("src", "ppd", "vlm")),
    ],
)
def test_an_asset_key_is_the_path_without_the_partition(path, partition, key):
    assert key_of(path, partition) == key


def test_a_path_that_is_nothing_but_its_partition_is_refused():
    with pytest.raises(ValueError, match="no name apart from the partition"):
        key_of("s-03.parquet", "s-03")


def test_partitions_beside_other_outputs_are_refused_with_the_way_out(project):
    project.write("dvc.yaml", (project.root / "dvc.yaml").read_text().replace("prepared/shards/", "prepared/"))
    with pytest.raises(ValueError, match="both be the asset prepared. .* in a folder that holds nothing else"):
        read_graph(project.root)
