"""The bar that long work shows: what is done of how much, and the time that is left."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


def progress_bar(*more: ProgressColumn, console: Console | None = None) -> Progress:
    """A bar on stderr, so that what a command prints stays clean. more: columns after the usual ones."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), *more)
    return Progress(*columns, console=console or Console(stderr=True))
