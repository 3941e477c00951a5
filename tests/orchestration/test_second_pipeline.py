"""A second dvc.yaml in a folder, such as the experiments, is part of the graph; the first one does not run it."""

from orchestration.dvc_state import read_lock
from tests.orchestration.conftest import Project

MORE = """
stages:
  compare:
    wdir: ..
    cmd: mkdir -p more/results && cat users.txt more/params.yaml > more/results/compared.txt
    deps: [users.txt]
    params: [{more/params.yaml: [sizes]}]
    outs: [{more/results/compared.txt: {cache: false}}]
    meta: {dagster: {group: more}}
"""
COMPARED = ("more", "results", "compared.txt")
SIZES = ("more", "params.yaml", "sizes")


def with_more(project: Project) -> Project:
    project.write("more/dvc.yaml", MORE)
    project.write("more/params.yaml", "sizes: [1, 2]\n")
    return Project(project.root, project.instance)


def test_its_outputs_are_assets_made_from_those_of_the_first(project):
    stage = with_more(project).graph.stage("more/dvc.yaml:compare")
    assert set(stage.outputs) == {COMPARED}
    assert stage.items[0].address == "more/dvc.yaml:compare"
    assert with_more(project).graph.parents(stage) == (("users.txt",), SIZES)
    assert stage.meta["group"] == "more"


def test_the_first_pipeline_leaves_it_alone_and_both_tools_agree_on_what_is_behind(project):
    project = with_more(project)
    project.repro()
    assert "more/dvc.yaml:compare" not in read_lock(project.root)
    project.tick()
    assert project.behind_for_dagster() == project.behind_for_dvc() == {"more/dvc.yaml:compare"}
    project.repro("more/dvc.yaml")
    project.tick()
    assert project.behind_for_dagster() == project.behind_for_dvc() == set()
    project.write("more/params.yaml", "sizes: [1, 2, 3]\n")
    project.tick()
    assert project.behind_for_dagster() == project.behind_for_dvc() == {"more/dvc.yaml:compare"}
    assert project.materialize("more/dvc.yaml:compare").success
    assert project.behind_for_dagster() == project.behind_for_dvc() == set()


def test_a_stage_may_have_the_name_of_one_in_the_first(project):
    project.write("more/dvc.yaml", MORE.replace("compare:", "users:"))
    project.write("more/params.yaml", "sizes: [1, 2]\n")
    project = Project(project.root, project.instance)
    assert set(project.graph.stage("users").outputs) == {("users.txt",)}
    assert set(project.graph.stage("more/dvc.yaml:users").outputs) == {COMPARED}
    project.repro()
    assert project.materialize("more/dvc.yaml:users").success
    assert project.behind_for_dagster() == project.behind_for_dvc() == set()
