"""What the Dagster UI shows of each output: plain functions from a path to metadata. Numbers become trends.

Pictures are kept small: each materialisation stores its own, and an asset's page loads those of the last hundred.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from orchestration.pictures import images, picture, table, trend_plot
from orchestration.user_map import read_user_map
from ppd.evaluation.plots import curves_plot, win_rate_plot
from ppd.preferences.store import Preferences

Metadata: TypeAlias = dict[str, dg.MetadataValue[Any] | float | int | str]
Entry = Mapping[str, Any]

N_USERS = 6
"""Users in a grid of samples, the first of the plan: no picking."""
N_IMAGES = 6
N_ROWS = 200
"""Rows of a table at most; the files hold all of them."""
LAST_STEPS = 25
TREND = ("headline.", "judge.", "concept_accuracy.", "precision.")
"""Metrics that are drawn over time; metrics.json holds all."""


def describe(root: Path, path: str) -> Metadata:
    """What to show of the output `path` of the repository at `root`; nothing where it has not been made."""
    for pattern, needed, show in SHOWN:
        if PurePosixPath("/", path).match(f"/{pattern}") and (root / path / needed).exists():
            try:
                return show(root / path)
            except Exception as error:  # noqa: BLE001 - replaced meanwhile, or of another shape
                return {"not shown": f"{type(error).__name__}: {error}"}
    return {}


def preferences(folder: Path) -> Metadata:
    """What came of the log: counts, and the rows that were refused, by reason."""
    summary = json.loads((folder / "summary.json").read_text())
    refused, dropped = summary["refused"], summary["dropped"]
    first = pd.read_parquet(folder / "refused.parquet").drop_duplicates("reason").set_index("reason")
    rows = [
        {"reason": reason, "rows": n, "first": f"{first.file[reason]} row {first.row[reason]}: {first.detail[reason]}"}
        for reason, n in sorted(refused.items(), key=lambda item: -item[1])
    ]
    return {
        **{name.removeprefix("n_").replace("_", " "): n for name, n in summary.items() if name.startswith("n_")},
        "rows refused": sum(refused.values()),
        "rows dropped": sum(dropped.values()),
        "refused, by reason": dg.MetadataValue.md(table(rows)),
        "dropped, by reason": dg.MetadataValue.json(dropped),
        "users, by split": dg.MetadataValue.json(summary["users"]),
        "pairs, by role": dg.MetadataValue.json(summary["roles"]),
    }


def truth(folder: Path) -> Metadata:
    """Whether the users' true taste is known, and why not."""
    found = json.loads((folder / "truth.json").read_text())
    return {"known": str(found["known"]), "note": str(found["note"])}


def latents(folder: Path) -> Metadata:
    """How many images and captions are encoded, and the shape of one latent."""
    shape = np.load(folder / "latents.npy", mmap_mode="r").shape
    captions = pq.read_metadata(folder / "captions.parquet").num_rows
    return {"images": shape[0], "captions": captions, "latent": " x ".join(map(str, shape[1:]))}


def shard(folder: Path) -> Metadata:
    """Who is in this shard of embeddings, and their norms."""
    rows = pd.read_parquet(folder / "embeddings.parquet", columns=["user_id", "profile", "hidden"])
    if rows.empty:
        return {"users": 0, "embeddings": 0}
    rows = rows.assign(norm=[float(np.linalg.norm(hidden)) for hidden in rows.hidden])
    users = rows.groupby("user_id").agg(
        groups=("norm", "size"), norm=("norm", "mean"), profile=("profile", "first")
    )  # fmt: skip
    return {
        "users": len(users),
        "embeddings": len(rows),
        "mean norm": float(rows.norm.mean()),
        "smallest norm": float(rows.norm.min()),
        "who": _rows(users.reset_index()),
    }


def manifest(file: Path) -> Metadata:
    """All users: how many in each split, their norms, and where they lie beside each other."""
    users = pd.read_parquet(file)
    drawn = read_user_map(file.parents[1]).draw(users.set_index("user_id").split)
    columns = ["user_id", "split", "shard", "n_pairs", "n_support_groups", "embedding_norm", "version", "profile"]
    return {
        "users": len(users),
        **{f"users, {split}": int(n) for split, n in users.split.value_counts().items()},
        "mean norm": float(users.embedding_norm.mean()),
        "spread of norms": float(users.embedding_norm.std()),
        "map of users": dg.MetadataValue.md(picture(drawn)),
        "manifest": _rows(users[columns]),
    }


