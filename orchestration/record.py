"""Accepting results: an explicit job that commits what DVC and the clock wrote. No run ever does this by itself."""

import dagster as dg

from orchestration import dvc_process
from orchestration.dvc_graph import Graph

RESULTS = ("dvc.lock", "reports", "evaluations")
"""What a run leaves behind that git keeps; later runs are held against the win rates in it."""


class Record(dg.Config):
    """What to say, and whether others get it."""

    message: str = "Results"
    push: bool = False
    """Push the commit, and what it needs to DVC's remote."""


def build_record(graph: Graph) -> dg.JobDefinition:
    """The job `record_results`."""

    @dg.op
    def commit_results(context: dg.OpExecutionContext, config: Record) -> None:
        def git(*arguments: str) -> list[str]:
            lines: list[str] = []
            dvc_process.run_group(["git", *arguments], graph.root, lines.append)
            for line in lines:
                context.log.info(line)
            return lines

        inputs = [tracked.file for tracked in graph.tracked]
        paths = [path for path in (*RESULTS, *inputs) if (graph.root / path).exists()]
        git("add", "--", *paths)
        if not git("diff", "--cached", "--name-only", "--", *paths):
            context.log.info("Nothing has changed since the last commit.")
        else:
            git("commit", "-m", config.message, "--", *paths)
        if config.push:
            dvc_process.run(graph.root, ["push"], context.log.info)
            git("push")

    @dg.job(description="Commit dvc.lock, the reports and the history; with `push`, to git's and DVC's remotes.")
    def record_results() -> None:
        commit_results()

    return record_results
