"""The competitor that costs no training: sample n images of the base and pick one for the user, beside ours.

And the same on top of ours. Every picker knows the user by the same four pairs. Judged by the true taste alone, since
the vision-language model picked.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ppd.diffusion.adapter.checkpoint import WEIGHTS
from ppd.diffusion.sampling.sampler import n_forwards
from ppd.diffusion.sampling.store import read_samples
from ppd.evaluation.plan import plan_requests
from ppd.evaluation.tables import IMAGE_KEY, SAMPLE, with_columns
from ppd.evaluation.vlm_verdicts import StoredSamples
from ppd.evaluation.win_rates import win_rates
from ppd.experiments.models import base_model, first_embeddings_of_users, sample_once
from ppd.experiments.picks import candidates_of, compared, picked_by_judge, picked_by_taste
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.sampling import measured
from ppd.experiments.settings import ExperimentSettings
from ppd.experiments.shared_inputs import POOL, ImageMeasures
from ppd.files import atomic_path, write_json
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import resumable
from ppd.settings import Settings
from ppd.simulation.truth.exact import ExactObserver, support_pairs
from ppd.simulation.truth.utility import Tastes, judge
from ppd.users.support import FirstSupport
from ppd.vlm.judges import load_judge

OPPONENTS = 4
"""Images that each picked one is compared with."""
OURS = "ours"


def write_best_of_n(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Sample, let both pickers pick for every test user, compare by the true taste, and write the table.

    One training, the pipeline's own: it is held fixed. A killed run goes on.
    """
    how, log = experiments.best_of_n, Preferences.open(layout.preferences)
    inputs = [layout.models / "ppd" / WEIGHTS, layout.whitening, *layout.shard_files(), layout.shared_inputs / POOL]
    with resumable(layout.experiment_work / "best-of-n", [settings, how], inputs) as work:
        requests = _requests(settings, experiments, log)
        parts = np.array_split(requests.user_id.unique(), experiments.n_workers)
        own = [work / f"own-{number}.parquet" for number in range(len(parts))]
        jobs = {file.stem: (settings, experiments, layout, part, file) for part, file in zip(parts, own, strict=True)}
        run_side_by_side(_sample_own, jobs, work / "logs" / "own", n_workers=experiments.n_workers)
        files = {"base": [layout.shared_inputs / POOL], OURS: own}
        picks = {source: work / f"picked-{source}.parquet" for source in files}
        picking = {
            source: (settings, experiments, layout, source, files[source], file)
            for source, file in picks.items()
            if not file.exists()
        }
        run_side_by_side(_pick_by_judge, picking, work / "logs" / "picks", n_workers=experiments.n_workers)
        rows = _table(settings, experiments, layout, files, {s: pd.read_parquet(file) for s, file in picks.items()})
        result = {
            "n_users": int(requests.user_id.nunique()),
            "n_captions": int(requests.caption.nunique()),
            "steps": settings.sampling.steps,
            "rows": rows,
        }
        write_json(layout.experiment_results / "best_of_n.json", result)


def _requests(settings: Settings, experiments: ExperimentSettings, log: Preferences) -> pd.DataFrame:
    captions = min(experiments.best_of_n.captions_per_user, settings.evaluation.captions_per_user)
    requests = plan_requests(log, settings.evaluation.model_copy(update={"captions_per_user": captions}))
    return requests[requests.users == "unseen"].reset_index(drop=True)


def _candidates(settings: Settings, experiments: ExperimentSettings, log: Preferences, source: str) -> pd.DataFrame:
    how, requests = experiments.best_of_n, _requests(settings, experiments, log)
    if source == OURS:
        return candidates_of(requests, max(*how.n_ours, OPPONENTS), pool=None)
    return candidates_of(requests, max(how.n), pool=how.pool)


def _sample_own(
    settings: Settings, experiments: ExperimentSettings, layout: Layout, user_ids: NDArray[np.str_], file: Path
) -> None:
    candidates = _candidates(settings, experiments, Preferences.open(layout.preferences), OURS)
    wanted = with_columns(candidates[candidates.for_user.isin(user_ids)], SAMPLE).reset_index(drop=True)
    sample_once(settings, layout.models / "ppd", wanted, first_embeddings_of_users(layout), file)