def model(folder: Path) -> Metadata:
    """How training went: the last loss and accuracies, and the curves."""
    curve = pd.read_csv(folder / "curve.csv")
    evaluations = curve.dropna(subset=["held_out_accuracy"])
    last = evaluations.iloc[-1] if len(evaluations) else None
    config = json.loads((folder / "config.json").read_text())
    return {
        "steps": int(curve.step.max()) + 1,
        "loss, first": float(curve.loss.iloc[0]),
        f"loss, last {LAST_STEPS} steps": float(curve.loss.tail(LAST_STEPS).mean()),
        **(
            {
                "implicit accuracy, held-out users": float(last.held_out_accuracy),
                "implicit accuracy, seen users": float(last.seen_accuracy),
                "implicit accuracy, shuffled user": float(last.held_out_accuracy_shuffled_user),
            }
            if last is not None
            else {}
        ),
        "curves": dg.MetadataValue.md(picture(curves_plot({folder.name: curve}))),
        "config": dg.MetadataValue.json(config),
    }


def samples(folder: Path) -> Metadata:
    """The first images, beside the base model's with the same noise: a row for each user, or for each caption."""
    drawn = pd.read_parquet(folder / "images.parquet")
    n_users = int(drawn.user_id.nunique())
    by, name = ("user_id", "base | personalised") if n_users > 1 else ("caption", "images")
    return {
        "images": len(drawn),
        "captions": int(drawn.caption.nunique()),
        "users": n_users if n_users > 1 else 0,
        name: dg.MetadataValue.md(table(_rows_of_images(drawn, folder, by))),
    }


def _rows_of_images(drawn: pd.DataFrame, folder: Path, by: str) -> list[dict[str, str]]:
    base = folder.parent / "base" / "images.parquet"
    compared = pd.read_parquet(base).set_index(["caption", "seed"]).png if base.exists() else None
    rows = []
    for name, some in islice(drawn.groupby(by, sort=False), N_USERS):
        shown = some.head(N_IMAGES)
        cells = {by.removesuffix("_id"): str(name)}
        if compared is not None and folder.name != "base":
            cells["base"] = images(compared.loc[list(zip(shown.caption, shown.seed, strict=True))])
        rows.append(cells | {folder.name: images(shown.png)})
    return rows


def describe_user(root: Path, user_id: str, preferences: Preferences | None = None) -> Metadata:
    """One user: what they chose, how the model reads it, where they lie among the others, what was sampled for them.

    `preferences`: opened before, to describe several users.
    """
    known = preferences or Preferences.open(root / "artifacts" / "preferences")
    about = known.users.set_index("user_id").loc[user_id].to_dict()
    file = root / "artifacts" / "users" / about["shard"] / "embeddings.parquet"
    own = pd.read_parquet(file, filters=[("user_id", "=", user_id)])
    support = known.support(about["shard"]).query("user_id == @user_id and support_group == 0")
    chosen, rejected = (images(known.image_bytes(support[f"{side}_uid"].tolist())) for side in ("chosen", "rejected"))
    split = known.users.set_index("user_id").split
    place = read_user_map(root).draw(split, marked=user_id)
    drawn = root / "artifacts" / "samples" / "ppd" / "images.parquet"
    pictures = pd.read_parquet(drawn, filters=[("user_id", "=", user_id)]) if drawn.exists() else None
    return {
        "split": str(about["split"]),
        "shard": str(about["shard"]),
        "pairs": int(about["n_pairs"]),
        "support groups": len(own),
        "mean norm": float(np.mean([np.linalg.norm(hidden) for hidden in own.hidden])),
        "what the model read": dg.MetadataValue.md(table(own[["support_group", "profile"]].to_dict("records"))),
        "chose | rejected": dg.MetadataValue.md(table([{"chose": chosen, "rejected": rejected}])),
        "place among the others": dg.MetadataValue.md(picture(place)),
        **(
            {"base | personalised": dg.MetadataValue.md(table(_rows_of_images(pictures, drawn.parent, "user_id")))}
            if pictures is not None and len(pictures)
            else {}
        ),
    }


def verdicts(folder: Path) -> Metadata:
    """How many comparisons each judge made, and how steady the vision-language model is where it has a verdict."""
    vlm = pd.read_parquet(folder / "vlm.parquet", columns=["consistent", "outcome"])
    choices = pd.read_parquet(folder / "choices.parquet", columns=["correct"]).correct
    steady = vlm.consistent[vlm.outcome.notna()]
    truth = folder / "ground_truth.parquet"
    return {
        "comparisons, vlm": len(vlm),
        "comparisons, ground truth": pq.read_metadata(truth).num_rows if truth.exists() else 0,
        "void, vlm": int(vlm.outcome.isna().sum()),
        "void, held-out choices": int(choices.isna().sum()),
        **({"consistent when swapped": float(steady.mean())} if len(steady) else {}),
        **({"right about held-out choices": float(choices.mean())} if choices.notna().any() else {}),
    }


