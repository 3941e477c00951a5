"""docs/reliability.md promises nothing without a test."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")


def test_every_test_that_the_page_names_is_there():
    there = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    functions = re.findall(r"`(test_\w+?)…?`", PAGE)
    assert len(functions) > 40
    assert [name for name in functions if f"def {name}" not in there] == []
    files = re.findall(r"`([\w/]+\.py)`", PAGE)
    beside = {name for name in files if not (ROOT / "tests" / name).is_file() and not (ROOT / name).is_file()}
    assert beside == set()
