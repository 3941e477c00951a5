"""Table B: do the pictures suit people? Several trainings, every opponent, two judges, and more or fewer choices."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from ppd.diffusion.adapter.checkpoint import load_adapter, read_config
from ppd.diffusion.sampling.store import draw, read_samples
from ppd.evaluation.judge import first_supports, sample_files
from ppd.evaluation.plan import POOLED, image_requests, plan_comparisons, plan_requests
from ppd.evaluation.vlm_verdicts import judge_comparisons, shown_to_the_judge
from ppd.evaluation.win_rates import win_rates
from ppd.experiments.models import base_model, embedding_model
from ppd.experiments.paths import Paths
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.seeds import adapter_files, adapter_folder
from ppd.experiments.settings import ExperimentSettings
from ppd.experiments.supports import ExactReader, support_pairs, supports_of
from ppd.experiments.work import work_for
from ppd.files import atomic_path
from ppd.preferences.store import Preferences
from ppd.settings import Settings
from ppd.simulation.attribute_classifier import AttributeClassifier
from ppd.simulation.truth.best_pick import judge_best_picks
from ppd.simulation.truth.readings import read_features
from ppd.simulation.truth.utility import Tastes, judge
from ppd.statistics.bootstrap import clustered_mean
from ppd.users.embeddings import load_embeddings
from ppd.users.manifest import whitened
from ppd.users.whitening import Whitening
from ppd.vlm.embedding import embed
from ppd.vlm.judges import load_judge

SUPPORTS: Mapping[str, int] = {"1": 1, "2": 2, "4": 4, "8": 8, "8, averaged": 8}
"""How a person is described: pairs in one conversation; averaged: the mean of the embeddings of two fours."""
CAPTIONS_PER_SUPPORT = 4
COMPARISON = ["method", "opponent", "users", "pairing", "user_id", "caption", "method_seed", "opponent_seed"]


def write_users(settings: Settings, experiments: ExperimentSettings, paths: Paths, out: Path) -> None:
    """Draw with every seed's adapter, judge, and write the JSON file `out`. A killed run goes on.

    The pipeline's own run is the first seed: its images and verdicts are read, not made again.
    """
    inputs = [*adapter_files(settings, experiments, paths), *sample_files(paths.samples).values()]
    work = work_for(paths.work / "people", [settings, experiments], inputs)
    others = [seed for seed in experiments.seeds if seed != settings.finetune.seed]
    run_side_by_side(
        _judge_seed,
        {f"seed-{seed}": (settings, paths, seed, work / f"seed-{seed}") for seed in others},
        work / "logs" / "seeds",
        n_workers=experiments.n_workers,
    )
    run_side_by_side(
        _draw_supports,
        {f"pairs-{name}": (settings, paths, name, work / f"pairs-{name}.parquet") for name in SUPPORTS},
        work / "logs" / "supports",
        n_workers=experiments.n_workers,
    )
    files = {seed: [work / f"seed-{seed}" / f"by_{judge}.parquet" for judge in ("truth", "vlm")] for seed in others}
    files[settings.finetune.seed] = [paths.verdicts / f"{judge}.parquet" for judge in ("ground_truth", "vlm")]
    by_seed = {seed: pd.concat(map(pd.read_parquet, files[seed]), ignore_index=True) for seed in experiments.seeds}
    everything = pd.concat(by_seed.values(), ignore_index=True)
    everything = pd.concat([everything[everything.users == users] for users in ("unseen", "seen")])
    result = {
        "seeds": list(experiments.seeds),
        "win_rates": win_rates(everything),
        "by_seed": {str(seed): win_rates(table[table.users == "unseen"]) for seed, table in by_seed.items()},
        "concept_accuracy": _concepts(paths, work, others),
        "judge": judge_quality(settings, paths, everything),
        "supports": _support_rates(settings, paths, work),
    }
    with atomic_path(out) as fresh:
        fresh.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(paths.work / "people")


def judge_quality(settings: Settings, paths: Paths, verdicts: pd.DataFrame) -> dict[str, float]:
    """How far the VLM's verdicts can be trusted: on real choices beside the exact posterior, and against the truth."""
    log = Preferences.open(paths.preferences)
    choices = pd.read_parquet(paths.verdicts / "judge.parquet").merge(
        log.pairs[["pair_id", "chosen_uid", "rejected_uid"]], on="pair_id"
    )
    choices = choices[choices.correct.notna()]  # what the judge did not say counts nowhere
    exact = ExactReader(paths.truth, settings.people)
    beliefs = exact.beliefs(support_pairs(log, choices.user_id.unique().tolist(), settings.preferences.pairs_per_group))
    people = choices.user_id.to_numpy()
    quality = {"n_choices": float(len(choices))}
    for name, right in (("accuracy", choices.correct.to_numpy(float)), ("exact", exact.judge(beliefs, choices))):
        quality |= _interval(name, right, people)
    first = verdicts.drop_duplicates([*COMPARISON, "judge"])  # of the first seed, where several were trained
    both = first.pivot(index=COMPARISON, columns="judge", values="outcome").dropna()
    decided = both[(both["vlm"] != 0.5) & (both["ground-truth"] != 0.5)].reset_index()
    agrees = (decided["vlm"] == decided["ground-truth"]).to_numpy(float)
    return quality | _interval("agreement", agrees, decided.user_id.to_numpy()) | {"n_agreement": float(len(decided))}


def _interval(name: str, values: np.ndarray, people: np.ndarray) -> dict[str, float]:
    mean = clustered_mean(values, people)
    return {name: mean.mean, f"{name}.ci_low": mean.low, f"{name}.ci_high": mean.high}


