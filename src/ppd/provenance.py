"""Which version of the code made something."""

import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def code_commit() -> str:
    """The commit of the code that runs, with -dirty where this package differs from it; empty where git does not know.

    What runs beside the code, such as dvc.lock, is no difference: two clones of a commit say the same.
    """
    try:
        commit = _git("rev-parse", "HEAD").stdout.strip()
        dirty = bool(commit) and _git("diff", "--quiet", "HEAD", "--", ".").returncode != 0
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f"{commit}-dirty" if dirty else commit


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False, timeout=60)
