"""The same code location, each step in a pod of its own. deploy/kubernetes/values.yaml loads this module."""

import dagster as dg
from dagster_k8s import k8s_job_executor

from orchestration import definitions

# Image, volumes and environment of the pods come from the deployment that loaded this (includeConfigInLaunchedRuns).
defs = dg.Definitions.merge(definitions.defs, dg.Definitions(executor=k8s_job_executor))
