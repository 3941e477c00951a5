"""Settings told apart on people enough for it: many fresh ones, simulated here, who are in no log and in no split.

The few validation people of a log know a gain to a tenth of a standard deviation, which is what good settings differ
by. Here every image of an arm is compared with the whole pool of the base's images of its caption, and every arm draws
for the same people, captions and noises, so that differences are paired.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from ppd.diffusion.adapter.checkpoint import WEIGHTS
from ppd.diffusion.sampling.store import read_samples
from ppd.errors import InputError
from ppd.evaluation.tables import SAMPLE
from ppd.experiments.data import Material, chosen_rows, part_for
from ppd.experiments.models import embedding_model, sample_once
from ppd.experiments.plan import POOL_SEED, captions_of
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.sampling import MEASURES, measured
from ppd.experiments.seeds import adapter_folder
from ppd.experiments.settings import ExperimentSettings, FreshPeopleSettings, changed
from ppd.experiments.shared_inputs import POOL, ImageMeasures, base_samples
from ppd.experiments.trial import ADAPTER, train
from ppd.files import write_json
from ppd.layout import Layout
from ppd.preferences.ingest import ingest
from ppd.preferences.store import Preferences
from ppd.resumable import resumable
from ppd.settings import EmbeddingSettings, Settings
from ppd.simulation.log import simulate
from ppd.simulation.render import Atlas
from ppd.simulation.truth.utility import Tastes, spread_of
from ppd.simulation.world import FEATURES
from ppd.users.embeddings import load_embeddings
from ppd.users.manifest import fit_whitening
from ppd.users.support import support_groups
from ppd.vlm.refresh import refresh

COMPARED = {"win_rate": "wins", "gain_sd": "gain_sd", **MEASURES}


def write_fresh_people(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Simulate the people, train and draw for every arm with every seed, and write what each gains over the first.

    A killed run goes on.
    """
    how, seeds = experiments.fresh_people, experiments.seeds
    if not how.arms:
        raise InputError("fresh_people.arms is empty", fix="Say what is compared, as params.yaml does")
    if how.log_seed == settings.log.seed:
        raise InputError(
            f"fresh_people.log_seed is {how.log_seed} and so is log.seed: they would be the people of the log",
            fix="Choose another seed",
        )
    inputs = [layout.preferences / "pairs.parquet", *sorted(layout.shared_inputs.iterdir())]
    inputs += [adapter_folder(settings, layout, seed) / WEIGHTS for seed in seeds]
    with resumable(layout.experiment_work / "fresh-people", [settings, how], inputs) as work:
        there = Layout(work / "people")
        _simulate_people(settings, how, layout, there)
        trainings = [(name, seed) for name, arm in how.arms.items() for seed in seeds[: arm.n_seeds]]
        jobs = {
            f"{name}-{seed}": (settings, how, layout, there, name, seed, _folder(work, name, seed))
            for name, seed in trainings
        }
        run_side_by_side(_draw, jobs, work / "logs", n_workers=experiments.n_workers)
        tastes, measures = Tastes.load(there.given_truth), ImageMeasures.load(settings, layout)
        base = measures.table("base", *base_samples(layout, POOL, _requests(settings, how, layout, there)))
        rows, first = [], pd.DataFrame()
        for name, arm in how.arms.items():
            folders = {seed: _folder(work, name, seed) for seed in seeds[: arm.n_seeds]}
            for strength in arm.strengths:
                drawn = over_the_pool(_drawn(folders, strength, measures), base, tastes)
                first = drawn if first.empty else first
                said = {"arm": name, "varies": arm.varies, "value": arm.value, "strength": strength}
                rows.append(said | measured(drawn, COMPARED) | over(drawn, first))
        result = {
            "log_seed": how.log_seed,
            "n_users": int(first.user_id.nunique()),
            "captions_per_user": how.captions_per_user,
            "n_captions": int(first.caption.nunique()),
            "seeds": list(seeds),
            "pool": len(base),
            "base": measured(base.reset_index()),
            "rows": rows,
        }
        write_json(layout.experiment_results / "fresh_people.json", result)


def over_the_pool(drawn: pd.DataFrame, base: pd.DataFrame, tastes: Tastes) -> pd.DataFrame:
    """Readings of images drawn for users, each with `wins` and `gain_sd` over all the base's images of its caption.

    wins: the share of them that its user likes less, a tie counting half. gain_sd: over their mean, in standard
    deviations of what the base draws, in that user's eyes. base: readings by `tables.IMAGE_KEY`. Sorted by what was
    drawn, so that two arms stand beside each other.
    """
    parts = []
    for caption, rows in drawn.groupby("caption"):
        taste = tastes.of(rows.user_id.tolist())
        pool = base[base.index.get_level_values("caption") == caption]
        utility = (rows[list(FEATURES)].to_numpy() * taste).sum(axis=1)
        theirs = pool[list(FEATURES)].to_numpy() @ taste.T
        parts.append(
            rows.assign(
                wins=((np.sign(utility - theirs) + 1) / 2).mean(axis=0),
                gain_sd=(utility - theirs.mean(axis=0)) / spread_of(base, taste),
            )
        )
    columns = [*SAMPLE, "training_seed"]
    table = pd.concat(parts).astype({"concept_right": float, "in_manifold": float})
    return table.sort_values(columns).reset_index(drop=True)


