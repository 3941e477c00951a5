"""Rewrites docs/dependencies.md: what is installed of constraints.txt, and under which licence each says it is.

`python bench/dependencies.py`, in an environment made by `make install`.
"""

from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """# Dependencies and their licences

What `make install` installs, pinned in [constraints.txt](../constraints.txt), with the licence that each distribution
states about itself. Written by `python bench/dependencies.py`. No database of known weaknesses
was asked; `pip-audit -r constraints.txt` asks one.

| distribution | version | licence |
|---|---|---|
"""


def licence(found: metadata.PackageMetadata) -> str:
    """The SPDX expression, else the classifiers, else the first line of the licence field."""
    if expression := found.get("License-Expression"):
        return str(expression)
    classifiers = [c.rpartition(" :: ")[2] for c in found.get_all("Classifier") or [] if c.startswith("License ::")]
    classifiers = [name for name in classifiers if name != "OSI Approved"]
    stated = (found.get("License") or "").strip().splitlines()
    return ", ".join(classifiers) or (stated[0][:60] if stated else "not stated")


def main() -> None:
    rows = []
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith("#") or "==" not in line:
            continue
        name, version = line.split("==")
        try:
            found = metadata.distribution(name).metadata
        except metadata.PackageNotFoundError:
            rows.append(f"| {name} | {version} | not installed here |")
            continue
        rows.append(f"| {name} | {version} | {licence(found)} |")
    (ROOT / "docs/dependencies.md").write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
