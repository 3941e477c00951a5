"""From verdicts to what people read: win_rates.json, metrics.json, plots, and the page around them."""

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ppd.device import this_device
from ppd.diffusion.drawing import read_drawn
from ppd.diffusion.encoding import resized
from ppd.diffusion.finetune import CURVE
from ppd.evaluation.best_pick import METHOD as CEILING
from ppd.evaluation.ground_truth import IMAGE_KEY
from ppd.evaluation.judge import first_supports, sample_files
from ppd.evaluation.measures import Pixels, concept_accuracy, image_precision, mean_rewards, style_shares
from ppd.evaluation.plan import NOBODY, journeys, requests
from ppd.evaluation.plots import win_rate_plot
from ppd.evaluation.report import Interpolation, PersonPage, Report, headline, write_report
from ppd.evaluation.win_rates import clustered_mean, paired_differences, win_rates
from ppd.files import atomic_path
from ppd.preferences.images import open_rgb
from ppd.preferences.store import Preferences
from ppd.rewards.clip_score import ClipScorer
from ppd.rewards.scorers import load_scorers
from ppd.settings import Settings
from ppd.stickers.render import Atlas

N_PAGES = 8
N_IMAGES = 8
N_JOURNEYS = 3
PAGE_PX = 256
"""Larger images are shrunk, so that the page stays one that a browser opens."""

Index = Mapping[tuple[str, str, int], Pixels]


