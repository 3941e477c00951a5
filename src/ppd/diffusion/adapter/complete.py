"""A trained adapter made complete: one folder that needs the base and the VLM, and nothing else."""

import shutil
from pathlib import Path

from ppd.diffusion.adapter.checkpoint import CONFIG, WEIGHTS, Inference, read_config
from ppd.errors import InputError
from ppd.files import atomic_path
from ppd.settings import SamplingSettings
from ppd.users.whitening import Whitening

WHITENING = "whitening.safetensors"


def complete_adapter(trained: Path, whitening: Path, sampling: SamplingSettings, out_dir: Path) -> None:
    """Write `out_dir`: what training left in `trained`, the whitening, and how to embed and to sample.

    Raises InputError where the two do not belong together.
    """
    config, white = read_config(trained), Whitening.load(whitening)
    if config.whitening != white.name:
        raise InputError(
            f"the adapter was trained beside the whitening {config.whitening}, but this is {white.name}",
            file=whitening,
            fix="Use the whitening of the run that trained the adapter",
        )
    if white.recipe is None:
        raise InputError("it does not say how its embeddings were read", file=whitening, fix="Run the stage `users`")
    inference = Inference(embedding=white.recipe, sampling=sampling)
    with atomic_path(out_dir) as fresh:
        shutil.copytree(trained, fresh)
        shutil.copyfile(whitening, fresh / WHITENING)
        whole = config.model_copy(update={"inference": inference})
        (fresh / CONFIG).write_text(whole.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_complete(folder: Path) -> tuple[Inference, Whitening]:
    """What `complete_adapter` added. Raises InputError for an adapter that is not complete, or not in itself."""
    config = read_config(folder)
    if config.inference is None or not (folder / WHITENING).is_file():
        raise InputError(
            "the adapter is not complete: it does not say how to embed a user, or holds no whitening",
            file=folder,
            fix="`dvc repro` completes it in models/; `ppd export` copies it from there",
        )
    white = Whitening.load(folder / WHITENING)
    shape = (len(config.inference.embedding.rows), white.matrix.shape[-1])
    if white.name != config.whitening or shape != config.embedding_shape:
        raise InputError(
            f"it gives embeddings of (rows, dim) {shape} and is named {white.name}; the adapter reads "
            f"{config.embedding_shape} of {config.whitening}",
            file=folder / WHITENING,
            fix="Copy the whole folder again",
        )
    return config.inference, white


FILES = (CONFIG, WEIGHTS, WHITENING)
"""What inference reads of a complete adapter."""
