"""Accepting results: an explicit job that commits what DVC and the clock wrote. No run ever does this by itself."""

from collections.abc import Callable

import dagster as dg

from orchestration import dvc_process
from orchestration.dvc_graph import Graph
from orchestration.dvc_state import default_remote, is_inside

RESULTS = ("dvc.lock", "reports", "evaluations")
"""What a run leaves behind that git keeps; later runs are held against the win rates in it."""


class Record(dg.Config):
    """What to say, and whether others get it."""

    message: str = "Results"
    push: bool = False
    """Push the commit, and what it needs to DVC's default remote, which must not lie in this repository."""


def build_record(graph: Graph) -> dg.JobDefinition:
    """The job `record_results`."""

    def own_remote(log: Callable[[str], None]) -> None:
        """Says where data goes. The remote inside the repository holds what a fresh clone needs, and no results."""
        remote = default_remote(graph.root)
        if remote is None:
            raise dg.Failure("DVC has no default remote to push to: `dvc remote add -d mine s3://...`")
        name, url = remote
        if is_inside(url, graph.root):
            raise dg.Failure(
                f"DVC's default remote {name} is {url}, inside this repository: every result would be committed with "
                "it. Add one of your own: `dvc remote add -d mine s3://...`"
            )
        log(f"Data goes to DVC's remote {name}, {url}.")

    @dg.op
    def commit_results(context: dg.OpExecutionContext, config: Record) -> None:
        def git(*arguments: str) -> list[str]:
            lines: list[str] = []
            dvc_process.run_group(["git", *arguments], graph.root, lines.append)
            for line in lines:
                context.log.info(line)
            return lines

        if config.push:
            own_remote(context.log.info)
        inputs = [tracked.file for tracked in graph.tracked]
        paths = [path for path in (*RESULTS, *inputs) if (graph.root / path).exists()]
        git("add", "--", *paths)
        if not git("diff", "--cached", "--name-only", "--", *paths):
            context.log.info("Nothing has changed since the last commit.")
        else:
            git("commit", "-m", config.message, "--", *paths)
        if config.push:
            dvc_process.run(graph.root, ["push"], context.log.info)
            git("push", "--verbose")

    @dg.job(description="Commit dvc.lock, the reports and the history; with `push`, to git's and DVC's remotes.")
    def record_results() -> None:
        commit_results()

    return record_results
