"""An adapter on disk: `adapter.safetensors`, `config.json`, and once complete `whitening.safetensors`. No pickle."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from ppd.diffusion.adapter.lora import LowRank
from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.backbone import Backbone
from ppd.errors import InputError
from ppd.files import atomic_path
from ppd.provenance import code_commit
from ppd.settings import Component, LoraSettings, Method, SamplingSettings, UserAttentionSettings
from ppd.stored_tensors import load_tensors, save_tensors
from ppd.users.whitening import EmbeddingRecipe

WEIGHTS, CONFIG = "adapter.safetensors", "config.json"


class BaseModelRef(Component):
    """The frozen model that an adapter belongs to. Only the fingerprint decides; the rest is for people."""

    id: str
    revision: str
    fingerprint: str


class Inference(Component):
    """What a trained adapter needs beside its weights and the base, to embed a user and to sample for them."""

    embedding: EmbeddingRecipe
    sampling: SamplingSettings

    @field_validator("sampling", mode="before")
    @classmethod
    def _older_adapters_say_less(cls, sampling: object) -> object:
        """Adapters of before these settings were there were chosen with all acting at every t, in even steps."""
        older = {"spacing": 1.0, "text_interval": (0.0, 1.0), "user_interval": (0.0, 1.0)}
        return older | sampling if isinstance(sampling, dict) else sampling


class AdapterConfig(Component):
    """All that is needed to use an adapter, and where it came from."""

    format_version: int = 2
    method: Method
    base: BaseModelRef
    blocks: dict[str, int]
    """Attention blocks with a user branch, and their inner widths."""
    attention: UserAttentionSettings
    lora: LoraSettings | None = None
    embedding_shape: tuple[int, int]
    """(rows, dim) of a user's embedding."""
    whitening: str = ""
    """Names the whitening that was applied to the embeddings, so that a new user's get the same one."""
    inference: Inference | None = None
    """None until the adapter has been completed (`ppd.diffusion.adapter.complete`)."""
    training: dict[str, Any] = Field(default_factory=dict)
    commit: str = ""
    data_hash: str = ""


def adapter_config(adapter: UserAttention, backbone: Backbone, method: Method, **origin: Any) -> AdapterConfig:
    """The config of an adapter trained on `backbone`; `origin` holds the fields that only the caller knows."""
    return AdapterConfig(
        commit=code_commit(),
        method=method,
        base=BaseModelRef(id=backbone.base_id, revision=backbone.revision, fingerprint=backbone.fingerprint),
        blocks=adapter.block_dims,
        attention=adapter.settings,
        lora=None if adapter.lora is None else adapter.lora.settings,
        embedding_shape=adapter.embedding_shape,
        **origin,
    )


def save_adapter(folder: str | Path, weights: Mapping[str, Any], config: AdapterConfig) -> None:
    """Write `weights` (a state dict of UserAttention) and `config` to `folder`, whole or not at all."""
    with atomic_path(folder) as fresh:
        fresh.mkdir()
        save_tensors(weights, fresh / WEIGHTS)
        (fresh / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")


def read_config(folder: str | Path) -> AdapterConfig:
    """The config of the adapter in `folder`. Raises InputError with the field and what is wrong with it."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise InputError("no such file", file=path, fix="An adapter is a folder with this file in it")
    try:
        return AdapterConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValidationError) as error:
        raise InputError(f"not the config of an adapter: {error}", file=path) from error


def adapter_identity(folder: str | Path) -> str:
    """Names the adapter in `folder` by the content of its config and weights."""
    files = (Path(folder) / name for name in (CONFIG, WEIGHTS))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def load_adapter(folder: str | Path, backbone: Backbone) -> UserAttention:
    """The adapter in `folder`, checked against `backbone` and attached to it.

    Raises InputError if it was trained on other weights, or if its own weights are not those that its config announces.
    """
    config = read_config(folder)
    path = Path(folder)
    if config.base.fingerprint != backbone.fingerprint:
        raise InputError(
            f"trained on {config.base.id} ({config.base.revision}, fingerprint {config.base.fingerprint}), "
            f"but the base here is {backbone.base_id} ({backbone.revision}, fingerprint {backbone.fingerprint})",
            file=path / CONFIG,
            fix="Load the base that it was trained on, or train it again",
        )
    lora = None if config.lora is None else LowRank(backbone.network, config.lora)
    adapter = UserAttention(config.embedding_shape, config.blocks, config.attention, lora)
    weights = load_tensors(path / WEIGHTS)
    adapter.pooled_embedding = weights.get("pooled_embedding")
    problems = [
        f"{name} is {tuple(weights[name].shape) if name in weights else 'missing'}, expected {tuple(expected.shape)}"
        for name, expected in adapter.state_dict().items()
        if name not in weights or weights[name].shape != expected.shape
    ]
    problems += [f"{name} holds values that are no numbers" for name in weights if not weights[name].isfinite().all()]
    problems += [f"{name} is unknown" for name in weights.keys() - adapter.state_dict().keys()]
    if problems:
        raise InputError("; ".join(problems), file=path / WEIGHTS, fix=f"It does not belong to {path / CONFIG}")
    adapter.load_state_dict(weights)
    adapter.to(backbone.device).attach(backbone)
    return adapter.eval()
