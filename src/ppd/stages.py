"""The stages of dvc.yaml: settings in, files out.

A stage only says which part of the settings and which paths a component gets; dvc.yaml lists both. What a stage
computes is in the component's own package, which is what dvc.yaml names as the stage's code. Components are imported
when their stage runs, so that reading a log of choices never waits for torch. Models run on the accelerator that
accelerate finds.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ppd.layout import Layout
from ppd.parts import this_part
from ppd.settings import Method, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from ppd.preferences.store import Preferences


def ingest(settings: Settings, layout: Layout) -> None:
    """Validate, clean and split the log of choices."""
    from ppd.preferences.ingest import ingest

    ingest(settings.preferences, layout.choices, layout.preferences, for_training=True)


def truth(settings: Settings, layout: Layout) -> None:
    """The true taste of the log's users, where it is known; a note where it is not."""
    from ppd.preferences.store import Preferences
    from ppd.simulation.truth.belongs import write_truth

    print(write_truth(Preferences.open(layout.preferences), layout.given_truth, layout.truth))


def encode(settings: Settings, layout: Layout) -> None:
    """Latents of all images and text embeddings of all captions, once; later only of what is new."""
    from ppd.device import this_device
    from ppd.diffusion.encoding.encode import encode
    from ppd.diffusion.model.load import load_backbone
    from ppd.preferences.store import Preferences

    # The network itself is only named here, so it may be small.
    backbone = load_backbone(settings.models.prior, precision="bf16", device=this_device())
    done = encode(
        Preferences.open(layout.preferences),
        backbone,
        layout.latents,
        layout.unfinished / "encode",
        image_px=settings.models.image_px,
        batch_size=settings.models.encode_batch_size,
    )
    _say(
        f"images: {done.images} encoded, {done.kept_images} already were; captions: {done.captions} encoded, "
        f"{done.kept_captions} already were"
    )


def embed(settings: Settings, layout: Layout, shard: str) -> None:
    """Embeddings of the users of one shard; only what changed is embedded again."""
    from ppd.device import this_device
    from ppd.preferences.store import Preferences
    from ppd.users.support import n_shard_groups, shard_groups
    from ppd.vlm.refresh import refresh
    from ppd.vlm.server_writer import ServerWriter
    from ppd.vlm.transformers_backend import TransformersVlm

    preferences, server = Preferences.open(layout.preferences), settings.embedding.server
    vlm = TransformersVlm.load(
        settings.models.vlm,
        device=this_device(),
        precision=settings.embedding.precision,
        batch_size=settings.embedding.batch_size,
    )
    done = refresh(
        layout.shard(shard),
        shard_groups(preferences, shard),
        vlm,
        settings.embedding,
        layout.unfinished / f"embed-{shard}",
        total=n_shard_groups(preferences, shard),
        writer=None if server is None else ServerWriter(server, layout.answers),
    )
    _say(f"{shard}: {done.embedded} groups of pairs embedded, {done.kept} already were")


def users(settings: Settings, layout: Layout) -> None:
    """The manifest of all users, and the whitening fitted on those of training."""
    from ppd.preferences.store import Preferences
    from ppd.users.embeddings import load_embeddings
    from ppd.users.manifest import fit_whitening, write_manifest

    preferences = Preferences.open(layout.preferences)
    embeddings = load_embeddings(_shard_files(layout, preferences))
    fit_whitening(preferences, embeddings, settings.embedding).save(layout.whitening)
    write_manifest(preferences, embeddings, _shard_files(layout, preferences), layout.manifest)


def finetune(settings: Settings, layout: Layout, method: Method) -> None:
    """Train one method's adapter, in as many processes as there are (`launch` in params.yaml)."""
    from ppd.device import this_device
    from ppd.diffusion.encoding.store import Encoded
    from ppd.diffusion.model.load import load_backbone
    from ppd.diffusion.training.assemble import training_data
    from ppd.diffusion.training.run import finetune
    from ppd.parts import here
    from ppd.preferences.store import Preferences
    from ppd.users.whitening import Whitening

    preferences = Preferences.open(layout.preferences)
    # Of the processes on one machine one reads all that is encoded, to see whether it is as it was written.
    encoded = Encoded.open(layout.latents, check=here().is_first)
    data = training_data(preferences, encoded, _embeddings(layout, preferences))
    backbone = load_backbone(settings.models.prior, precision=settings.finetune.precision, device=this_device())
    finetune(
        backbone,
        data,
        settings.finetune,
        method,
        layout.trained / method,
        layout.unfinished / method,
        reference_folder=layout.reference_errors,
        origin={"whitening": Whitening.load(layout.whitening).name},
    )