def _simulate_people(settings: Settings, how: FreshPeopleSettings, layout: Layout, there: Layout) -> None:
    """Leave the people in a folder laid out like the repository: their log, cleaned, and their first four pairs read.

    Hidden states of all layers, wherever an arm reads them.
    """
    if not there.preferences.exists():
        log = settings.log.model_copy(update={"seed": how.log_seed, "n_users": how.n_users})
        simulate(log, settings.people, Atlas.load(layout.stickers), there.choices, there.given_truth)
        ingest(settings.preferences, there.choices, there.preferences)
    preferences = Preferences.open(there.preferences)
    for read in sorted({changed(settings, arm.changes).embedding.read for arm in how.arms.values()}):
        if not _known(there, read).exists():
            groups = [g for g in support_groups(preferences, preferences.users.user_id) if g.support_group == 0]
            every_layer = settings.embedding.model_copy(update={"rows": None, "read": read})
            vlm = embedding_model(settings)
            refresh(_known(there, read), groups, vlm, every_layer, there.root / "unfinished", total=len(groups))


def _requests(settings: Settings, how: FreshPeopleSettings, layout: Layout, there: Layout) -> pd.DataFrame:
    """What every arm draws: validation captions of the pipeline's log in turn, a noise of their own for each person."""
    captions = captions_of("validation", Preferences.open(layout.preferences), settings.evaluation)
    known = sorted(Preferences.open(there.preferences).users.user_id)
    rows = [
        (user_id, captions[(place + number) % len(captions)], POOL_SEED + place)
        for place, user_id in enumerate(known)
        for number in range(min(how.captions_per_user, len(captions)))
    ]
    return pd.DataFrame(rows, columns=list(SAMPLE))


def _draw(
    settings: Settings, how: FreshPeopleSettings, layout: Layout, there: Layout, name: str, seed: int, out: Path
) -> None:
    """Train an arm with a seed, unless the pipeline or the experiment `seeds` has, and draw at its strengths."""
    arm = how.arms[name]
    own = changed(changed(settings, {"finetune": {"seed": seed}}), arm.changes)
    material = Material.open(layout)
    weights = out / ADAPTER if arm.changes else adapter_folder(settings, layout, seed)
    if not weights.exists():
        out.mkdir(parents=True, exist_ok=True)
        part = part_for(material, material.preferences, own.embedding, whitened=True)
        train(own, part, out, layout.reference_errors, whole_network=False)
    users, requests = _embedded(material, own.embedding, there), _requests(settings, how, layout, there)
    for strength in arm.strengths:
        sampling = own.sampling.model_copy(update={"user_guidance": strength})
        sample_once(own, weights, requests, users, _images(out, strength), sampling)


def _folder(work: Path, name: str, seed: int) -> Path:
    return work / f"{name}-{seed}"


def _images(folder: Path, strength: float) -> Path:
    return folder / f"{strength:g}.parquet"


def _drawn(folders: Mapping[int, Path], strength: float, measures: ImageMeasures) -> pd.DataFrame:
    """The readings of what was drawn at this strength, by training seed -> folder, as one table."""
    tables = {seed: measures.table("ppd", *read_samples(_images(f, strength))) for seed, f in folders.items()}
    return pd.concat([table.reset_index().assign(training_seed=seed) for seed, table in tables.items()])


def over(arm: pd.DataFrame, first: pd.DataFrame) -> dict[str, Any]:
    """How much more of everything an arm has than the first, and of the gain with each training; paired.

    The first may have been trained with more seeds.
    """
    paired = first[first.training_seed.isin(arm.training_seed)].reset_index(drop=True)
    less = arm.assign(**{column: arm[column] - paired[column] for column in COMPARED.values()})
    by_seed = {str(seed): gain for seed, gain in less.groupby("training_seed").gain_sd.mean().items()}
    return {"over_first": measured(less, COMPARED), "over_first_by_seed": by_seed}


def _embedded(material: Material, how: EmbeddingSettings, there: Layout) -> Mapping[str, Tensor]:
    """The fresh people [rows, components], by the whitening that was fitted on the people trained on."""
    whitening = fit_whitening(material.preferences, chosen_rows(material.layers[how.read], how), how)
    fresh = chosen_rows(load_embeddings([_known(there, how.read)]), how)
    return {user_id: whitening(hidden)[0] for user_id, hidden in fresh.hidden.items()}


def _known(there: Layout, read: str) -> Path:
    return there.root / f"{read}.parquet"
