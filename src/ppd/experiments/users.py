"""Table B: do the pictures suit people? Several trainings, every opponent, two judges, and more or fewer choices."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ppd.evaluation.plan import METHODS, POOLED, image_requests, plan_comparisons, plan_requests
from ppd.evaluation.vlm_verdicts import judge_comparisons, load_samples, shown_to_the_judge
from ppd.evaluation.win_rates import win_rates
from ppd.experiments.models import embedding_model, first_embeddings_of_users, sample_once, user_embeddings
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.seeds import adapter_files, adapter_folder
from ppd.experiments.settings import ExperimentSettings
from ppd.experiments.supports import supports_of
from ppd.files import atomic_path
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import work_folder
from ppd.settings import Settings
from ppd.simulation.truth.best_pick import judge_best_picks
from ppd.simulation.truth.exact import ExactObserver, support_pairs
from ppd.simulation.truth.judge import load_classifier
from ppd.simulation.truth.readings import read_features_of_file
from ppd.simulation.truth.utility import Tastes, judge
from ppd.statistics.bootstrap import clustered_mean
from ppd.users.support import first_support
from ppd.users.whitening import Whitening
from ppd.vlm.embedding import embed
from ppd.vlm.judges import load_judge

SUPPORTS: Mapping[str, int] = {"1": 1, "2": 2, "4": 4, "8": 8, "8, averaged": 8}
"""How a person is described: pairs in one conversation; averaged: the mean of the embeddings of two fours."""
CAPTIONS_PER_SUPPORT = 4
COMPARISON = ["method", "opponent", "users", "pairing", "user_id", "caption", "method_seed", "opponent_seed"]


def write_users(settings: Settings, experiments: ExperimentSettings, layout: Layout, out: Path) -> None:
    """Draw with every seed's adapter, judge, and write the JSON file `out`. A killed run goes on.

    The pipeline's own run is the first seed: its images and verdicts are read, not made again.
    """
    images = {model: layout.sampled(model) for model in METHODS}
    inputs = [*adapter_files(settings, experiments, layout), *images.values()]
    work = work_folder(layout.experiment_work / "users", [settings, experiments], inputs)
    others = [seed for seed in experiments.seeds if seed != settings.finetune.seed]
    run_side_by_side(
        _judge_seed,
        {f"seed-{seed}": (settings, layout, seed, work / f"seed-{seed}") for seed in others},
        work / "logs" / "seeds",
        n_workers=experiments.n_workers,
    )
    run_side_by_side(
        _sample_supports,
        {f"pairs-{name}": (settings, layout, name, work / f"pairs-{name}.parquet") for name in SUPPORTS},
        work / "logs" / "supports",
        n_workers=experiments.n_workers,
    )
    files = {seed: [work / f"seed-{seed}" / f"by_{judge}.parquet" for judge in ("truth", "vlm")] for seed in others}
    files[settings.finetune.seed] = [layout.verdicts / f"{judge}.parquet" for judge in ("ground_truth", "vlm")]
    by_seed = {seed: pd.concat(map(pd.read_parquet, files[seed]), ignore_index=True) for seed in experiments.seeds}
    everything = pd.concat(by_seed.values(), ignore_index=True)
    everything = pd.concat([everything[everything.users == users] for users in ("unseen", "seen")])
    result = {
        "seeds": list(experiments.seeds),
        "win_rates": win_rates(everything),
        "by_seed": {str(seed): win_rates(table[table.users == "unseen"]) for seed, table in by_seed.items()},
        "concept_accuracy": _concepts(layout, work, others),
        "judge": judge_quality(settings, layout, everything),
        "supports": _support_rates(settings, layout, work),
    }
    with atomic_path(out) as fresh:
        fresh.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(layout.experiment_work / "users")


def judge_quality(settings: Settings, layout: Layout, verdicts: pd.DataFrame) -> dict[str, float]:
    """How far the VLM's verdicts can be trusted: on real choices beside the exact posterior, and against the truth."""
    log = Preferences.open(layout.preferences)
    choices = pd.read_parquet(layout.verdict("choices")).merge(
        log.pairs[["pair_id", "chosen_uid", "rejected_uid"]], on="pair_id"
    )
    choices = choices[choices.correct.notna()]  # what the judge did not say counts nowhere
    exact = ExactObserver(layout.truth, settings.people)
    beliefs = exact.beliefs(support_pairs(log, choices.user_id.unique().tolist(), settings.preferences.pairs_per_group))
    users = choices.user_id.to_numpy()
    quality = {"n_choices": float(len(choices))}
    for name, right in (("accuracy", choices.correct.to_numpy(float)), ("exact", exact.judge(beliefs, choices))):
        quality |= clustered_mean(right, users).as_metrics(name)
    first = verdicts.drop_duplicates([*COMPARISON, "judge"])  # of the first seed, where several were trained
    both = first.pivot(index=COMPARISON, columns="judge", values="outcome").dropna()
    decided = both[(both["vlm"] != 0.5) & (both["ground-truth"] != 0.5)].reset_index()
    agrees = (decided["vlm"] == decided["ground-truth"]).to_numpy().astype(float)
    agreement = clustered_mean(agrees, decided.user_id.to_numpy())
    return quality | agreement.as_metrics("agreement") | {"n_agreement": float(len(decided))}


