"""The stages of dvc.yaml: settings in, files out.

A stage only says which part of the settings and which paths a component gets; dvc.yaml lists both. What a stage
computes lives in the component's own package, which is what dvc.yaml names as the stage's code. Components are imported
when their stage runs, so that reading a log of choices never waits for torch. Models run on the accelerator that
accelerate finds.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ppd.settings import Method, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from ppd.preferences.store import Preferences
    from ppd.vlm.store import People

STICKERS = Path("data/stickers")
CHOICES = Path("data/choices")
TRUTH = Path("data/truth")
PREFERENCES = Path("artifacts/preferences")
LATENTS = Path("artifacts/latents")
USERS = Path("artifacts/users")
MANIFEST = Path("artifacts/users.parquet")
WHITENING = Path("artifacts/whitening.safetensors")
MODELS = Path("models")
SAMPLES = Path("artifacts/samples")
VERDICTS = Path("artifacts/verdicts")
REPORTS = Path("reports")
UNFINISHED = Path("runs/unfinished")
ANSWERS = Path("runs/answers")


def ingest(settings: Settings) -> None:
    """Validate, clean and split the log of choices."""
    from ppd.preferences.ingest import ingest

    ingest(settings.preferences, CHOICES, PREFERENCES, for_training=True)


def encode(settings: Settings) -> None:
    """Latents of all images and text embeddings of all captions, once; later only of what is new."""
    from ppd.device import this_device
    from ppd.diffusion.encoding import encode
    from ppd.diffusion.stable_cascade import StableCascadeBackbone
    from ppd.preferences.store import Preferences

    # The network itself is only named here, so it may be small.
    backbone = StableCascadeBackbone.from_pretrained(settings.models.prior, precision="bf16", device=this_device())
    done = encode(
        Preferences.open(PREFERENCES),
        backbone,
        LATENTS,
        image_px=settings.models.image_px,
        batch_size=settings.models.encode_batch_size,
    )
    print(f"images: {done.images} encoded, {done.kept_images} already were; captions: {done.captions}", end=" ")
    print(f"encoded, {done.kept_captions} already were")


def embed(settings: Settings, shard: str) -> None:
    """Embeddings of the users of one shard; only what changed is embedded again."""
    from ppd.device import this_device
    from ppd.preferences.store import Preferences
    from ppd.vlm.people import n_shard_groups, shard_groups
    from ppd.vlm.store import refresh
    from ppd.vlm.transformers_backend import TransformersVlm

    preferences = Preferences.open(PREFERENCES)
    vlm = TransformersVlm.load(
        settings.models.vlm,
        device=this_device(),
        precision=settings.embedding.precision,
        batch_size=settings.embedding.batch_size,
    )
    done = refresh(
        USERS / shard / "embeddings.parquet",
        shard_groups(preferences, shard),
        vlm,
        settings.embedding,
        total=n_shard_groups(preferences, shard),
    )
    print(f"{shard}: {done.embedded} groups of pairs embedded, {done.kept} already were")


def users(settings: Settings) -> None:
    """The manifest of all users, and the whitening fitted on those of training."""
    from ppd.preferences.store import Preferences
    from ppd.vlm.people import fit_whitening, write_manifest

    preferences = Preferences.open(PREFERENCES)
    people = _people(preferences)
    fit_whitening(preferences, people, settings.embedding).save(WHITENING)
    write_manifest(preferences, people, _shard_files(preferences), MANIFEST)


def finetune(settings: Settings, method: Method) -> None:
    """Train one method's adapter, in as many processes as started this one (`launch` in params.yaml)."""
    from ppd.device import this_device
    from ppd.diffusion.assemble import training_data
    from ppd.diffusion.encoding import Encoded
    from ppd.diffusion.finetune import finetune
    from ppd.diffusion.stable_cascade import StableCascadeBackbone
    from ppd.preferences.store import Preferences
    from ppd.vlm.whitening import Whitening

    preferences = Preferences.open(PREFERENCES)
    data = training_data(preferences, Encoded.open(LATENTS), _embeddings(preferences))
    backbone = StableCascadeBackbone.from_pretrained(
        settings.models.prior, precision=settings.finetune.precision, device=this_device()
    )
    finetune(
        backbone,
        data,
        settings.finetune,
        method,
        MODELS / method,
        UNFINISHED / method,
        reference_folder=UNFINISHED / "reference",
        origin={"whitening": Whitening.load(WHITENING).name},
    )


def sample(settings: Settings, method: str) -> None:
    """Draw a method's images for the evaluation; method base draws without an adapter."""
    from ppd.device import this_device
    from ppd.diffusion.adapter import load_adapter, read_config
    from ppd.diffusion.drawing import draw
    from ppd.diffusion.stable_cascade import StableCascadeBackbone
    from ppd.evaluation.plan import NOBODY, images, journeys, requests
    from ppd.preferences.store import Preferences

    preferences = Preferences.open(PREFERENCES)
    wanted = images(requests(preferences, settings.evaluation), method, settings.evaluation)
    backbone = StableCascadeBackbone.from_pretrained(
        settings.models.prior, precision=settings.sampling.precision, device=this_device()
    )
    if method == "base":
        draw(wanted, backbone, settings.sampling, SAMPLES / method / "images.parquet")
        return
    adapter = load_adapter(MODELS / method, backbone)
    people = {user_id: groups[0] for user_id, groups in _embeddings(preferences).items()}
    # A pooled adapter reads every embedding but zero as the one that stands for everybody.
    people[NOBODY] = next(iter(people.values())) * 0 + 1
    wishes = {"images": wanted}
    if method == "ppd":
        ways = journeys(requests(preferences, settings.evaluation), settings.evaluation)
        people |= {
            name: people[first].lerp(people[second], share)
            for name, first, second, share in zip(ways.user_id, ways["first"], ways.second, ways["share"], strict=True)
        }
        wishes["journeys"] = ways[["user_id", "caption", "seed"]]
    identity = read_config(MODELS / method).model_dump_json()
    for name, rows in wishes.items():
        file = SAMPLES / method / f"{name}.parquet"
        draw(rows, backbone, settings.sampling, file, adapter=adapter, people=people, identity=identity)


def judge(settings: Settings) -> None:
    """Every comparison, by the true taste where it is known and by the vision-language model."""
    from ppd.evaluation.judge import write_verdicts
    from ppd.preferences.store import Preferences

    write_verdicts(settings, Preferences.open(PREFERENCES), SAMPLES, TRUTH, ANSWERS, VERDICTS)


def report(settings: Settings) -> None:
    """Win rates, metrics, plots and the page that explains them."""
    from ppd.evaluation.publish import publish
    from ppd.preferences.store import Preferences

    profiles = _people(preferences := Preferences.open(PREFERENCES)).profiles
    publish(settings, preferences, profiles, SAMPLES, VERDICTS, MODELS, TRUTH, STICKERS, REPORTS)


def _shard_files(preferences: "Preferences") -> list[Path]:
    return [USERS / shard / "embeddings.parquet" for shard in sorted(preferences.users.shard.unique())]


def _people(preferences: "Preferences") -> "People":
    from ppd.vlm.store import load_people

    return load_people(_shard_files(preferences))


def _embeddings(preferences: "Preferences") -> "dict[str, Tensor]":
    """Whitened embeddings [groups, rows, components] of everybody."""
    from ppd.vlm.people import whitened
    from ppd.vlm.whitening import Whitening

    return whitened(_people(preferences), Whitening.load(WHITENING))
