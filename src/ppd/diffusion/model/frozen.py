"""What is the same for every base that diffusers' pipelines know: a frozen network, its codec, and their names."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from ppd.diffusion.model.backbone import Codec, Text
from ppd.diffusion.model.fingerprint import fingerprint
from ppd.diffusion.model.memory import require_room
from ppd.diffusion.model.repeated_blocks import checkpoint_share
from ppd.settings import Precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Origin = tuple[str, str]
"""Where weights came from: the id or folder, and the revision."""
IN_MEMORY: Origin = ("in memory", "local")


class FrozenBase:
    """Holds the network in eval mode, without gradients for its weights, wholly in the precision it was loaded in."""

    repeated: ClassVar[tuple[type[nn.Module], ...]]
    """Classes of the blocks that the network is made of."""

    def __init__(self, network: ModelMixin, codec: Codec, origin: Origin) -> None:
        self.network: ModelMixin = network.eval().requires_grad_(False)
        self.codec = codec
        self.base_id, self.revision = origin
        self.fingerprint = fingerprint(network)
        self._weight = next(network.parameters())  # the network's own dtype and device search all its weights

    @property
    def device(self) -> torch.device:
        return self._weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self._weight.dtype

    @property
    def latent_channels(self) -> int:
        return self.network.config.in_channels

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        return self.codec.encode(images.to(self.device))

    @torch.no_grad()
    def decode_latents(self, latents: Tensor, text: Text, randoms: Sequence[torch.Generator]) -> Tensor:
        return self.codec.decode(latents, text, randoms).clamp(0, 1)

    def repeated_blocks(self) -> Sequence[nn.Module]:
        return [block for block in self.network.modules() if isinstance(block, self.repeated)]

    def enable_gradient_checkpointing(self, share: float = 1.0) -> None:
        self.network.enable_gradient_checkpointing(checkpoint_share(share))


def load_network(
    network: type[ModelMixin],
    folder: str,
    subfolder: str,
    revision: str | None,
    precision: Precision,
    device: torch.device | str,
) -> ModelMixin:
    """The network in a subfolder, after a look at whether it fits. Raises InputError where it does not."""
    config = network.load_config(folder, subfolder=subfolder, revision=revision)
    require_room(network, config, DTYPES[precision], torch.device(device), folder)
    loaded = network.from_pretrained(
        folder, subfolder=subfolder, revision=revision, torch_dtype=DTYPES[precision], use_safetensors=True
    )
    return loaded.to(device)
