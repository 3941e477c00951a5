"""The public Diffusion-DPO script's way of training, which the benches measure ours against."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from ppd.diffusion.model.frozen import FrozenBase
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.training.dataset import TrainingData, draw_batch
from ppd.diffusion.training.loss import denoising_error, margin, preference_loss
from ppd.diffusion.training.start import fresh_adapter
from ppd.settings import FinetuneSettings


def plain_step(
    backbone: StableCascadeBackbone | FrozenBase,
    data: TrainingData,
    images: Tensor,
    captions: list[str],
    settings: FinetuneSettings,
    *,
    whole_network: bool,
) -> Callable[[int], None]:
    """One training step the public script's way; trains our adapter, or (and) the whole network."""
    reference, frozen = copy.copy(backbone), copy.deepcopy(backbone.network)
    if isinstance(reference, StableCascadeBackbone):
        reference.unet = frozen
    else:
        reference.network = frozen
    adapter = fresh_adapter(backbone, data, settings, "ppd")
    adapter.attach(backbone)
    backbone.network.requires_grad_(whole_network)
    trained = [weight for part in (adapter, backbone.network) for weight in part.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    bf16 = next(backbone.network.parameters()).dtype == torch.bfloat16

    def step(index: int) -> None:
        draw = draw_batch(index, len(data.train), tuple(data.latents.shape[1:]), settings)
        pairs = data.train[draw.pairs]
        text = backbone.encode_captions([captions[row] for row in pairs.caption.tolist()])
        users = data.embeddings_of(pairs.user, draw.group).to(backbone.device)
        noise, t = draw.noise.to(backbone.device), draw.t.to(backbone.device)

        def errors(rows: Tensor) -> tuple[Tensor, Tensor]:
            x_0, process = backbone.encode_images(images[rows]), backbone.process
            x_t, target = process.add_noise(x_0, noise, t), process.target(x_0, noise, t)
            # The script's mixed precision: norms and their neighbours in fp32 on a GPU.
            with torch.autocast(backbone.device.type, dtype=torch.bfloat16, enabled=bf16):
                predicted = backbone.predict(x_t, t, text)
                with torch.no_grad():
                    known = denoising_error(reference.predict(x_t, t, text), target)
            return denoising_error(predicted, target), known

        with adapter.users(users):
            error_w, reference_w = errors(pairs.chosen)
            error_l, reference_l = errors(pairs.rejected)
            loss = preference_loss(margin(error_w, error_l, reference_w, reference_l), settings.loss.beta)
            optimizer.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()

    return step
