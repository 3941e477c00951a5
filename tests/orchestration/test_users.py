"""New users, through the real stages: noticed, put on the watch list, and only their shard is embedded."""

import shutil
import subprocess
from pathlib import Path

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from orchestration import dvc_process
from orchestration.dvc_assets import build_assets
from orchestration.dvc_graph import read_graph
from orchestration.users import MANIFEST, WATCH_LIST, WATCHED_USERS, build_users
from ppd.settings import LogSettings, PeopleSettings, PreferenceSettings, Settings
from ppd.simulation.log import simulate

ROOT = Path(__file__).parents[2]
SHARDS = ["s-00", "s-01"]
SETTINGS = Settings(preferences=PreferenceSettings(eval_caption_share=0.25, max_groups=1, n_shards=len(SHARDS)))

pytestmark = pytest.mark.slow


class Town:
    """The pipeline up to the embeddings, on a log that grows."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.root, self.instance = root, instance
        graph = read_graph(root)
        watched, jobs, sensors = build_users(graph)
        manifest = dg.AssetSpec(dg.AssetKey(MANIFEST))
        self.defs = dg.Definitions([*build_assets(graph), manifest, *watched], jobs=jobs, sensors=sensors)

    def tick(self, sensor: str) -> list[dg.RunRequest]:
        """One tick as the daemon makes it; what it asks for is returned."""
        context = dg.build_sensor_context(instance=self.instance, repository_def=self.defs.get_repository_def())
        found = self.defs.resolve_sensor_def(sensor).evaluate_tick(context)
        return list(found.run_requests or [])

    def run(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        job = self.defs.resolve_job_def(request.job_name)
        return job.execute_in_process(
            instance=self.instance, partition_key=request.partition_key, tags=request.tags, raise_on_error=False
        )

    def materialize(self, user_id: str, *, force: bool) -> dg.AssetMaterialization:
        config = {"ops": {"watched_users": {"config": {"force": force}}}}
        assets = [asset for asset in self.defs.assets if isinstance(asset, dg.AssetsDefinition)]
        selection = dg.AssetSelection.assets(dg.AssetKey(WATCHED_USERS))
        assert dg.materialize(
            assets, selection=selection, instance=self.instance, partition_key=user_id, run_config=config
        ).success
        return self.latest(user_id)

    def latest(self, user_id: str) -> dg.AssetMaterialization:
        record = self.instance.get_latest_data_version_record(dg.AssetKey(WATCHED_USERS), False, user_id)
        assert record is not None
        return record.asset_materialization

    def embedded(self) -> dict[str, bytes]:
        return {shard: (self.root / f"artifacts/users/{shard}/embeddings.parquet").read_bytes() for shard in SHARDS}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory, atlas):
    root = tmp_path_factory.mktemp("town")
    pipeline = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
    stages = {name: pipeline[name] for name in ("ingest", "embed")}
    stages["embed"]["matrix"]["shard"] = SHARDS
    for stage in stages.values():
        stage["deps"] = [dep for dep in stage["deps"] if not dep.startswith("src/")]
    for name, content in {"dvc.yaml": {"stages": stages}, "params.yaml": SETTINGS.model_dump(mode="json")}.items():
        with (root / name).open("w") as file:
            YAML().dump(content, file)
    shutil.copytree(ROOT / "data/models/vlm", root / "data/models/vlm")
    log = LogSettings(n_users=9, rows_per_user=(24, 26))
    simulate(log, PeopleSettings(), atlas, root / "everybody", root / "truth")
    rows = pq.read_table(root / "everybody")
    user_ids = sorted(rows["user_id"].unique().to_pylist())
    new = pa.array([user_id == user_ids[-1] for user_id in rows["user_id"].to_pylist()])
    (root / "data/choices").mkdir()
    pq.write_table(rows.filter(pa.compute.invert(new)), root / "data/choices/a.parquet")
    pq.write_table(rows.filter(new), root / "new.parquet")
    subprocess.run(["git", "init", "-q", root], check=True)
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.chdir(root)
        Repo.init(str(root)).close()
        with Repo(str(root)) as repo:
            repo.add("data")
        dvc_process.run(root, ["repro"], print)
        yield Town(root, instance), str(user_ids[-1])


def test_a_new_user_is_noticed_and_only_their_shard_is_embedded(town):
    town, user_id = town
    assert town.tick("embed_arrivals") == []
    town.tick("watched_users")
    assert len(town.instance.get_dynamic_partitions(WATCH_LIST.name)) == 6, "the list begins with some users to look at"
    before = town.embedded()
    shutil.copy(town.root / "new.parquet", town.root / "data/choices/b.parquet")
    [request] = town.tick("embed_arrivals")
    assert request.job_name == "ingest_log"
    assert town.run(request).success
    town.tick("watched_users")
    assert user_id in town.instance.get_dynamic_partitions(WATCH_LIST.name)

    [request] = town.tick("embed_arrivals")
    users = pd.read_parquet(town.root / "artifacts/preferences/users.parquet").set_index("user_id")
    assert (request.job_name, request.partition_key) == ("embed_shard", users.shard[user_id])
    assert town.run(request).success
    after = town.embedded()
    assert {shard for shard in SHARDS if before[shard] != after[shard]} == {users.shard[user_id]}
    assert town.tick("embed_arrivals") == []
    town.tick("watched_users")
    shown = town.latest(user_id).metadata
    assert shown["shard"].value == users.shard[user_id]
    assert "data:image/png" in shown["chose | rejected"].value


def test_a_log_that_comes_back_to_an_earlier_state_and_a_run_that_failed_are_run_again(town, monkeypatch):
    town, _ = town
    latest, kept = town.root / "data/choices/b.parquet", town.root / "new.parquet"
    keys = []

    def arrive() -> dg.RunRequest:
        [request] = town.tick("embed_arrivals")
        keys.append(request.run_key)
        return request

    for present in (False, True, False):  # B -> A -> B -> A
        shutil.copy(kept, latest) if present else latest.unlink()
        assert town.run(arrive()).success
    assert len(set(keys)) == 3

    latest.write_text("not a table")
    monkeypatch.setattr("orchestration.users.MAX_ATTEMPTS", 2)
    for _ in range(2):
        assert not town.run(arrive()).success
    assert len(set(keys)) == 5
    assert town.tick("embed_arrivals") == [], "what fails again and again is left to a person"
    latest.unlink()
    assert town.run(arrive()).success, "DVC has removed what the failed run was to make"
    shutil.copy(kept, latest)
    assert town.run(arrive()).success
    assert [town.run(request).success for request in town.tick("embed_arrivals")] == []


def test_one_user_is_embedded_again_alone(town, monkeypatch: pytest.MonkeyPatch):
    town, _ = town
    town.tick("watched_users")
    user_id = town.instance.get_dynamic_partitions(WATCH_LIST.name)[0]
    before = town.latest(user_id)
    assert town.materialize(user_id, force=False).metadata["outcome"].value == "skipped"
    again = town.materialize(user_id, force=True)
    assert again.metadata["outcome"].value == "ran"
    assert again.tags["dagster/data_version"] == before.tags["dagster/data_version"]
    assert again.metadata["mean norm"].value == pytest.approx(before.metadata["mean norm"].value, rel=1e-4)
    with Repo(str(town.root)) as repo:
        assert repo.status() == {}


def test_a_user_whom_the_log_does_not_know_is_an_error_that_says_so(town):
    town, _ = town
    town.instance.add_dynamic_partitions(WATCH_LIST.name, ["nobody"])
    with pytest.raises(dg.Failure, match=r"user_id 'nobody'; it knows \d+ users, such as"):
        town.materialize("nobody", force=False)
    town.instance.delete_dynamic_partition(WATCH_LIST.name, "nobody")
