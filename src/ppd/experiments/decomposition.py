"""Where the rest of the way to perfect goes: what the embedding costs, the base cannot draw, the fine-tuning leaves.

The same training with other embeddings in the VLM's place (`ppd.experiments.embeddings`), beside picks that need no
training at all: the best of 64 renders of the world, which is the ceiling, and of 64 of the base's own images, each by
the true taste and by the exact posterior. All meet the same opponents.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from ppd.diffusion.sampling.store import read_samples
from ppd.evaluation.plan import image_requests, plan_comparisons, plan_requests
from ppd.evaluation.win_rates import sampled_factors, win_rates
from ppd.experiments.embeddings import READERS, VLM, embeddings_by
from ppd.experiments.models import sample_once
from ppd.experiments.picks import candidates_of, picked_by_taste
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.sampling import measured
from ppd.experiments.seeds import adapter_files, adapter_folder, train_once
from ppd.experiments.settings import ExperimentSettings, changed
from ppd.experiments.shared_inputs import POOL, ImageMeasures
from ppd.files import write_json
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import resumable
from ppd.settings import Settings
from ppd.simulation.truth.best_pick import N_CANDIDATES, judge_best_picks
from ppd.simulation.truth.exact import ExactObserver, support_pairs
from ppd.simulation.truth.utility import Tastes, judge
from ppd.statistics.bootstrap import crossed_mean
from ppd.stored_tensors import load_tensors, save_tensors

RENDERS, OF_BASE = (f"best of {N_CANDIDATES} {of}" for of in ("renders", "of the base"))
COSTS = (
    ("what four choices do not say", f"{RENDERS}, true taste", f"{RENDERS}, posterior mean"),
    ("what 64 images of the base do not hold", f"{RENDERS}, posterior mean", f"{OF_BASE}, posterior mean"),
    ("what fine-tuning leaves, the taste being known", f"{RENDERS}, true taste", "trained on true taste"),
    ("what fine-tuning leaves, the choices read exactly", f"{RENDERS}, posterior mean", "trained on posterior mean"),
    ("what four choices do not say, after training", "trained on true taste", "trained on posterior mean"),
    ("what the VLM misses of the four choices", "trained on posterior mean", "trained on VLM"),
    ("what user types miss that the VLM sees", "trained on VLM", "trained on user types"),
)  # fmt: skip
"""What is lost, between which two rows."""


def write_decomposition(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Train with every embedding and seed, sample for the test users, and write rows and their differences."""
    readers, seeds = (*READERS, VLM), experiments.decomposition.seeds
    inputs = [*adapter_files(settings, experiments, layout), layout.shared_inputs / POOL]
    with resumable(layout.experiment_work / "decomposition", [settings, experiments.decomposition], inputs) as work:
        folders = {(reader, seed): work / reader / f"seed-{seed}" for reader in readers for seed in seeds}
        read = {reader: (settings, layout, reader, work / reader / "embeddings.safetensors") for reader in readers}
        run_side_by_side(_read, read, work / "logs" / "read", n_workers=experiments.n_workers)
        jobs = {f"{reader}-{seed}": (settings, layout, reader, seed, f) for (reader, seed), f in folders.items()}
        run_side_by_side(_train_and_sample, jobs, work / "logs" / "trained", n_workers=experiments.n_workers)
        result = {"seeds": list(seeds), **_compare(settings, layout, folders)}
        write_json(layout.experiment_results / "decomposition.json", result)


def _read(settings: Settings, layout: Layout, reader: str, file: Path) -> None:
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(embeddings_by(reader, settings, layout), file)


def _train_and_sample(settings: Settings, layout: Layout, reader: str, seed: int, folder: Path) -> None:
    embeddings: dict[str, Tensor] = load_tensors(folder.parent / "embeddings.safetensors")
    adapter = adapter_folder(settings, layout, seed)
    if reader != VLM:
        train_once(changed(settings, {"finetune": {"seed": seed}}), layout, embeddings, folder)
        adapter = folder / "adapter"
    requests = _requests(settings, layout)
    first = {user_id: groups[0] for user_id, groups in embeddings.items()}
    wanted = image_requests(requests, "ppd", settings.evaluation)
    sample_once(settings, adapter, wanted, first, folder / "images.parquet")


