#!/bin/bash
# Runs `ppd stage …` on all nodes of a Slurm allocation, a process a GPU. In params.yaml:
#
#   launch: {processes: auto, training: auto, command: "deploy/slurm/start.sh --nodes=4 --gpus-per-node=8 --time=24:00:00 --"}
#
# What stands before `--` are options of salloc, which gets the nodes for the time of this one stage. Inside of an
# allocation (deploy/slurm/repro.sbatch) they count for nothing: its nodes are used. The repository, its environment and
# its data lie on a disk that all nodes share, at the same path.
set -euo pipefail

options=()
while [[ $# -gt 0 && $1 != -- && $1 != ppd ]]; do
    options+=("$1")
    shift
done
if [[ ${1-} == -- ]]; then
    shift
fi
if [[ ${1-} != ppd ]]; then
    echo "usage: start.sh [options of salloc] -- ppd stage NAME …" >&2
    exit 2
fi
if [[ -z ${SLURM_JOB_ID-} ]]; then
    exec salloc "${options[@]}" "$0" -- "$@"
fi

nodes=$SLURM_JOB_NUM_NODES
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
# A port of this job's own: two jobs may share a node.
port=$((29400 + SLURM_JOB_ID % 1000))
# One torchrun a node, which meets the others' and starts a process a GPU. Where a process is lost, Slurm ends all of them
# and all start again: at the last checkpoint (of training) or with the units that are there (of every other stage). The
# first node is told that it is where they meet: by its name alone torchrun does not know a node with several networks.
for attempt in 1 2 3; do
    # shellcheck disable=SC2016 # each node's own shell knows its number
    srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --kill-on-bad-exit=1 \
        bash -c 'exec torchrun --rdzv-conf=is_host=$((SLURM_NODEID == 0)) "$@"' torchrun \
        --nnodes="$nodes" --nproc-per-node="${PPD_PROCESSES_PER_NODE:-gpu}" --max-restarts=0 \
        --rdzv-backend=c10d --rdzv-endpoint="$first:$port" --rdzv-id="ppd-$SLURM_JOB_ID-$$-$attempt" \
        --no-python "$@" && exit
    echo "start.sh: attempt $attempt of 3 failed" >&2
done
exit 1
