"""All verdicts of an evaluation: by the true taste where it is known, and by the vision-language model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ppd.diffusion.sampling.store import read_samples
from ppd.evaluation.plan import POOLED, plan_comparisons, plan_interpolations, plan_requests
from ppd.evaluation.vlm_verdicts import held_out_choices, judge_choices, judge_comparisons, shown_to_the_judge
from ppd.files import atomic_path
from ppd.preferences.store import Preferences
from ppd.settings import Settings
from ppd.simulation.attribute_classifier import AttributeClassifier
from ppd.simulation.truth.best_pick import judge_best_picks, posterior_tastes
from ppd.simulation.truth.readings import read_features
from ppd.simulation.truth.utility import Tastes, is_known, judge_interpolations
from ppd.simulation.truth.utility import judge as judge_by_truth
from ppd.users.support import Pair, support_groups
from ppd.vlm.judges import load_judge

MODELS: tuple[str, ...] = (*POOLED, "ppd")


def sample_files(samples: Path) -> dict[str, Path]:
    """Where each model's images are."""
    return {model: samples / model / "images.parquet" for model in MODELS}


def first_supports(preferences: Preferences, user_ids: Sequence[str]) -> Mapping[str, Sequence[Pair]]:
    """Each person's first support group: what their embedding was made of, and by what the judge knows them."""
    groups = support_groups(preferences, user_ids)
    return {group.user_id: group.pairs for group in groups if group.support_group == 0}


def write_verdicts(
    settings: Settings, preferences: Preferences, samples: Path, truth: Path, answers: Path, out_dir: Path
) -> None:
    """Leave in `out_dir`: vlm.parquet, judge.parquet; with a truth also ground_truth, seen and interpolations.parquet.

    ground_truth holds the ceiling's comparisons too. seen: what the reader saw in every image. judge: the VLM's
    verdicts on held-out real choices, which say how far its other verdicts can be trusted. answers: where a server's
    answers are kept, so that none is paid for twice.
    """
    requests = plan_requests(preferences, settings.evaluation)
    planned = plan_comparisons(requests, settings.evaluation)
    people = requests.user_id.unique().tolist()
    files = sample_files(samples)
    supports = first_supports(preferences, people)
    n_comparisons = len(shown_to_the_judge(planned)) + len(held_out_choices(preferences, people))
    judge = load_judge(settings, answers, supports[people[0]], n_comparisons)
    drawn: dict[tuple[str, str, str, int], bytes] = {}
    for model, file in files.items():
        table = pd.read_parquet(file)
        keys = zip(table.user_id, table.caption, table.seed.tolist(), strict=True)
        drawn |= {(model, *key): png for key, png in zip(keys, table.png, strict=True)}
    with atomic_path(out_dir) as fresh:
        fresh.mkdir()
        if is_known(truth):
            reader = AttributeClassifier.from_pretrained(settings.models.attribute_classifier).eval()
            everything = pd.concat([read_features(model, *read_samples(file), reader) for model, file in files.items()])
            everything.reset_index().to_parquet(fresh / "readings.parquet", index=False)
            base, tastes = everything.loc[["base"]], Tastes.load(truth)
            between = read_features("ppd", *read_samples(samples / "ppd" / "interpolations.parquet"), reader)
            ways = judge_interpolations(plan_interpolations(requests, settings.evaluation), between, base, tastes)
            ways.to_parquet(fresh / "interpolations.parquet", index=False)
            believed = posterior_tastes(preferences, truth, settings.people)
            verdicts = [
                judge_by_truth(planned, everything, tastes),
                judge_best_picks(planned, base, tastes, believed),
            ]
            pd.concat(verdicts, ignore_index=True).to_parquet(fresh / "ground_truth.parquet", index=False)
        judge_comparisons(planned, drawn, supports, judge).to_parquet(fresh / "vlm.parquet", index=False)
        judge_choices(preferences, people, supports, judge).to_parquet(fresh / "judge.parquet", index=False)