def _requests(settings: Settings, layout: Layout) -> pd.DataFrame:
    requests = plan_requests(Preferences.open(layout.preferences), settings.evaluation)
    return requests[requests.users == "unseen"].reset_index(drop=True)


def _compare(settings: Settings, layout: Layout, folders: dict[tuple[str, int], Path]) -> dict[str, Any]:
    """Rows: each embedding's and each picker's win rates over the base. costs: what lies between two of them."""
    log, requests = Preferences.open(layout.preferences), _requests(settings, layout)
    planned = plan_comparisons(requests, settings.evaluation)
    planned = planned[(planned.method == "ppd") & planned.opponent.isin(["base", "ppd-shuffled"])]
    against_base = planned[(planned.opponent == "base") & (planned.pairing == "independent")].reset_index(drop=True)
    measures, tastes = ImageMeasures.load(settings, layout), Tastes.load(layout.truth)
    base = measures.table("base", *read_samples(layout.sampled("base")))
    rows: list[dict[str, Any]] = []
    verdicts: dict[str, list[pd.DataFrame]] = {}
    for reader in dict.fromkeys(reader for reader, _ in folders):
        label, seen, judged = f"trained on {reader}", [], []
        for seed in [seed for other, seed in folders if other == reader]:
            readings = measures.table("ppd", *read_samples(folders[reader, seed] / "images.parquet"))
            seen.append(readings.reset_index().assign(training_seed=seed))
            together = pd.concat([base, readings])
            judged.append(judge(planned, together, tastes).assign(training_seed=seed))
            verdicts.setdefault(label, []).append(judge(against_base, together, tastes))
        rows.append({"row": label, "win_rates": win_rates(pd.concat(judged)), **measured(pd.concat(seen))})
    observer = ExactObserver(layout.truth, settings.people)
    pairs = support_pairs(log, requests.user_id.unique().tolist(), settings.preferences.pairs_per_group)
    pool = measures.table("pool", *read_samples(layout.shared_inputs / POOL))
    n_pool = int(pool.reset_index().groupby("caption").size().min())
    candidates = candidates_of(requests, min(N_CANDIDATES, n_pool), pool=n_pool)
    for knows, believed in (("true taste", tastes), ("posterior mean", observer.tastes(observer.beliefs(pairs)))):
        picked = judge_best_picks(planned, base, tastes, believed).reset_index(drop=True)
        rows.append({"row": f"{RENDERS}, {knows}", "win_rates": win_rates(picked)})
        verdicts[rows[-1]["row"]] = [picked]
        chosen = picked_by_taste(candidates, pool.droplevel("model"), believed, N_CANDIDATES)
        picks = chosen.set_index(["for_user", "caption"]).seed
        seeds = picks.loc[pd.MultiIndex.from_frame(against_base[["user_id", "caption"]])].to_numpy()
        theirs = against_base.assign(method="pool", method_user="", method_seed=seeds)
        own = judge(theirs, pd.concat([base, pool]), tastes)
        keys = pd.MultiIndex.from_frame(chosen.assign(model="pool")[["model", "user_id", "caption", "seed"]])
        shown = pool.loc[keys].reset_index().assign(user_id=chosen.for_user.to_numpy())
        rows.append({"row": f"{OF_BASE}, {knows}", "win_rates": win_rates(own), **measured(shown)})
        verdicts[rows[-1]["row"]] = [own]
    return {
        "n_users": int(requests.user_id.nunique()),
        "rows": rows,
        "costs": _costs(verdicts),
        "base": measured(base.reset_index()),
    }


def _costs(verdicts: dict[str, list[pd.DataFrame]]) -> list[dict[str, Any]]:
    """What each of `COSTS` is, in win rate over the base and in SD of gain: the same comparisons, paired."""
    costs = []
    for what, better, worse in COSTS:
        row: dict[str, Any] = {"what": what, "better": better, "worse": worse}
        for name in ("outcome", "gain_sd"):
            above, below = (
                np.mean([table[name].to_numpy(float) for table in verdicts[row_name]], axis=0)
                for row_name in (better, worse)
            )
            row[name] = crossed_mean(above - below, sampled_factors(verdicts[better][0])).as_row()
        costs.append(row)
    return costs
