"""A small DVC project with everything that the pipeline has: a matrix of shards, a part read by itself, a fan-in."""

import shutil
import subprocess
import time
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from dvc.repo import Repo

from orchestration.dvc_assets import build_assets
from orchestration.dvc_graph import Graph, read_graph
from orchestration.sensors import dvc_state_sensor

SHARDS = ("s-00", "s-01", "s-02")

DVC_YAML = """
stages:
  prepare:
    desc: The inputs, cut in shards.
    cmd: mkdir -p prepared/shards && cp data/s-*.txt prepared/shards/ && cat code/prepare.txt > prepared/all.txt
    deps: [data, code/prepare.txt]
    params: [prepare]
    outs: [prepared]
    meta: {dagster: {group: inputs, kinds: [text], owners: ["team:data"]}}
  embed:
    matrix:
      shard: [s-00, s-01, s-02]
    cmd: >-
      mkdir -p embedded/${item.shard} &&
      cat code/embed.txt prepared/shards/${item.shard}.txt > embedded/${item.shard}/e.txt
    deps: ["prepared/shards/${item.shard}.txt", code/embed.txt]
    outs: ["embedded/${item.shard}"]
    meta: {dagster: {partitions: true, pool: gpu}}
  users:
    cmd: cat embedded/*/e.txt > users.txt
    deps: [embedded]
    outs: [users.txt]
  train:
    matrix:
      method: [ppd, dpo]
    cmd: mkdir -p models/${item.method} && cat users.txt params.yaml > models/${item.method}/m.txt
    deps: [users.txt]
    params: ["train.${item.method}"]
    outs: ["models/${item.method}"]
  report:
    cmd: 'mkdir -p reports && wc -c models/*/m.txt > reports/lines.txt && echo "{}" > reports/metrics.json'
    deps: [models]
    outs: [reports/lines.txt]
    metrics: [{reports/metrics.json: {cache: false}}]
"""


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Project:
    """The project, its two doors, and what each of DVC and Dagster says is out of date."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.root, self.instance = root, instance
        self.graph: Graph = read_graph(root)
        assets = build_assets(self.graph)
        self.assets = [asset for asset in assets if isinstance(asset, dg.AssetsDefinition)]
        self.defs = dg.Definitions(assets=assets, sensors=[dvc_state_sensor(self.graph)])
        self.cursor: str | None = None

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def repro(self, *targets: str, single: bool = False) -> None:
        """The door of the shell."""
        with Repo(str(self.root)) as repo:
            repo.reproduce(targets=list(targets) or None, single_item=single)

    def materialize(self, stage: str, partition: str | None = None, **options: object) -> dg.ExecuteInProcessResult:
        """The door of the user interface."""
        keys = [dg.AssetKey(key) for key in self.graph.stage(stage).outputs]
        name = next(asset.op.name for asset in self.assets if keys[0] in asset.keys)
        return dg.materialize(
            self.assets,
            selection=dg.AssetSelection.assets(*keys),
            instance=self.instance,
            partition_key=partition,
            run_config={"ops": {name: {"config": options}}} if options else None,
            raise_on_error=False,
        )

    def tick(self) -> str:
        """One tick of the sensor; returns what it says."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        said = self.defs.resolve_sensor_def("dvc_state")(context)
        self.cursor = context.cursor
        assert isinstance(said, dg.SkipReason)
        return said.skip_message or ""

    def behind_for_dvc(self) -> set[str]:
        with Repo(str(self.root)) as repo:
            return {address for address in repo.status() if not address.endswith(".dvc")}

    def behind_for_dagster(self) -> set[str]:
        graph = self.defs.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        return {
            item.address
            for stage in self.graph.stages
            for key in stage.outputs
            for item in stage.items
            if resolver.get_status(dg.AssetKey(key), item.partition) != StaleStatus.FRESH
        }


def build(root: Path) -> None:
    """The project's files, in a git and DVC repository."""
    files = {f"data/{shard}.txt": f"user of {shard}\n" for shard in SHARDS}
    files |= {"code/prepare.txt": "prepare 1\n", "code/embed.txt": "embed 1\n", "dvc.yaml": DVC_YAML}
    files |= {"params.yaml": "prepare: {scale: 1}\ntrain: {ppd: {lr: 1}, dpo: {lr: 1}}\n"}
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    subprocess.run(["git", "init", "-q", root], check=True)
    Repo.init(str(root)).close()
    with Repo(str(root)) as repo, repo.config.edit() as config:
        config["core"] = {"analytics": False, "check_update": False}
    with Repo(str(root)) as repo:
        repo.add("data")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project before anything ran, made once."""
    root = tmp_path_factory.mktemp("template") / "project"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        build(root)
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = shutil.copytree(template, tmp_path / "project")
    monkeypatch.chdir(root)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Project(root, instance)
