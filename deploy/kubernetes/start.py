"""Runs `ppd stage …` in several pods, a process a GPU. In params.yaml:

    launch: {command: "python deploy/kubernetes/start.py --pods 4 --gpus 8 --image registry.example/ppd:1 --"}

For the pod in which `dvc repro` or a Dagster step runs, whose service account has training-role.yaml. It makes what
training.yaml holds, shows what the first process says, waits, and removes it again, also when it is ended itself.
"""

import argparse
import signal
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from ruamel.yaml import YAML

TEMPLATE = Path(__file__).with_name("training.yaml")
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
PORT = 29400
POLL_S = 5.0


def manifests(
    name: str, command: Sequence[str], *, pods: int, gpus: int, image: str, claim: str
) -> list[dict[str, Any]]:
    """The service and the job of one stage."""
    words = {"NAME": name, "PODS": pods, "GPUS": str(gpus), "IMAGE": image, "CLAIM": claim}
    service, job = YAML(typ="safe", pure=True).load_all(TEMPLATE.read_text(encoding="utf-8"))
    service, job = _filled(service, words), _filled(job, words)
    container = job["spec"]["template"]["spec"]["containers"][0]
    if not gpus:
        del container["resources"]
    container["args"] = [
        f"--nnodes={pods}",
        f"--nproc-per-node={gpus or 'auto'}",
        "--max-restarts=3",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={name}-0.{name}:{PORT}",
        f"--rdzv-id={name}",
        "--no-python",
        *command,
    ]
    return [service, job]


def _filled(part: Any, words: Mapping[str, object]) -> Any:
    if isinstance(part, dict):
        return {key: _filled(value, words) for key, value in part.items()}
    if isinstance(part, list):
        return [_filled(value, words) for value in part]
    return words.get(part, part) if isinstance(part, str) else part


def run(name: str, made: Sequence[dict[str, Any]], namespace: str) -> int:
    """Make them, wait, remove them; 0 if the job came to its end, else 1."""
    core, batch = client.CoreV1Api(), client.BatchV1Api()
    service, job = made
    try:
        core.create_namespaced_service(namespace, service)
        batch.create_namespaced_job(namespace, job)
        shown = 0
        while True:
            status = batch.read_namespaced_job(name, namespace).status
            shown = _show(core, name, namespace, shown)
            for condition in status.conditions or []:
                if condition.status == "True" and condition.type in ("Complete", "Failed"):
                    _show(core, name, namespace, shown)
                    if condition.type == "Failed":
                        print(f"the job {name} failed: {condition.reason}: {condition.message}", file=sys.stderr)
                    return int(condition.type == "Failed")
            time.sleep(POLL_S)
    finally:
        _remove(batch.delete_namespaced_job, name, namespace, propagation_policy="Background")
        _remove(core.delete_namespaced_service, name, namespace)


def _show(core: client.CoreV1Api, name: str, namespace: str, shown: int) -> int:
    """Print what the newest pod of the first place has said beyond `shown` characters; how many there are now."""
    which = f"job-name={name},batch.kubernetes.io/job-completion-index=0"
    try:
        pods = core.list_namespaced_pod(namespace, label_selector=which).items
        if not pods:
            return shown
        newest = max(pods, key=lambda pod: pod.metadata.creation_timestamp)
        text = core.read_namespaced_pod_log(newest.metadata.name, namespace)
    except ApiException:  # not begun yet, or between two pods
        return shown
    sys.stderr.write(text[shown if shown <= len(text) else 0 :])
    sys.stderr.flush()
    return len(text)


def _remove(delete: Any, name: str, namespace: str, **options: str) -> None:
    try:
        delete(name, namespace, **options)
    except ApiException as error:
        if error.status != 404:
            print(f"{name} could not be removed: {error.reason}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True, help="of each pod; 0: a process a core")
    parser.add_argument("--image", required=True)
    parser.add_argument("--claim", default="ppd-repository", help="the volume that holds this repository")
    parser.add_argument("command", nargs="+", help="-- ppd stage …")
    args = parser.parse_args()
    config.load_incluster_config()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left running
    name = f"ppd-{args.command[2] if len(args.command) > 2 else 'stage'}-{uuid.uuid4().hex[:8]}"
    made = manifests(name, args.command, pods=args.pods, gpus=args.gpus, image=args.image, claim=args.claim)
    sys.exit(run(name, made, NAMESPACE_FILE.read_text().strip()))


if __name__ == "__main__":
    main()
