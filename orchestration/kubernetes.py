"""What Kubernetes has to know of a stage, as op tags for the executor of dagster-k8s; ignored everywhere else."""

from collections.abc import Mapping
from typing import Any

GPU = "nvidia.com/gpu"

RESTRICTED: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Of a step's container: what the pod security standard "restricted" asks for, and a root that nothing writes to."""
SCRATCH = "scratch"


def op_tags(hints: Mapping[str, Any]) -> dict[str, Any]:
    """Tags for what `meta: {dagster: ...}` of a stage says: `gpus: 1`, `cpu: 4`, `memory: 16Gi` for its pod.

    A request is also the limit of memory: more than was asked for is somebody else's.
    """
    requests = {name: str(hints[name]) for name in ("cpu", "memory") if name in hints}
    limits = {"memory": requests["memory"]} if "memory" in requests else {}
    container: dict[str, Any] = {
        "security_context": RESTRICTED,
        "volume_mounts": [{"name": SCRATCH, "mountPath": "/tmp"}],
        "env": [{"name": "HOME", "value": "/tmp"}],
    }
    pod: dict[str, Any] = {
        "security_context": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
        "volumes": [{"name": SCRATCH, "emptyDir": {}}],
    }
    if hints.get("gpus"):
        limits[GPU] = str(hints["gpus"])
        # Nodes with GPUs are commonly tainted with the name of the resource, to keep other pods away.
        pod["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    if requests or limits:
        container["resources"] = {"requests": requests, "limits": limits}
    return {"dagster-k8s/config": {"container_config": container, "pod_spec_config": pod}}