def adapter(settings: Settings, layout: Layout, method: Method) -> None:
    """A trained adapter with all that inference needs beside it, in one folder."""
    from ppd.diffusion.adapter.complete import complete_adapter

    complete_adapter(layout.trained / method, layout.whitening, settings.sampling, layout.models / method)


def sample(settings: Settings, layout: Layout, method: str) -> None:
    """Sample a method's images for the evaluation; method base samples without an adapter."""
    from ppd.device import this_device
    from ppd.diffusion.adapter.checkpoint import adapter_identity, load_adapter
    from ppd.diffusion.model.load import load_backbone
    from ppd.diffusion.sampling.run import sample_images
    from ppd.evaluation.plan import plan_images, plan_requests
    from ppd.preferences.store import Preferences

    preferences = Preferences.open(layout.preferences)
    requests = plan_requests(preferences, settings.evaluation)
    backbone = load_backbone(settings.models.prior, precision=settings.sampling.precision, device=this_device())
    base = method == "base"
    adapter = None if base else load_adapter(layout.models / method, backbone)
    embeddings = {} if base else _embeddings(layout, preferences)
    for name, planned in plan_images(requests, method, settings.evaluation, embeddings).items():
        sample_images(
            planned.requests,
            backbone,
            settings.sampling,
            layout.sampled(method, name),
            layout.unfinished / f"sample-{method}-{name}",
            adapter=adapter,
            users=planned.users,
            identity="" if base else adapter_identity(layout.models / method),
        )


def judge(settings: Settings, layout: Layout) -> None:
    """Every comparison, by the true taste where it is known and by the vision-language model."""
    from ppd.evaluation.judge import write_verdicts
    from ppd.preferences.store import Preferences

    preferences, truth = Preferences.open(layout.preferences), None
    if _truth_is_known(layout):
        from ppd.simulation.truth.judge import SimulatedJudge

        truth = SimulatedJudge(
            preferences,
            layout.truth,
            settings.models.attribute_classifier,
            settings.people,
            settings.preferences.pairs_per_group,
        )
    write_verdicts(settings, preferences, _images(layout), layout, truth)


def report(settings: Settings, layout: Layout) -> None:
    """Win rates, metrics, plots and the page that explains them."""
    from ppd.evaluation.publish import publish
    from ppd.preferences.store import Preferences
    from ppd.users.embeddings import load_profiles

    preferences = Preferences.open(layout.preferences)
    profiles, truth = load_profiles(_shard_files(layout, preferences)), None
    if _truth_is_known(layout):
        from ppd.simulation.truth.measures import SimulatedMeasures

        truth = SimulatedMeasures(settings.models.clip, layout.truth, layout.stickers)
    publish(settings, preferences, profiles, _images(layout), layout, truth)


def _say(words: str) -> None:
    """Of several processes the first one speaks."""
    if this_part().is_first:
        print(words)


def _truth_is_known(layout: Layout) -> bool:
    """What the stage `truth` found; for real users nothing of the simulated world is imported."""
    return any(layout.truth.glob("*.parquet"))


def _images(layout: Layout) -> dict[str, Path]:
    """The sampled images of each model."""
    from ppd.evaluation.plan import METHODS

    return {method: layout.sampled(method) for method in METHODS}


def _shard_files(layout: Layout, preferences: "Preferences") -> list[Path]:
    return [layout.shard(shard) for shard in sorted(preferences.users.shard.unique())]


def _embeddings(layout: Layout, preferences: "Preferences") -> "dict[str, Tensor]":
    """Whitened embeddings [groups, rows, components] of all users."""
    from ppd.users.manifest import whitened
    from ppd.users.whitening import Whitening

    return whitened(_shard_files(layout, preferences), Whitening.load(layout.whitening))
