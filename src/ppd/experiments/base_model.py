"""The base model as every experiment loads it: on the accelerator that is there, in the precision that is asked for."""

from accelerate import PartialState

from ppd.diffusion.stable_cascade import StableCascadeBackbone
from ppd.settings import Precision, Settings


def base_model(settings: Settings, precision: Precision) -> StableCascadeBackbone:
    """The frozen base that `settings` names."""
    return StableCascadeBackbone.from_pretrained(
        settings.models.prior, precision=precision, device=PartialState().device
    )
