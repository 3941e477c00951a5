"""Put what bench/paper_scale.py measured at full size into docs/paper-scale.md: `python bench/paper_scale_page.py`.

Between two marks of that page stands what follows from bench/results/paper_scale_full.json and nothing else; a test
compares the two.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE, RESULT = ROOT / "docs/paper-scale.md", ROOT / "bench/results/paper_scale_full.json"
BEGIN, END = "<!-- measured: written by bench/paper_scale_page.py -->\n", "<!-- end of what was measured -->\n"
NOT_YET = "Not measured yet.\n"


def measured(result: Mapping[str, Any]) -> str:
    """The tables in Markdown: training, where a step goes, the other stages."""
    command = f"python bench/paper_scale.py --size {result['settings']['size']}"
    rows = result["ways"]
    lines = [
        f"{result['device']}, torch {result['torch']}, random weights, n = {result['settings']['steps']} steps after "
        f"two that are not timed, one run; the range is over steps. `{command}`",
        "",
        "| training | pairs at once | checkpointed | compiled | pairs/s (range) | of the peak | peak GB | waits |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in (row for row in rows if row["unit"] == "pairs"):
        name = row["way"] if row.get("base", "Stage C") == "Stage C" else f"{row['base']}: {row['way']}"
        name += _elsewhere(row, result)
        form = f"| {name} | {row['n']} | {row['checkpointing']:.0%} | {row.get('compiled', 'no')} |"
        if "error" in row:
            lines.append(f"{form} {_reason(row['error'])} | | | |")
        else:
            share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
            lines.append(f"{form} {_rate(row)} | {share} | {_known(row['peak_gb'])} | {row.get('waits_a_step', '')} |")
    for row in (row for row in rows if "where" in row):
        where = row["where"]
        lines += ["", f"Where a step of {row['n']} pairs goes ({where['wall_ms']:.0f} ms):"]
        kinds = sorted(where["ms"].items(), key=lambda item: -item[1])
        lines.append(", ".join(f"{kind} {ms:.0f} ms ({ms / where['wall_ms']:.0%})" for kind, ms in kinds) + ".")
    lines += ["", "| other stages | at once | a second | of the peak | peak GB |", "|---|---|---|---|---|"]
    for row in (row for row in rows if row["unit"] != "pairs"):
        name = row["way"] + (f" of {row['words']} words" if "words" in row else "") + _elsewhere(row, result)
        if "error" in row:
            lines.append(f"| {name} | {row['n']} {row['unit']} | {_reason(row['error'])} | | |")
        else:
            share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
            rate = f"{row['per_second']:.3g} {row['unit']}"
            lines.append(f"| {name} | {row['n']} | {rate} | {share} | {row['peak_gb']:.1f} |")
    if "missing" in result:
        lines += ["", result["missing"]]
    return "\n".join(lines) + "\n"


def _elsewhere(row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The device of a row, where it is another than the last run's."""
    return "" if row["device"] == result["device"] else f" ({row['device']})"


def _rate(row: Mapping[str, Any]) -> str:
    return f"{row['per_second']:.3g}" + (" ({:.3g}–{:.3g})".format(*row["range"]) if row["range"] else "")


def _known(gigabytes: float | None) -> str:
    return "not known" if gigabytes is None else f"{gigabytes:.1f}"


def _reason(error: str) -> str:
    return "does not fit" if error.startswith("OutOfMemory") else "failed: " + error[:60].replace("|", "/")


def page_with(page: str, found: str) -> str:
    """The page with `found` between its marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + found + END + rest.split(END)[1]


def main() -> None:
    found = measured(json.loads(RESULT.read_text())) if RESULT.is_file() else NOT_YET
    PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
