"""Without a cluster: the tags fit dagster-k8s's own schema, and the pods that it would start are what was meant."""

import dagster as dg
import pytest
from dagster_k8s.job import DagsterK8sJobConfig, construct_dagster_k8s_job, get_user_defined_k8s_config
from ruamel.yaml import YAML

from orchestration.dvc_assets import build_assets
from orchestration.dvc_graph import read_graph

VALUES = "deploy/kubernetes/values.yaml"


@pytest.fixture
def values(request: pytest.FixtureRequest):
    return YAML(typ="safe", pure=True).load((request.config.rootpath / VALUES).read_text())


@pytest.fixture
def steps(project):
    """Each stage's op, when shards ask for a GPU each and a training for eight."""
    text = (project.root / "dvc.yaml").read_text()
    text = text.replace("partitions: true", "partitions: true, gpus: 1")
    text = text.replace(
        'outs: ["models/${item.method}"]', 'outs: ["models/${item.method}"]\n    meta: {dagster: {gpus: 8}}'
    )
    project.write("dvc.yaml", text)
    assets = build_assets(read_graph(project.root))
    return {asset.op.name: asset for asset in assets if isinstance(asset, dg.AssetsDefinition)}


def pod(asset: dg.AssetsDefinition) -> dict[str, object]:
    """The pod of a step, as the executor builds it."""
    job = construct_dagster_k8s_job(
        DagsterK8sJobConfig(job_image="ppd:1", dagster_home="/opt/dagster", instance_config_map="instance"),
        args=["dagster", "api", "execute_step"],
        job_name="step",
        user_defined_k8s_config=get_user_defined_k8s_config(asset.op.tags),
        component="step_worker",
    )
    return job.to_dict()["spec"]["template"]["spec"]


@pytest.mark.parametrize(("step", "gpus"), [("embed", 1), ("train_ppd", 8), ("train_dpo", 8)])
def test_a_step_gets_the_gpus_that_dvc_yaml_says(steps, step, gpus):
    found = pod(steps[step])
    [container] = found["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": str(gpus)}
    assert [toleration["key"] for toleration in found["tolerations"]] == ["nvidia.com/gpu"]


def test_other_steps_ask_for_none(steps):
    [container] = pod(steps["prepare"])["containers"]
    assert container["resources"] is None or not container["resources"]["limits"]


def test_a_step_asks_for_the_cpus_and_the_memory_that_dvc_yaml_says(project):
    text = (project.root / "dvc.yaml").read_text()
    project.write("dvc.yaml", text.replace("partitions: true", "partitions: true, gpus: 1, cpu: 4, memory: 16Gi"))
    assets = [asset for asset in build_assets(read_graph(project.root)) if isinstance(asset, dg.AssetsDefinition)]
    [container] = pod(next(asset for asset in assets if asset.op.name == "embed"))["containers"]
    assert container["resources"]["requests"] == {"cpu": "4", "memory": "16Gi"}
    assert container["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": "1"}


@pytest.mark.parametrize("step", ["prepare", "embed"])
def test_no_step_is_root_or_writes_outside_of_its_volumes(steps, step):
    found = pod(steps[step])
    [container] = found["containers"]
    assert (found["security_context"]["run_as_user"], found["security_context"]["fs_group"]) == (1000, 1000)
    context = container["security_context"]
    assert context["run_as_non_root"] and context["read_only_root_filesystem"]
    assert context["allow_privilege_escalation"] is False
    assert context["capabilities"]["drop"] == ["ALL"]
    assert {mount["mount_path"] for mount in container["volume_mounts"]} >= {"/tmp"}


def test_services_and_runs_are_not_root_either(values):
    [deployment] = values["dagster-user-deployments"]["deployments"]
    for settings in (deployment, values["dagsterWebserver"], values["dagsterDaemon"]):
        assert settings["podSecurityContext"]["runAsUser"] == 1000
        assert settings["securityContext"]["runAsNonRoot"] and settings["securityContext"]["readOnlyRootFilesystem"]
        assert "/tmp" in {mount["mountPath"] for mount in settings["volumeMounts"]}
    run = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    assert run["podSpecConfig"]["securityContext"]["runAsUser"] == 1000
    assert run["containerConfig"]["securityContext"]["runAsNonRoot"]


def test_the_webserver_is_reached_through_a_login_alone(values):
    assert values["dagsterWebserver"]["service"]["type"] == "ClusterIP"
    assert "auth-url" in " ".join(values["ingress"]["annotations"])


def test_shards_with_a_gpu_each_are_runs_of_their_own_and_others_share_one(steps, project):
    assert steps["embed"].backfill_policy == dg.BackfillPolicy.multi_run(1)
    here = {asset.op.name: asset for asset in project.assets}
    assert here["embed"].backfill_policy == dg.BackfillPolicy.single_run()


def test_what_the_chart_loads_is_there_and_gives_each_step_a_pod(values):
    from orchestration.on_kubernetes import defs

    [deployment] = values["dagster-user-deployments"]["deployments"]
    arguments = dict(zip(*[iter(deployment["dagsterApiGrpcArgs"])] * 2, strict=True))
    assert arguments["--module-name"] == "orchestration.on_kubernetes"
    assert arguments["--working-directory"] in {mount["mountPath"] for mount in deployment["volumeMounts"]}
    dg.Definitions.validate_loadable(defs)
    assert defs.resolve_job_def("embed_shard").executor_def.name == "k8s"


def test_the_database_is_not_reached_by_a_driver_that_is_not_there(values):
    # With SQLAlchemy 2.1 `postgresql://` means psycopg 3.
    assert values["postgresql"]["postgresqlScheme"] == "postgresql+psycopg2"