def _judge_seed(settings: Settings, paths: Paths, seed: int, folder: Path) -> None:
    """Images of one seed's adapter for the unseen people of the pipeline's plan, and both judges' verdicts."""
    if (folder / "by_vlm.parquet").exists():
        return
    log = Preferences.open(paths.preferences)
    requests = plan_requests(log, settings.evaluation)
    requests = requests[requests.users == "unseen"].reset_index(drop=True)
    first = {user: u[0] for user, u in whitened(load_embeddings(paths.users), Whitening.load(paths.whitening)).items()}
    _draw(settings, adapter_folder(settings, paths, seed), requests, first, folder / "images.parquet")
    planned = plan_comparisons(requests, settings.evaluation)
    planned = planned[planned.method == "ppd"]
    files = sample_files(paths.samples) | {"ppd": folder / "images.parquet"}
    reader = AttributeClassifier.from_pretrained(settings.models.attribute_classifier).eval()
    readings = pd.concat([read_features(model, *read_samples(file), reader) for model, file in files.items()])
    with atomic_path(folder / "readings.parquet") as fresh:
        readings.reset_index().to_parquet(fresh, index=False)
    with atomic_path(folder / "by_truth.parquet") as fresh:
        judge(planned, readings, Tastes.load(paths.truth)).to_parquet(fresh, index=False)
    drawn: dict[tuple[str, str, str, int], bytes] = {}
    for model, file in files.items():
        table = pd.read_parquet(file)
        keys = zip(table.user_id, table.caption, table.seed.tolist(), strict=True)
        drawn |= {(model, *key): png for key, png in zip(keys, table.png, strict=True)}
    supports = first_supports(log, requests.user_id.unique().tolist())
    vlm = load_judge(settings, paths.answers, next(iter(supports.values())), len(shown_to_the_judge(planned)))
    with atomic_path(folder / "by_vlm.parquet") as fresh:
        judge_comparisons(planned, drawn, supports, vlm).to_parquet(fresh, index=False)


def _draw(settings: Settings, weights: Path, requests: pd.DataFrame, people: Mapping[str, Tensor], file: Path) -> None:
    if file.exists():
        return
    backbone = base_model(settings, settings.sampling.precision)
    draw(
        image_requests(requests, "ppd", settings.evaluation),
        backbone,
        settings.sampling,
        file,
        adapter=load_adapter(weights, backbone),
        people=people,
        identity=read_config(weights).model_dump_json(),
    )


def _support_requests(settings: Settings, log: Preferences) -> pd.DataFrame:
    n = min(CAPTIONS_PER_SUPPORT, settings.evaluation.captions_per_user)
    requests = plan_requests(log, settings.evaluation.model_copy(update={"captions_per_user": n}))
    return requests[requests.users == "unseen"].reset_index(drop=True)


def _draw_supports(settings: Settings, paths: Paths, name: str, file: Path) -> None:
    """Images for the unseen people as the pipeline's adapter sees them after so many of their pairs."""
    log = Preferences.open(paths.preferences)
    requests = _support_requests(settings, log)
    user_ids = requests.user_id.unique().tolist()
    whitening = Whitening.load(paths.whitening)
    if "averaged" in name:
        both = whitened(load_embeddings(paths.users), whitening)
        people = {user_id: both[user_id][:2].mean(dim=0) for user_id in user_ids}
    else:
        groups = supports_of(log, user_ids, SUPPORTS[name])
        vlm = embedding_model(settings)
        told = whitening(embed(vlm, [group.pairs for group in groups], settings.embedding).hidden)
        people = {group.user_id: u for group, u in zip(groups, told, strict=True)}
    _draw(settings, paths.models / "ppd", requests, people, file)


def _support_rates(settings: Settings, paths: Paths, work: Path) -> list[dict[str, object]]:
    """Ground-truth win rates over base after 1, 2, 4 and 8 pairs, and what the exact posterior makes of these pairs."""
    log = Preferences.open(paths.preferences)
    requests = _support_requests(settings, log)
    planned = plan_comparisons(requests, settings.evaluation)
    planned = planned[(planned.method == "ppd") & (planned.opponent == "base")]
    reader = AttributeClassifier.from_pretrained(settings.models.attribute_classifier).eval()
    base = read_features("base", *read_samples(sample_files(paths.samples)["base"]), reader)
    tastes, exact = Tastes.load(paths.truth), ExactReader(paths.truth, settings.people)
    rows: list[dict[str, object]] = []
    for name, n_pairs in SUPPORTS.items():
        drawn = read_features("ppd", *read_samples(work / f"pairs-{name}.parquet"), reader)
        pairs = support_pairs(log, requests.user_id.unique().tolist(), n_pairs)
        ceiling = judge_best_picks(planned, base, tastes, exact.tastes(exact.beliefs(pairs)))
        rows.append(
            {
                "pairs": name,
                "win_rates": win_rates(judge(planned, pd.concat([base, drawn]), tastes)),
                "concept_accuracy": float(drawn.concept_right.mean()),
                "ceiling": win_rates(ceiling)[0],
            }
        )
    return rows


def _concepts(paths: Paths, work: Path, others: list[int]) -> dict[str, float]:
    """Share of images that show what was asked, of each model on the unseen people's captions; ppd by seed too."""
    readings = pd.read_parquet(paths.verdicts / "readings.parquet")
    accuracy = {model: float(readings.concept_right[readings.model == model].mean()) for model in (*POOLED, "ppd")}
    for seed in others:
        table = pd.read_parquet(work / f"seed-{seed}" / "readings.parquet")
        accuracy[f"ppd, seed {seed}"] = float(table.concept_right[table.model == "ppd"].mean())
    return accuracy
