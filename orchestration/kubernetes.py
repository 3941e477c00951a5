"""What Kubernetes has to know of a stage, as op tags for the executor of dagster-k8s; ignored everywhere else."""

from collections.abc import Mapping
from typing import Any

GPU = "nvidia.com/gpu"


def op_tags(hints: Mapping[str, Any]) -> dict[str, Any]:
    """Tags for what `meta: {dagster: ...}` of a stage says: `gpus: 1` asks for a pod with that many of them."""
    if not hints.get("gpus"):
        return {}
    # Nodes with GPUs are commonly tainted with the name of the resource, to keep other pods away.
    tolerated = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
    return {
        "dagster-k8s/config": {
            "container_config": {"resources": {"limits": {GPU: hints["gpus"]}}},
            "pod_spec_config": {"tolerations": [tolerated]},
        }
    }
