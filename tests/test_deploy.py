"""The files in deploy/ without a cluster: what they would start, and that it is taken away again."""

import os
import random
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from ruamel.yaml import YAML

DEPLOY = Path(__file__).parents[1] / "deploy"
STAGE = ["ppd", "stage", "finetune", "--method", "ppd"]


def command(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Commands that do here what Slurm's do on two nodes; what the stage was started as goes to `started`."""
    (tmp_path / "started").mkdir()
    options = "while [[ $1 == --* ]]; do shift; done"
    twice = f'{options}; SLURM_NODEID=1 "$@" & SLURM_NODEID=0 "$@"; status=$?; wait %1 && exit $status'
    command(tmp_path, "srun", f'echo "$@" > {tmp_path}/srun.txt; {twice}')
    allocated = "SLURM_JOB_ID=7 SLURM_JOB_NUM_NODES=2 SLURM_JOB_NODELIST=node[1-2]"
    command(tmp_path, "salloc", f'echo "$@" > {tmp_path}/salloc.txt; {options}; exec env {allocated} "$@"')
    command(tmp_path, "scontrol", "echo 127.0.0.1; echo node2")
    command(tmp_path, "ppd", f'echo "$@" > {tmp_path}/started/$RANK-of-$WORLD_SIZE; exit ${{FAILING:-0}}')
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PPD_PROCESSES_PER_NODE": "2"}


def start(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    script = str(DEPLOY / "slurm/start.sh")
    return subprocess.run(
        [script, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.slow
def test_on_slurm_every_node_starts_its_processes_of_one_group(slurm: dict[str, str], tmp_path: Path) -> None:
    job = str(random.randrange(1, 10_000))
    allocated = {"SLURM_JOB_ID": job, "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    done = start(slurm | allocated, "--nodes=9", "--", *STAGE)
    assert done.returncode == 0, done.stderr[-2000:]
    started = {file.name: file.read_text() for file in (tmp_path / "started").iterdir()}
    assert started == {f"{rank}-of-4": "stage finetune --method ppd\n" for rank in range(4)}
    assert "--nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=1" in (tmp_path / "srun.txt").read_text()
    assert not (tmp_path / "salloc.txt").exists(), "there are nodes already"


def test_without_an_allocation_slurm_is_asked_for_one(slurm: dict[str, str], tmp_path: Path) -> None:
    command(tmp_path, "srun", f'echo "$@" > {tmp_path}/srun.txt')
    assert start(slurm, "--nodes=2", "--gpus-per-node=8", "--", *STAGE).returncode == 0
    assert (tmp_path / "salloc.txt").read_text().startswith("--nodes=2 --gpus-per-node=8 ")
    assert (tmp_path / "srun.txt").read_text().endswith("--no-python ppd stage finetune --method ppd\n")
    assert start(slurm, "--nodes=2").returncode == 2


def test_what_fails_on_slurm_is_started_again_but_not_for_ever(slurm: dict[str, str], tmp_path: Path) -> None:
    allocated = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    command(tmp_path, "srun", f'echo "$@" >> {tmp_path}/tries; [[ $(wc -l < {tmp_path}/tries) -ge $ENOUGH ]]')
    for enough, status, tries in (("2", 0, 2), ("9", 1, 3)):
        (tmp_path / "tries").unlink(missing_ok=True)
        assert start(slurm | allocated | {"ENOUGH": enough}, *STAGE).returncode == status
        said = (tmp_path / "tries").read_text().splitlines()
        assert len(said) == len(set(said)) == tries, "each time they meet under another name"


@pytest.fixture(scope="module")
def starter() -> ModuleType:
    spec = spec_from_file_location("start", DEPLOY / "kubernetes/start.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(starter: ModuleType, **changes: object) -> list[dict[str, object]]:
    options = {"pods": 4, "gpus": 8, "image": "registry.example/ppd:1", "claim": "ppd-repository"}
    return starter.manifests("ppd-finetune-1", STAGE, **(options | changes))


def test_on_kubernetes_a_job_has_pods_that_meet_at_the_first_one(starter: ModuleType) -> None:
    service, job = made(starter)
    # Raises for a field that Kubernetes does not know.
    k8s_model_from_dict(client.V1Service, k8s_snake_case_dict(client.V1Service, service))
    model = k8s_model_from_dict(client.V1Job, k8s_snake_case_dict(client.V1Job, job))
    assert (model.spec.completion_mode, model.spec.parallelism, model.spec.completions) == ("Indexed", 4, 4)
    pod = model.spec.template.spec
    assert pod.subdomain == service["metadata"]["name"] == "ppd-finetune-1"
    [container] = pod.containers
    assert container.resources.limits == {"nvidia.com/gpu": "8"}
    assert container.command[:2] == ["bash", "-c"]
    assert container.args[:2] == ["--nnodes=4", "--nproc-per-node=8"]
    assert "--rdzv-endpoint=ppd-finetune-1-0.ppd-finetune-1:29400" in container.args
    assert container.args[-len(STAGE) :] == STAGE
    assert made(starter, gpus=0)[1]["spec"]["template"]["spec"]["containers"][0].get("resources") is None


def test_its_pods_may_do_no_more_than_those_of_steps(starter: ModuleType) -> None:
    from orchestration.kubernetes import RESTRICTED

    job = made(starter)[1]["spec"]["template"]["spec"]
    assert k8s_snake_case_dict(client.V1SecurityContext, job["containers"][0]["securityContext"]) == (
        k8s_snake_case_dict(client.V1SecurityContext, RESTRICTED)
    )
    assert job["automountServiceAccountToken"] is False


@pytest.mark.parametrize(("condition", "status"), [("Complete", 0), ("Failed", 1)])
def test_what_was_made_is_removed_however_it_ends(
    starter: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    condition: str,
    status: int,
) -> None:
    calls: list[str] = []
    ended = [None, [SimpleNamespace(type=condition, status="True", reason="r", message="m")]]
    pod = SimpleNamespace(metadata=SimpleNamespace(name="pod-0", creation_timestamp=1))

    class Api:
        def create_namespaced_service(self, namespace: str, body: object) -> None:
            calls.append("service")

        def create_namespaced_job(self, namespace: str, body: object) -> None:
            calls.append("job")

        def read_namespaced_job(self, name: str, namespace: str) -> SimpleNamespace:
            return SimpleNamespace(status=SimpleNamespace(conditions=ended.pop(0)))

        def list_namespaced_pod(self, namespace: str, label_selector: str) -> SimpleNamespace:
            return SimpleNamespace(items=[pod])

        def read_namespaced_pod_log(self, name: str, namespace: str) -> str:
            return "step 1\n" if ended else "step 1\nstep 2\n"

        def delete_namespaced_job(self, name: str, namespace: str, propagation_policy: str) -> None:
            calls.append("no job")
            raise ApiException(status=404)

        def delete_namespaced_service(self, name: str, namespace: str) -> None:
            calls.append("no service")

    monkeypatch.setattr(starter.client, "CoreV1Api", Api)
    monkeypatch.setattr(starter.client, "BatchV1Api", Api)
    monkeypatch.setattr(starter, "POLL_S", 0)
    assert starter.run("ppd-finetune-1", made(starter), "ppd") == status
    assert calls == ["service", "job", "no job", "no service"]
    said = capsys.readouterr().err
    assert said.startswith("step 1\nstep 2\n")
    assert ("failed: r: m" in said) == bool(status)


def test_the_role_is_of_what_the_starter_does() -> None:
    role, binding = YAML(typ="safe", pure=True).load_all((DEPLOY / "kubernetes/training-role.yaml").read_text())
    k8s_model_from_dict(client.V1Role, k8s_snake_case_dict(client.V1Role, role))
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    allowed = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    text = (DEPLOY / "kubernetes/start.py").read_text()
    verbs = {"create": "create", "read": "get", "delete": "delete", "list": "list"}
    resources = {"job": "jobs", "service": "services", "pod": "pods", "pod_log": "pods/log"}
    used = {
        (plural, verb)
        for word, verb in verbs.items()
        for resource, plural in resources.items()
        if f".{word}_namespaced_{resource}(" in text or f".{word}_namespaced_{resource}," in text
    }
    assert used == allowed
