"""The other way to fine-tune: the base's own weights beside the adapter, against a frozen copy.

Only for the comparison. In fp32, since updates this small are lost in bf16 weights; the adapter keeps its own learning
rate. Short enough to start over when killed.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ppd.diffusion.adapter.checkpoint import adapter_config, save_adapter
from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.training.dataset import TrainingData, draw_batch
from ppd.diffusion.training.evidence import NonFiniteError
from ppd.diffusion.training.objective import base_errors, noisy_pairs, preference_objective
from ppd.diffusion.training.start import fresh_adapter, learning_rate
from ppd.experiments.models import base_model
from ppd.files import atomic_path
from ppd.progress import progress_bar
from ppd.settings import Settings

NETWORK = "network.safetensors"
NETWORK_RATE = 0.1
"""The network's learning rate, as a multiple of the adapter's."""


def finetune_whole(settings: Settings, data: TrainingData, folder: Path) -> None:
    """Train adapter and network as `Trainer` trains the adapter alone; leave both in `folder`."""
    run = settings.finetune
    backbone, frozen = (base_model(settings, "fp32") for _ in range(2))
    adapter = fresh_adapter(backbone, data, run, "ppd")
    adapter.attach(backbone)
    backbone.network.requires_grad_(True)
    groups = [{"params": list(adapter.parameters())}, {"params": list(backbone.network.parameters())}]
    weights = [weight for group in groups for weight in group["params"]]
    optimizer = torch.optim.AdamW(groups, betas=run.adam_betas, weight_decay=run.weight_decay)
    with progress_bar() as progress:
        for step in progress.track(range(run.steps), description="whole network"):
            rate = learning_rate(step, run)
            optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = rate, rate * NETWORK_RATE
            draw = draw_batch(step, len(data.train), tuple(data.latents.shape[1:]), run)
            pairs = data.train[draw.pairs]
            batch = noisy_pairs(backbone, data, pairs, draw, losers=True)
            reference = base_errors(frozen, adapter, batch)
            with adapter.users(batch.users):
                residual = backbone.predict(batch.x_t, batch.t, batch.text) - batch.target
                loss, _ = preference_objective(residual, reference, batch, run.loss)
                optimizer.zero_grad()
                loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(weights, run.max_grad_norm)
            if not (loss.isfinite() and norm.isfinite()):
                raise NonFiniteError(f"step {step}: loss {loss.item()}, gradient norm {norm.item()}")
            optimizer.step()
    # The config names the base that both parts belong to: the network before training.
    config = adapter_config(adapter, frozen, "ppd", training=run.model_dump(mode="json"), data_hash=data.content_hash)
    with atomic_path(folder) as fresh:
        save_adapter(fresh, adapter.state_dict(), config)
        save_file(
            {name: weight.contiguous() for name, weight in backbone.network.state_dict().items()}, fresh / NETWORK
        )


def load_network(backbone: Backbone, folder: Path) -> None:
    """Give `backbone` the trained network of `folder`, where there is one."""
    if (folder / NETWORK).exists():
        backbone.network.load_state_dict(load_file(folder / NETWORK))
