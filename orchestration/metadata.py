"""What the Dagster UI shows of each output: plain functions from a path to metadata. Numbers become trends by themselves.

Pictures are kept small: each materialisation stores its own, and an asset's page loads those of the last hundred.
"""

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from PIL import Image

from orchestration.people_map import people_map
from ppd.evaluation.plots import Pixels, curves_plot, strip, win_rate_plot

Metadata: TypeAlias = dict[str, dg.MetadataValue[Any] | float | int | str]
Entry = Mapping[str, Any]

N_PEOPLE = 6
"""People in a grid of samples, the first of the plan: no picking."""
N_IMAGES = 6
N_ROWS = 200
"""Rows of a table at most; the files hold all of them."""
LAST_STEPS = 25
TREND = ("headline.", "judge.", "concept_accuracy.", "precision.")
"""Metrics that are drawn over time; metrics.json holds all."""


def describe(root: Path, path: str) -> Metadata:
    """What to show of the output `path` of the repository at `root`; nothing where it has not been made."""
    for pattern, needed, show in SHOWN:
        if PurePosixPath(path).match(pattern) and (root / path / needed).exists():
            return show(root / path)
    return {}


def preferences(folder: Path) -> Metadata:
    """What came of the log: counts, and the rows that were refused, by reason."""
    summary = json.loads((folder / "summary.json").read_text())
    refused, dropped = summary["refused"], summary["dropped"]
    table = pd.read_parquet(folder / "refused.parquet")
    first = table.drop_duplicates("reason").set_index("reason")
    rows = [
        {"reason": reason, "rows": n, "first": f"{first.file[reason]} row {first.row[reason]}: {first.detail[reason]}"}
        for reason, n in sorted(refused.items(), key=lambda item: -item[1])
    ]
    return {
        **{name.removeprefix("n_").replace("_", " "): n for name, n in summary.items() if name.startswith("n_")},
        "rows refused": sum(refused.values()),
        "rows dropped": sum(dropped.values()),
        "refused, by reason": dg.MetadataValue.md(_markdown(rows, ["reason", "rows", "first"])),
        "dropped, by reason": dg.MetadataValue.json(dropped),
        "users, by split": dg.MetadataValue.json(summary["users"]),
        "pairs, by role": dg.MetadataValue.json(summary["roles"]),
    }


def latents(folder: Path) -> Metadata:
    """How many images and captions are encoded, and the shape of one latent."""
    shape = np.load(folder / "latents.npy", mmap_mode="r").shape
    captions = pq.read_metadata(folder / "captions.parquet").num_rows
    return {"images": shape[0], "captions": captions, "latent": " x ".join(map(str, shape[1:]))}


def shard(folder: Path) -> Metadata:
    """Who is in this shard of embeddings, and their norms."""
    table = pd.read_parquet(folder / "embeddings.parquet", columns=["user_id", "profile", "hidden"])
    norms = np.array([np.linalg.norm(hidden) for hidden in table.hidden])
    people = table.assign(norm=norms).groupby("user_id").agg(
        groups=("norm", "size"), norm=("norm", "mean"), profile=("profile", "first")
    )  # fmt: skip
    shown = people.head(N_ROWS).round({"norm": 3}).reset_index()
    return {
        "people": len(people),
        "embeddings": len(table),
        "mean norm": float(norms.mean()) if len(norms) else 0.0,
        "smallest norm": float(norms.min(initial=np.inf)) if len(norms) else 0.0,
        "who": dg.MetadataValue.md(_markdown(shown.to_dict("records"), list(shown.columns))),
    }


def manifest(file: Path) -> Metadata:
    """All people: how many in each split, their norms, and where they lie beside each other."""
    table = pd.read_parquet(file)
    columns = ["user_id", "split", "shard", "n_pairs", "n_support_groups", "embedding_norm", "version", "profile"]
    shown = table[columns].head(N_ROWS).round({"embedding_norm": 3})
    return {
        "people": len(table),
        **{f"people, {split}": int(n) for split, n in table.split.value_counts().items()},
        "mean norm": float(table.embedding_norm.mean()),
        "spread of norms": float(table.embedding_norm.std()),
        "map of people": _picture(people_map(file.with_suffix(""), table)),
        "manifest": dg.MetadataValue.md(_markdown(shown.to_dict("records"), columns)),
    }