def _judge_seed(settings: Settings, layout: Layout, seed: int, folder: Path) -> None:
    """Images of one seed's adapter for the unseen people of the pipeline's plan, and both judges' verdicts."""
    if (folder / "by_vlm.parquet").exists():
        return
    log = Preferences.open(layout.preferences)
    requests = plan_requests(log, settings.evaluation)
    requests = requests[requests.users == "unseen"].reset_index(drop=True)
    users = first_embeddings_of_users(layout)
    weights = adapter_folder(settings, layout, seed)
    sample_once(
        settings, weights, image_requests(requests, "ppd", settings.evaluation), users, folder / "images.parquet"
    )
    planned = plan_comparisons(requests, settings.evaluation)
    planned = planned[planned.method == "ppd"]
    files = {model: layout.sampled(model) for model in POOLED} | {"ppd": folder / "images.parquet"}
    classifier = load_classifier(settings.models.attribute_classifier)
    readings = pd.concat([read_features_of_file(model, file, classifier) for model, file in files.items()])
    with atomic_path(folder / "readings.parquet") as fresh:
        readings.reset_index().to_parquet(fresh, index=False)
    with atomic_path(folder / "by_truth.parquet") as fresh:
        judge(planned, readings, Tastes.load(layout.truth)).to_parquet(fresh, index=False)
    supports = first_support(log, requests.user_id.unique().tolist())
    vlm = load_judge(settings, layout.answers, next(iter(supports.values())), len(shown_to_the_judge(planned)))
    with atomic_path(folder / "by_vlm.parquet") as fresh:
        judge_comparisons(planned, load_samples(files), supports, vlm).to_parquet(fresh, index=False)


def _support_requests(settings: Settings, log: Preferences) -> pd.DataFrame:
    n = min(CAPTIONS_PER_SUPPORT, settings.evaluation.captions_per_user)
    requests = plan_requests(log, settings.evaluation.model_copy(update={"captions_per_user": n}))
    return requests[requests.users == "unseen"].reset_index(drop=True)


def _sample_supports(settings: Settings, layout: Layout, name: str, file: Path) -> None:
    """Images for the unseen people as the pipeline's adapter sees them after so many of their pairs."""
    log = Preferences.open(layout.preferences)
    requests = _support_requests(settings, log)
    user_ids = requests.user_id.unique().tolist()
    if "averaged" in name:
        both = user_embeddings(layout)
        users = {user_id: both[user_id][:2].mean(dim=0) for user_id in user_ids}
    else:
        groups = supports_of(log, user_ids, SUPPORTS[name])
        vlm = embedding_model(settings)
        embedded = embed(vlm, [group.pairs for group in groups], settings.embedding).hidden
        whitening = Whitening.load(layout.whitening)
        users = {group.user_id: u for group, u in zip(groups, whitening(embedded), strict=True)}
    sample_once(settings, layout.models / "ppd", image_requests(requests, "ppd", settings.evaluation), users, file)


def _support_rates(settings: Settings, layout: Layout, work: Path) -> list[dict[str, object]]:
    """Ground-truth win rates over base after 1, 2, 4 and 8 pairs, and what the exact posterior makes of these pairs."""
    log = Preferences.open(layout.preferences)
    requests = _support_requests(settings, log)
    planned = plan_comparisons(requests, settings.evaluation)
    planned = planned[(planned.method == "ppd") & (planned.opponent == "base")]
    classifier = load_classifier(settings.models.attribute_classifier)
    base = read_features_of_file("base", layout.sampled("base"), classifier)
    tastes, exact = Tastes.load(layout.truth), ExactObserver(layout.truth, settings.people)
    rows: list[dict[str, object]] = []
    for name, n_pairs in SUPPORTS.items():
        sampled = read_features_of_file("ppd", work / f"pairs-{name}.parquet", classifier)
        pairs = support_pairs(log, requests.user_id.unique().tolist(), n_pairs)
        ceiling = judge_best_picks(planned, base, tastes, exact.tastes(exact.beliefs(pairs)))
        rows.append(
            {
                "pairs": name,
                "win_rates": win_rates(judge(planned, pd.concat([base, sampled]), tastes)),
                "concept_accuracy": float(sampled.concept_right.mean()),
                "ceiling": win_rates(ceiling)[0],
            }
        )
    return rows


def _concepts(layout: Layout, work: Path, others: list[int]) -> dict[str, float]:
    """Share of images that show what was asked, of each model on the unseen people's captions; ppd by seed too."""
    readings = pd.read_parquet(layout.verdicts / "readings.parquet")
    accuracy = {model: float(readings.concept_right[readings.model == model].mean()) for model in (*POOLED, "ppd")}
    for seed in others:
        table = pd.read_parquet(work / f"seed-{seed}" / "readings.parquet")
        accuracy[f"ppd, seed {seed}"] = float(table.concept_right[table.model == "ppd"].mean())
    return accuracy
