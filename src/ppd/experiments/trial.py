"""One run of one variant with one seed: trained, sampled for users it never saw, judged by the true taste."""

import time
from pathlib import Path

import pandas as pd

from ppd.diffusion.adapter.checkpoint import adapter_identity, load_adapter
from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.sampling.run import sample_images
from ppd.diffusion.sampling.store import read_samples
from ppd.diffusion.training.dataset import shuffled_users
from ppd.diffusion.training.run import finetune
from ppd.evaluation.plan import image_requests
from ppd.experiments.data import Material, Part, narrowed, part_for
from ppd.experiments.implicit import first_embeddings, rewards
from ppd.experiments.models import base_model
from ppd.experiments.plan import SPLITS, Split, comparisons_of_ppd, requests_of, sampling_of
from ppd.experiments.seeds import COST
from ppd.experiments.settings import ExperimentSettings, Variant, changed
from ppd.experiments.shared_inputs import BASE, ImageMeasures, base_samples
from ppd.experiments.whole_network import finetune_whole, load_network
from ppd.files import atomic_path, write_json
from ppd.layout import Layout
from ppd.settings import Settings, TimestepSettings
from ppd.simulation.truth.utility import Tastes, judge

ADAPTER, VERDICTS, MEASURES, IMPLICIT = "adapter", "verdicts.parquet", "measures.json", "implicit.json"
OPPONENTS = ("base", "ppd-shuffled")
TIMESTEPS = TimestepSettings()
"""The noise levels of every implicit accuracy, whatever a variant trains on."""


def trial(
    settings: Settings, experiments: ExperimentSettings, name: str, seed: int, layout: Layout, folder: Path
) -> None:
    """Leave in `folder`: the adapter, and for each group of users verdicts and measures; what is there is kept."""
    variant = experiments.variants[name]
    settings = trial_settings(settings, experiments, variant, seed)
    material = Material.open(layout)
    log = narrowed(material.preferences, variant.n_users, variant.pairs_share)
    part = part_for(material, log, settings.embedding, whitened=variant.whitened)
    if not (folder / ADAPTER).exists():
        train(settings, part, folder, layout.reference_errors, whole_network=variant.whole_network)
    backbone = base_model(settings, settings.sampling.precision)
    adapter = load_adapter(folder / ADAPTER, backbone)
    load_network(backbone, folder / ADAPTER)
    for split in SPLITS[: 2 if name in experiments.trial.confirmed else 1]:
        if not (folder / split / MEASURES).exists():
            evaluate(settings, experiments, material, part, split, backbone, adapter, layout, folder)
    if not (folder / IMPLICIT).exists():
        write_json(folder / IMPLICIT, implicit_accuracy(part, backbone, adapter))


def trial_settings(settings: Settings, experiments: ExperimentSettings, variant: Variant, seed: int) -> Settings:
    """The pipeline's settings at a trial's budget, with the variant's changes and this seed."""
    small = changed(settings, {"finetune": {**experiments.trial.finetune, "seed": seed}})
    small = small.model_copy(update={"sampling": sampling_of(small.sampling, experiments.trial)})
    return changed(small, variant.changes)


def train(settings: Settings, part: Part, folder: Path, reference: Path, *, whole_network: bool) -> None:
    """Train the adapter and write down what it cost; goes on where a killed run left off."""
    started = time.process_time()
    if whole_network:
        finetune_whole(settings, part.data, folder / ADAPTER)
    else:
        finetune(
            base_model(settings, settings.finetune.precision),
            part.data,
            settings.finetune,
            "ppd",
            folder / ADAPTER,
            folder.parent / f".{folder.name}.unfinished",
            reference_folder=reference,
            origin={},
        )
    write_json(folder / COST, {"train_cpu_s": round(time.process_time() - started, 1)})


def evaluate(
    settings: Settings,
    experiments: ExperimentSettings,
    material: Material,
    part: Part,
    split: Split,
    backbone: Backbone,
    adapter: UserAttention,
    layout: Layout,
    folder: Path,
) -> None:
    """Sample for these users, and leave the verdicts of the true taste and measures of the images in folder/split."""
    requests, plan = requests_of(material.preferences, split, settings.evaluation, experiments.trial)
    first = {user_id: part.embeddings[user_id][0] for user_id in requests.user_id.unique()}
    file = folder / split / "images.parquet"
    sample_images(
        image_requests(requests, "ppd", plan),
        backbone,
        settings.sampling,
        file,
        file.with_suffix(".unfinished"),
        adapter=adapter,
        users=first,
        identity=adapter_identity(folder / ADAPTER),
    )
    measures = ImageMeasures.load(settings, layout)
    samples = {"base": base_samples(layout, BASE, requests), "ppd": read_samples(file)}
    measured = {model: measures(model, *sampled) for model, sampled in samples.items()}
    planned = comparisons_of_ppd(requests, plan, OPPONENTS)
    readings = pd.concat([readings for readings, _ in measured.values()])
    with atomic_path(folder / split / VERDICTS) as fresh:
        judge(planned, readings, Tastes.load(layout.truth)).to_parquet(fresh, index=False)
    found = {f"{name}.{model}": value for model, (_, values) in measured.items() for name, value in values.items()}
    write_json(folder / split / MEASURES, found)


def implicit_accuracy(part: Part, backbone: Backbone, adapter: UserAttention) -> dict[str, float]:
    """Share of held-out choices of validation users that the implicit reward gets right, as them and as others."""
    pairs = part.data.held_out
    own, others = (first_embeddings(part.data, user) for user in (pairs.user, shuffled_users(pairs.user)))
    found = rewards(backbone, adapter, part.data, pairs, {"own": own, "shuffled_user": others}, TIMESTEPS)
    shares = {f"implicit_accuracy.{name}": float((reward > 0).double().mean()) for name, reward in found.items()}
    return shares | {"implicit_accuracy.n": len(pairs)}
