"""Accepting results: an explicit job that commits what DVC and the clock wrote. No run ever does this by itself.

`python -m orchestration.record --push` does the same from a shell, such as on a rented machine with a GPU.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from orchestration import dvc_process
from orchestration.dvc_graph import Graph, read_graph
from orchestration.dvc_state import default_remote, is_inside

RESULTS = ("dvc.lock", "reports", "evaluations")
"""What a run leaves behind that git keeps; later runs are held against the win rates in it."""

Log = Callable[[str], None]


class Record(dg.Config):
    """What to say, and whether others get it."""

    message: str = "Results"
    push: bool = False
    """Push the commit, and what it needs to DVC's default remote, which must not lie in this repository."""


def record(graph: Graph, message: str, push: bool, log: Log) -> None:
    """Commit the results, and push data, DVC's run cache and the commit if told to. Raises dvc_process.Failed."""

    def git(*arguments: str) -> list[str]:
        lines: list[str] = []
        dvc_process.run_group(["git", *arguments], graph.root, lines.append)
        for line in lines:
            log(line)
        return lines

    if push:
        _check_remote(graph.root, log)
    inputs = [tracked.file for tracked in graph.tracked]
    paths = [path for path in (*RESULTS, *inputs) if (graph.root / path).exists()]
    git("add", "--", *paths)
    if not git("diff", "--cached", "--name-only", "--", *paths):
        log("Nothing has changed since the last commit.")
    else:
        git("commit", "-m", message, "--", *paths)
    if push:
        dvc_process.run(graph.root, ["push", "--run-cache"], log)
        git("push", "--verbose")


def _check_remote(root: Path, log: Log) -> None:
    """Says where data goes. The remote inside the repository holds what a fresh clone needs, and no results."""
    remote = default_remote(root)
    if remote is None:
        raise dvc_process.Failed("DVC has no default remote to push to: `dvc remote add --local -d mine s3://...`")
    name, url = remote
    if is_inside(url, root):
        raise dvc_process.Failed(
            f"DVC's default remote {name} is {url}, inside this repository: every result would be committed with it. "
            "Add one of your own: `dvc remote add --local -d mine s3://...`"
        )
    log(f"Data goes to DVC's remote {name}, {url}.")


def build_record(graph: Graph) -> dg.JobDefinition:
    """The job `record_results`."""

    @dg.op
    def commit_results(context: dg.OpExecutionContext, config: Record) -> None:
        record(graph, config.message, config.push, context.log.info)

    @dg.job(description="Commit dvc.lock, the reports and the history; with `push`, to git's and DVC's remotes.")
    def record_results() -> None:
        commit_results()

    return record_results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Commit dvc.lock, the reports and the history.")
    parser.add_argument("--message", default="Results")
    parser.add_argument("--push", action="store_true", help="to git's remote and DVC's default remote")
    arguments = parser.parse_args()
    try:
        record(read_graph(Path.cwd()), arguments.message, arguments.push, print)
    except dvc_process.Failed as failure:
        raise SystemExit(f"record: {failure}") from failure