def _pick_by_judge(
    settings: Settings, experiments: ExperimentSettings, layout: Layout, source: str, files: list[Path], out: Path
) -> None:
    log = Preferences.open(layout.preferences)
    candidates = _candidates(settings, experiments, log, source)
    samples = {key: png for file in files for key, png in StoredSamples({source: file}).items()}
    supports = FirstSupport(log, candidates.for_user.unique().tolist())
    ns = experiments.best_of_n.n_ours if source == OURS else experiments.best_of_n.n
    matches = (max(ns) - 1) * candidates.groupby(["for_user", "caption"]).ngroups
    vlm = load_judge(settings, layout.answers, next(iter(supports.values())), matches)
    with atomic_path(out) as fresh:
        picked_by_judge(candidates, source, samples, supports, vlm, ns).to_parquet(fresh, index=False)


def _table(
    settings: Settings,
    experiments: ExperimentSettings,
    layout: Layout,
    files: Mapping[str, list[Path]],
    by_judge: Mapping[str, pd.DataFrame],
) -> list[dict[str, Any]]:
    """A row for each source, picker and n: what it costs, what it wins over the base and ours over it, its images."""
    how, log = experiments.best_of_n, Preferences.open(layout.preferences)
    measures, tastes = ImageMeasures.load(settings, layout), Tastes.load(layout.truth)
    observer = ExactObserver(layout.truth, settings.people)
    seen = {source: _seen(measures, source, parts) for source, parts in files.items()}
    readings = pd.concat(seen.values())
    candidates = {source: _candidates(settings, experiments, log, source) for source in files}
    users = candidates["base"].for_user.unique().tolist()
    pairs = support_pairs(log, users, settings.preferences.pairs_per_group)
    believed = observer.tastes(observer.beliefs(pairs))
    # Opponents are of the same pool, beyond the candidates of their request.
    opponents = candidates_of(_requests(settings, experiments, log), how.pool, pool=how.pool)
    opponents = opponents[(opponents.place >= max(how.n)) & (opponents.place < max(how.n) + OPPONENTS)]
    ours = candidates[OURS][candidates[OURS].place < OPPONENTS]
    process, how_sampled = base_model(settings, settings.sampling.precision).process, settings.sampling
    forwards = {source: n_forwards(process, how_sampled, for_user=source == OURS) for source in files}
    rows: list[dict[str, Any]] = []

    def add(source: str, picker: str, n: int, picked: pd.DataFrame) -> None:
        over_base = judge(compared(picked, source, opponents, "base"), readings, tastes)
        row = {"source": source, "picker": picker, "n": n, "forwards": n * forwards[source]}
        row |= {"questions": 2 * (n - 1) if picker == "VLM" else 0, "over_base": win_rates(over_base)[0]}
        if source == "base":
            against = judge(compared(ours, OURS, picked, "base"), readings, tastes)
            row["ours_over_it"] = win_rates(against)[0]
        shown = seen[source].loc[pd.MultiIndex.from_frame(picked.assign(model=source)[IMAGE_KEY])].reset_index()
        rows.append(row | measured(shown.assign(user_id=picked.for_user.to_numpy())))

    for source, ns in (("base", how.n), (OURS, how.n_ours)):
        one = ours if source == OURS else candidates["base"][candidates["base"].place < OPPONENTS]
        add(source, "nobody", 1, one)
        for n in ns:
            add(source, "VLM", n, by_judge[source][by_judge[source].n == n])
        of_source = readings.loc[[source]].droplevel("model")
        for n in ns:
            add(source, "exact posterior", n, picked_by_taste(candidates[source], of_source, believed, n))
    return rows


def _seen(measures: ImageMeasures, source: str, files: list[Path]) -> pd.DataFrame:
    """Readings of a source's images, with in_manifold: whether each lies where real renders do."""
    return pd.concat([measures.table(source, *read_samples(file)) for file in files])
