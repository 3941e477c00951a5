"""Models and users as every experiment loads them: on the accelerator that is there, as the settings say."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from torch import Tensor

from ppd.device import this_device
from ppd.diffusion.adapter.checkpoint import adapter_identity, load_adapter
from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.model.load import load_backbone
from ppd.diffusion.sampling.run import sample_images
from ppd.layout import Layout
from ppd.settings import Precision, SamplingSettings, Settings
from ppd.users.manifest import whitened
from ppd.users.whitening import Whitening
from ppd.vlm.transformers_backend import TransformersVlm


def base_model(settings: Settings, precision: Precision) -> Backbone:
    """The frozen text-to-image model."""
    return load_backbone(settings.models.prior, precision=precision, device=this_device())


def embedding_model(settings: Settings) -> TransformersVlm:
    """The vision-language model that users' embeddings come from."""
    how = settings.embedding
    return TransformersVlm.load(
        settings.models.vlm, device=this_device(), precision=how.precision, batch_size=how.batch_size
    )


def user_embeddings(layout: Layout) -> dict[str, Tensor]:
    """The pipeline's whitened embeddings [groups, rows, components] of all users."""
    return whitened(layout.shard_files(), Whitening.load(layout.whitening))


def first_embeddings_of_users(layout: Layout) -> dict[str, Tensor]:
    """Each user's first, as evaluation samples for them: [rows, components]."""
    return {user_id: groups[0] for user_id, groups in user_embeddings(layout).items()}


def sample_once(
    settings: Settings,
    weights: Path,
    requests: pd.DataFrame,
    users: Mapping[str, Tensor],
    file: Path,
    sampling: SamplingSettings | None = None,
) -> None:
    """Sample the requests with the adapter in `weights` into `file`, unless it is there. A killed run goes on."""
    if file.exists():
        return
    backbone = base_model(settings, settings.sampling.precision)
    sample_images(
        requests,
        backbone,
        sampling or settings.sampling,
        file,
        file.with_suffix(".unfinished"),
        adapter=load_adapter(weights, backbone),
        users=users,
        identity=adapter_identity(weights),
    )