def win_rates(file: Path) -> Metadata:
    """The table of win rates with intervals, its plot, and one number for each comparison of ours."""
    entries = [entry for entry in json.loads(file.read_text()) if entry["pairing"] == "independent"]
    rows = [
        {
            "method": entry["method"],
            "over": entry["opponent"],
            "users": f"{entry['users']} ({entry['n_users']})",
            "judge": entry["judge"],
            "comparisons": entry["n_comparisons"],
            "win rate": f"{entry['win_rate']:.3f}",
            "95 %": f"[{entry['ci_low']:.3f}, {entry['ci_high']:.3f}]",
        }
        for entry in entries
    ]
    return {
        **trend(entries),
        "win rates": dg.MetadataValue.md(table(rows)),
        "plot": dg.MetadataValue.md(picture(win_rate_plot(entries))),
    }


def trend(entries: Sequence[Entry]) -> dict[str, float]:
    """Numbers that Dagster draws over time: win rates of ours, images from different seeds."""
    return {
        f"win rate over {entry['opponent']}, {entry['users']}, {entry['judge']}": float(entry["win_rate"])
        for entry in entries
        if entry["method"] == "ppd" and entry["pairing"] == "independent"
    }


def describe_history(lines: Sequence[Mapping[str, Any]], timestamp: str) -> Metadata:
    """The numbers of one re-evaluation, and the trend of all of them."""
    rates = next(line["win_rates"] for line in lines if line["date"] == timestamp)
    changes = what_changed(lines)
    points = [{"date": line["date"], **entry} for line in lines for entry in headline_entries(line["win_rates"])]
    shown = [
        {
            "date": point["date"],
            "judge": point["judge"],
            "win rate over base, unseen users": f"{point['win_rate']:.3f}",
            "95 %": f"[{point['ci_low']:.3f}, {point['ci_high']:.3f}]",
            "changed before it": ", ".join(changes.get(point["date"], [])) or "—",
        }
        for point in reversed(points[-N_ROWS:])
    ]
    return {
        "date": timestamp,
        "evaluations": len(lines),
        **trend(rates),
        "trend": dg.MetadataValue.md(picture(trend_plot(pd.DataFrame(points), changes)) if points else "nothing"),
        "history": dg.MetadataValue.md(table(shown)),
    }


def what_changed(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Date -> what an evaluation rested on (adapter, users, captions, judge) that the one before it did not."""
    changes = {}
    for before, line in pairwise(lines):
        then, now = before.get("made_with", {}), line.get("made_with", {})
        if names := [name for name in now if name in then and then[name] != now[name]]:
            changes[str(line["date"])] = names
    return changes


def headline_entries(entries: Sequence[Entry]) -> list[Entry]:
    """Our method against the base, for unseen users, images from different seeds: one entry a judge."""
    wanted = {"method": "ppd", "opponent": "base", "users": "unseen", "pairing": "independent"}
    return [entry for entry in entries if all(entry[name] == value for name, value in wanted.items())]


def metrics(file: Path) -> Metadata:
    """The metrics that are worth a trend."""
    values = json.loads(file.read_text())
    return {name: float(value) for name, value in values.items() if name.startswith(TREND) and ".ci_" not in name}


def page(file: Path) -> Metadata:
    """Where the report is."""
    return {"report": dg.MetadataValue.url(file.resolve().as_uri()), "bytes": file.stat().st_size}


def drawing(file: Path) -> Metadata:
    """A figure that is an output itself."""
    return {"plot": dg.MetadataValue.md(picture(file.read_bytes()))}


def _rows(frame: pd.DataFrame) -> dg.MetadataValue[Any]:
    return dg.MetadataValue.md(table(frame.head(N_ROWS).round(3).to_dict("records")))


SHOWN: tuple[tuple[str, str, Callable[[Path], Metadata]], ...] = (
    ("artifacts/preferences", "summary.json", preferences),
    ("artifacts/truth", "truth.json", truth),
    ("artifacts/latents", "latents.npy", latents),
    ("artifacts/users/*", "embeddings.parquet", shard),
    ("artifacts/users.parquet", "", manifest),
    ("artifacts/trained/*", "curve.csv", model),
    ("models/*", "curve.csv", model),
    ("artifacts/samples/*", "images.parquet", samples),
    ("artifacts/verdicts", "vlm.parquet", verdicts),
    ("reports/win_rates.json", "", win_rates),
    ("reports/metrics.json", "", metrics),
    ("reports/index.html", "", page),
    ("reports/win_rates.png", "", drawing),
)
"""Pattern of an output's path, a file that shows that it is what it should be, and what to show of it."""