def model(folder: Path) -> Metadata:
    """How training went: the last loss and accuracies, and the curves."""
    curve = pd.read_csv(folder / "curve.csv")
    exams = curve.dropna(subset=["held_out_accuracy"])
    last = exams.iloc[-1] if len(exams) else None
    config = json.loads((folder / "config.json").read_text())
    return {
        "steps": int(curve.step.max()) + 1,
        "loss, first": float(curve.loss.iloc[0]),
        f"loss, last {LAST_STEPS} steps": float(curve.loss.tail(LAST_STEPS).mean()),
        **(
            {
                "implicit accuracy, held-out people": float(last.held_out_accuracy),
                "implicit accuracy, seen people": float(last.seen_accuracy),
                "implicit accuracy, embeddings exchanged": float(last.held_out_accuracy_exchanged),
            }
            if last is not None
            else {}
        ),
        "curves": _picture(curves_plot({folder.name: curve})),
        "config": dg.MetadataValue.json(config),
    }


def samples(folder: Path) -> Metadata:
    """The first images: base | this method, with the same noise; a row a person, or a row a caption for everybody."""
    table = pd.read_parquet(folder / "images.parquet")
    numbers: Metadata = {"images": len(table), "captions": table.caption.nunique(), "people": table.user_id.nunique()}
    if folder.name == "base" or not (beside := folder.parent / "base" / "images.parquet").exists():
        return numbers | {"images by caption": dg.MetadataValue.md(_grid(table, None, "caption"))}
    base = pd.read_parquet(beside).set_index(["caption", "seed"]).png
    by = "user_id" if table.user_id.nunique() > 1 else "caption"
    return numbers | {f"base | {folder.name}": dg.MetadataValue.md(_grid(table, base, by))}


def verdicts(folder: Path) -> Metadata:
    """How many comparisons each judge made, and how steady the vision-language model is."""
    vlm = pd.read_parquet(folder / "vlm.parquet", columns=["consistent"])
    choices = pd.read_parquet(folder / "judge.parquet", columns=["correct"])
    truth = folder / "ground_truth.parquet"
    return {
        "comparisons, vlm": len(vlm),
        "comparisons, ground truth": pq.read_metadata(truth).num_rows if truth.exists() else 0,
        "consistent when swapped": float(vlm.consistent.mean()),
        "right about held-out choices": float(choices.correct.mean()),
    }


def win_rates(file: Path) -> Metadata:
    """The table of win rates with intervals, its plot, and one number for each comparison of ours."""
    entries = [entry for entry in json.loads(file.read_text()) if entry["pairing"] == "independent"]
    rows = [
        {
            "method": entry["method"],
            "over": entry["opponent"],
            "people": f"{entry['users']} ({entry['n_users']})",
            "judge": entry["judge"],
            "comparisons": entry["n_comparisons"],
            "win rate": f"{entry['win_rate']:.3f}",
            "95 %": f"[{entry['ci_low']:.3f}, {entry['ci_high']:.3f}]",
        }
        for entry in entries
    ]
    return {
        **trend(entries),
        "win rates": dg.MetadataValue.md(_markdown(rows, list(rows[0]) if rows else [])),
        "plot": _picture(win_rate_plot(entries)),
    }


def trend(entries: Sequence[Entry]) -> dict[str, float]:
    """Numbers that Dagster draws over time: win rates of ours, images from different seeds."""
    return {
        f"win rate over {entry['opponent']}, {entry['users']}, {entry['judge']}": float(entry["win_rate"])
        for entry in entries
        if entry["method"] == "ppd" and entry["pairing"] == "independent"
    }


def metrics(file: Path) -> Metadata:
    """The metrics that are worth a trend."""
    values = json.loads(file.read_text())
    return {name: float(value) for name, value in values.items() if name.startswith(TREND) and ".ci_" not in name}


def page(file: Path) -> Metadata:
    """Where the report is."""
    return {"report": dg.MetadataValue.url(file.resolve().as_uri()), "bytes": file.stat().st_size}


def drawing(file: Path) -> Metadata:
    """A figure that is an output itself."""
    return {"plot": _picture(file.read_bytes())}


SHOWN: tuple[tuple[str, str, Callable[[Path], Metadata]], ...] = (
    ("artifacts/preferences", "summary.json", preferences),
    ("artifacts/latents", "latents.npy", latents),
    ("artifacts/users/*", "embeddings.parquet", shard),
    ("artifacts/users.parquet", "", manifest),
    ("models/*", "curve.csv", model),
    ("artifacts/samples/*", "images.parquet", samples),
    ("artifacts/verdicts", "vlm.parquet", verdicts),
    ("reports/win_rates.json", "", win_rates),
    ("reports/metrics.json", "", metrics),
    ("reports/index.html", "", page),
    ("reports/win_rates.png", "", drawing),
)
"""Pattern of an output's path, a file that shows that it is what it should be, and what to show of it."""


def picture(png: bytes, columns: int = 0) -> str:
    """A PNG as markdown, in at most 128 colours: drawings lose nothing and weigh a third."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(128).save(buffer, "PNG", optimize=True)
    return f"![](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})"