def publish(
    settings: Settings,
    preferences: Preferences,
    profiles: Mapping[str, Sequence[str]],
    samples: Path,
    verdicts: Path,
    models: Path,
    truth: Path,
    atlas: Path,
    out_dir: Path,
) -> None:
    """Write win_rates.json, metrics.json, win_rates.png and index.html to `out_dir`, whole or not at all."""
    simulated = (verdicts / "ground_truth.parquet").exists()
    parts = [verdicts / "vlm.parquet", *([verdicts / "ground_truth.parquet"] if simulated else [])]
    judged = pd.concat([pd.read_parquet(part) for part in reversed(parts)], ignore_index=True)
    compared = judged[judged.outcome.notna()]
    rates = win_rates(compared)
    drawn = {model: read_drawn(file) for model, file in sample_files(samples).items()}
    metrics = judge_metrics(pd.read_parquet(verdicts / "judge.parquet"), pd.read_parquet(verdicts / "vlm.parquet"))
    for name, difference in paired_differences(compared).items():
        metrics[f"difference.{name}"] = difference.mean
        metrics |= {f"difference.{name}.ci_low": difference.low, f"difference.{name}.ci_high": difference.high}
    if simulated:
        seen_in = pd.read_parquet(verdicts / "seen.parquet").set_index(IMAGE_KEY)
        metrics |= concept_accuracy(seen_in) | style_shares(seen_in)
        clip = ClipScorer.from_pretrained(settings.models.clip, device=this_device())
        metrics |= image_precision({model: images for model, (_, images) in drawn.items()}, clip, Atlas.load(atlas))
    metrics |= mean_rewards(drawn, load_scorers(settings.rewards, device=this_device()))
    if (best := headline(rates)) is not None:
        metrics |= {f"headline.{key}": float(str(best[key])) for key in ("win_rate", "ci_low", "ci_high")}
        if simulated and (ceiling := headline(rates, CEILING)) is not None:
            metrics["headline.share_of_ceiling"] = float(str(best["win_rate"])) / float(str(ceiling["win_rate"]))
    curves = {
        folder.name: pd.read_csv(folder / CURVE) for folder in sorted(models.iterdir()) if (folder / CURVE).exists()
    }
    people = _pages(settings, preferences, profiles, drawn, verdicts, truth if simulated else None)
    planned = journeys(requests(preferences, settings.evaluation), settings.evaluation)
    judged = pd.read_parquet(verdicts / "journeys.parquet") if simulated else planned
    ways = _interpolations(judged, read_drawn(samples / "ppd" / "journeys.parquet")[1])
    if simulated:
        metrics |= _journey_metrics(judged)
    with atomic_path(out_dir) as fresh:
        fresh.mkdir()
        (fresh / "win_rates.json").write_text(json.dumps(rates, indent=1) + "\n")
        (fresh / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n")
        (fresh / "win_rates.png").write_bytes(win_rate_plot([r for r in rates if r["pairing"] == "independent"]))
        report = Report(rates, metrics, people, ways, curves, simulated, _origin(models))
        write_report(report, fresh / "index.html")


def judge_metrics(choices: pd.DataFrame, verdicts: pd.DataFrame) -> dict[str, float]:
    """How good the judge is: on real held-out choices, and whether its answers depend on the order shown.

    Void verdicts count in nothing but their own share; probabilities are left out where the judge tells none.
    """
    metrics = {"judge.void.verdicts": float(verdicts.outcome.isna().mean())}
    if len(choices):
        metrics["judge.void.choices"] = float(choices.correct.isna().mean())
    choices, verdicts = choices[choices.correct.notna()], verdicts[verdicts.outcome.notna()]
    if len(choices):
        accuracy = clustered_mean(choices.correct.to_numpy(dtype=float), choices.user_id.to_numpy())
        metrics |= {
            "judge.accuracy": accuracy.mean,
            "judge.accuracy.ci_low": accuracy.low,
            "judge.accuracy.ci_high": accuracy.high,
            "judge.consistency.choices": float(choices.consistent.mean()),
        }
        if choices.p_a.notna().all():
            metrics["judge.accuracy_of_mean_probability"] = float((choices.p_a > 0.5).mean())
    if len(verdicts):
        metrics["judge.consistency.verdicts"] = float(verdicts.consistent.mean())
    return metrics


def _pages(
    settings: Settings,
    preferences: Preferences,
    profiles: Mapping[str, Sequence[str]],
    drawn: Mapping[str, tuple[pd.DataFrame, Pixels]],
    verdicts: Path,
    truth: Path | None,
) -> list[PersonPage]:
    """Miniatures of the first unseen people of the plan: no picking."""
    asked = requests(preferences, settings.evaluation)
    chosen = asked[asked.users == "unseen"].user_id.unique()[:N_PAGES].tolist()
    supports = first_supports(preferences, chosen)
    base, personal = (_by_key(*drawn[model]) for model in ("base", "ppd"))
    tastes = pd.read_parquet(truth / "people.parquet").set_index("user_id") if truth else None
    gains = _gains(verdicts) if truth else {}
    pages = []
    for user_id in chosen:
        wishes = asked[asked.user_id == user_id].head(N_IMAGES)
        keys = list(zip(wishes.caption, wishes.seed.tolist(), strict=True))
        pages.append(
            PersonPage(
                user_id=user_id,
                users="never seen in training",
                profile=profiles[user_id][0],
                truth=str(tastes.strongest[user_id]) + " above all" if tastes is not None else "",
                pairs=[(_decoded(pair.preferred), _decoded(pair.rejected)) for pair in supports[user_id]],
                base=[_thumbnail(Image.fromarray(base[NOBODY, caption, seed])) for caption, seed in keys],
                personal=[_thumbnail(Image.fromarray(personal[user_id, caption, seed])) for caption, seed in keys],
                gain_sd=gains.get(user_id, float("nan")),
            )
        )
    return pages


def _interpolations(ways: pd.DataFrame, images: Pixels) -> list[Interpolation]:
    """The first journeys of the plan, each with its first caption; gains, if known, are means over all its captions."""
    shown = []
    columns = [column for column in ("gain_first", "gain_second") if column in ways]
    for (first, second), rows in islice(ways.groupby(["first", "second"], sort=False), N_JOURNEYS):
        gains = rows.groupby("share")[columns].mean()
        strip = rows.index[rows.caption == rows.caption.iloc[0]]
        shown.append(
            Interpolation(
                f"person {first}",
                f"person {second}",
                gains.index.tolist(),
                [_thumbnail(Image.fromarray(image)) for image in images[strip]],
                *([gains[column].tolist() for column in columns] or ([], [])),
            )
        )
    return shown


def _journey_metrics(ways: pd.DataFrame) -> dict[str, float]:
    """How both people fare on the way, by the share of the second person; n journeys, intervals over them."""
    metrics = {}
    way = (ways["first"] + "~" + ways.second).to_numpy()
    for share, rows in ways.groupby("share"):
        at = clustered_mean(rows.gain_first.to_numpy(), way[rows.index])
        to = clustered_mean(rows.gain_second.to_numpy(), way[rows.index])
        metrics[f"interpolation.{share:.2f}.gain_first"] = at.mean
        metrics[f"interpolation.{share:.2f}.gain_second"] = to.mean
    return metrics


def _gains(verdicts: Path) -> dict[str, float]:
    table = pd.read_parquet(verdicts / "ground_truth.parquet")
    table = table[(table.method == "ppd") & (table.opponent == "base") & (table.pairing == "same-seed")]
    return {str(user_id): float(gain) for user_id, gain in table.groupby("user_id").gain_sd.mean().items()}


def _by_key(wishes: pd.DataFrame, images: Pixels) -> Index:
    keys = zip(wishes.user_id, wishes.caption, wishes.seed.tolist(), strict=True)
    return dict(zip(keys, images, strict=True))


def _decoded(encoded: bytes) -> Pixels:
    return _thumbnail(open_rgb(encoded))


def _thumbnail(image: Image.Image) -> Pixels:
    """The centred square of an image, at most `PAGE_PX` wide."""
    return np.asarray(resized(image, min(PAGE_PX, *image.size)))


def _origin(models: Path) -> dict[str, str]:
    """What the trained adapter says of itself."""
    config = json.loads((models / "ppd" / "config.json").read_text())
    keys = ("steps", "pairs_per_step", "learning_rate", "precision", "seed")
    return {
        "base": f"{config['base']['id']} ({config['base']['fingerprint']})",
        "data": str(config["data_hash"]),
        "training": ", ".join(f"{key} {config['training'][key]}" for key in keys),
        "loss": json.dumps(config["training"]["loss"]),
    }
