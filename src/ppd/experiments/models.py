"""The models as every experiment loads them: on the accelerator that is there, in the precision that settings name."""

from ppd.device import this_device
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.settings import Precision, Settings
from ppd.vlm.transformers_backend import TransformersVlm


def base_model(settings: Settings, precision: Precision) -> StableCascadeBackbone:
    """The frozen text-to-image model."""
    return StableCascadeBackbone.from_pretrained(settings.models.prior, precision=precision, device=this_device())


def embedding_model(settings: Settings) -> TransformersVlm:
    """The vision-language model that people's embeddings come from."""
    how = settings.embedding
    return TransformersVlm.load(
        settings.models.vlm, device=this_device(), precision=how.precision, batch_size=how.batch_size
    )
