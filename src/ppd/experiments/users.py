"""Table B: do the images suit their users? Several trainings, every opponent, two judges, and more or fewer choices."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ppd.evaluation.plan import METHODS, POOLED, image_requests, plan_comparisons, plan_requests
from ppd.evaluation.vlm_verdicts import StoredSamples, judge_comparisons, shown_to_the_judge
from ppd.evaluation.win_rates import win_rates
from ppd.experiments.models import embedding_model, first_embeddings_of_users, sample_once, user_embeddings
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.seeds import adapter_files, adapter_folder
from ppd.experiments.settings import ExperimentSettings
from ppd.experiments.supports import supports_of
from ppd.files import atomic_path, write_json
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import resumable
from ppd.settings import Settings
from ppd.simulation.truth.best_pick import judge_best_picks
from ppd.simulation.truth.exact import ExactObserver, support_pairs
from ppd.simulation.truth.judge import load_classifier
from ppd.simulation.truth.readings import read_features_of_file
from ppd.simulation.truth.utility import Tastes, judge
from ppd.statistics.bootstrap import clustered_mean
from ppd.users.support import FirstSupport
from ppd.users.whitening import Whitening
from ppd.vlm.embedding import embed
from ppd.vlm.judges import load_judge

SUPPORTS: Mapping[str, int] = {"1": 1, "2": 2, "4": 4, "8": 8, "8, averaged": 8}
"""How a user is described: pairs in one conversation; averaged: the mean of the embeddings of two fours."""
CAPTIONS_PER_SUPPORT = 4
COMPARISON = ["method", "opponent", "users", "pairing", "user_id", "caption", "method_seed", "opponent_seed"]


def write_users(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Sample with every seed's adapter, judge, and write the result. A killed run goes on.

    The pipeline's own run is the first seed: its images and verdicts are read, not made again.
    """
    inputs = [*adapter_files(settings, experiments, layout), *map(layout.sampled, METHODS)]
    others = [seed for seed in experiments.seeds if seed != settings.finetune.seed]
    with resumable(layout.experiment_work / "users", [settings, experiments], inputs) as work:
        seeds = {f"seed-{seed}": (settings, layout, seed, work / f"seed-{seed}") for seed in others}
        run_side_by_side(_judge_seed, seeds, work / "logs" / "seeds", n_workers=experiments.n_workers)
        supports = {f"pairs-{name}": (settings, layout, name, work / f"pairs-{name}.parquet") for name in SUPPORTS}
        run_side_by_side(_sample_supports, supports, work / "logs" / "supports", n_workers=experiments.n_workers)
        files = {seed: [work / f"seed-{seed}" / f"by_{judge}.parquet" for judge in ("truth", "vlm")] for seed in others}
        files[settings.finetune.seed] = [layout.verdict(judge) for judge in ("ground_truth", "vlm")]
        by_seed = {
            seed: pd.concat(map(pd.read_parquet, files[seed]), ignore_index=True).assign(training_seed=seed)
            for seed in experiments.seeds
        }
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
        write_json(layout.experiment_results / "users.json", result)


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
    """Images of one seed's adapter for the unseen users of the pipeline's plan, and both judges' verdicts."""
    if (folder / "by_vlm.parquet").exists():
        return
    log = Preferences.open(layout.preferences)
    requests, file = _unseen(plan_requests(log, settings.evaluation)), folder / "images.parquet"
    wanted, weights = image_requests(requests, "ppd", settings.evaluation), adapter_folder(settings, layout, seed)
    sample_once(settings, weights, wanted, first_embeddings_of_users(layout), file)
    planned = plan_comparisons(requests, settings.evaluation)
    planned = planned[planned.method == "ppd"]
    files = {model: layout.sampled(model) for model in POOLED} | {"ppd": file}
    classifier = load_classifier(settings.models.attribute_classifier)
    readings = pd.concat([read_features_of_file(model, file, classifier) for model, file in files.items()])
    supports = FirstSupport(log, requests.user_id.unique().tolist())
    vlm = load_judge(settings, layout.answers, next(iter(supports.values())), len(shown_to_the_judge(planned)))
    for name, table in (
        ("readings", readings.reset_index()),
        ("by_truth", judge(planned, readings, Tastes.load(layout.truth))),
        ("by_vlm", judge_comparisons(planned, StoredSamples(files), supports, vlm)),
    ):
        with atomic_path(folder / f"{name}.parquet") as fresh:
            table.to_parquet(fresh, index=False)


def _unseen(requests: pd.DataFrame) -> pd.DataFrame:
    return requests[requests.users == "unseen"].reset_index(drop=True)


def _support_requests(settings: Settings, log: Preferences) -> pd.DataFrame:
    n = min(CAPTIONS_PER_SUPPORT, settings.evaluation.captions_per_user)
    return _unseen(plan_requests(log, settings.evaluation.model_copy(update={"captions_per_user": n})))


def _sample_supports(settings: Settings, layout: Layout, name: str, file: Path) -> None:
    """Images for the unseen users as the pipeline's adapter sees them after so many of their pairs."""
    log = Preferences.open(layout.preferences)
    requests = _support_requests(settings, log)
    user_ids = requests.user_id.unique().tolist()
    if "averaged" in name:
        both = user_embeddings(layout)
        users = {user_id: both[user_id][:2].mean(dim=0) for user_id in user_ids}
    else:
        groups = supports_of(log, user_ids, SUPPORTS[name])
        hidden = embed(embedding_model(settings), [group.pairs for group in groups], settings.embedding).hidden
        embeddings = Whitening.load(layout.whitening)(hidden)
        users = {group.user_id: embedding for group, embedding in zip(groups, embeddings, strict=True)}
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
        rates = win_rates(judge(planned, pd.concat([base, sampled]), tastes))
        row = {"pairs": name, "win_rates": rates, "concept_accuracy": float(sampled.concept_right.mean())}
        rows.append({**row, "ceiling": win_rates(ceiling)[0]})
    return rows


def _concepts(layout: Layout, work: Path, others: list[int]) -> dict[str, float]:
    """Share of images that show their caption's concept, of each model for unseen users; ppd by seed too."""
    readings = pd.read_parquet(layout.verdicts / "readings.parquet")
    accuracy = {model: float(readings.concept_right[readings.model == model].mean()) for model in (*POOLED, "ppd")}
    for seed in others:
        table = pd.read_parquet(work / f"seed-{seed}" / "readings.parquet")
        accuracy[f"ppd, seed {seed}"] = float(table.concept_right[table.model == "ppd"].mean())
    return accuracy
