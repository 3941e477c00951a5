"""What must hold for every base, as one table: `pytest tests/diffusion/test_bases.py -s` prints it at its end.

Tiny checkpoints of diffusers' real classes with random weights. "bit for bit" is torch.equal on one machine, same
modules: two copies of one network in memory may differ in the last digit.
"""

import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMWuerstchenScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableCascadePriorPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    ZImagePipeline,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ppd.diffusion.adapter.lora import LowRank
from ppd.diffusion.adapter.plain_lora import save_plain_lora
from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model import repeated_blocks
from ppd.diffusion.model.backbone import Backbone, Codec, Text
from ppd.diffusion.model.load import load_backbone
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.model.unet import UNetBackbone
from ppd.diffusion.model.z_image import ZImageBackbone
from ppd.diffusion.sampling.sampler import Request, sample, sample_latents
from ppd.diffusion.training.trainer import Trainer
from ppd.errors import InputError
from ppd.seeding import generator
from ppd.settings import LoraSettings, SamplingSettings
from tests.diffusion.bases_in_processes import CAPTIONS, DIM, FINETUNE, LONG, ROWS, SIDE, SMALL, choices
from tests.diffusion.conftest import WORDS
from tests.tiny import word_tokenizer
from tests.tiny_bases import write_base

BASES = ("stable-cascade", "sd15", "sd2", "sdxl", "z-image")
HELD: dict[str, dict[str, str]] = {}
"""What was found, by invariant and base."""


@pytest.fixture(scope="module", autouse=True)
def matrix() -> Iterator[None]:
    """Prints the table when all tests of this file have run."""
    yield
    table = Table("invariant", *BASES, title="What holds for which base")
    for invariant, by_base in HELD.items():
        table.add_row(invariant, *(by_base.get(base, "") for base in BASES))
    Console(width=130).print(table)


def holds(invariant: str, base: str, how: str = "yes") -> None:
    HELD.setdefault(invariant, {})[base] = how


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> dict[str, Path]:
    found = {"stable-cascade": tiny_folder}
    for base in BASES[1:]:
        tokenizer = word_tokenizer(WORDS)
        tokenizer.model_max_length = 64
        write_base(folder := tmp_path_factory.mktemp(base), base, tokenizer)
        found[base] = folder
    return found


def load(folders: dict[str, Path], base: str, codec: Codec, precision: str = "fp32") -> Backbone:
    """In the precision that is asked for, on a CPU without instructions for it as well."""
    own = codec if base == "stable-cascade" else None
    with mock.patch("ppd.diffusion.model.load.lacks_bf16", return_value=False):
        return load_backbone(folders[base], codec=own, precision=precision)  # type: ignore[arg-type]


def trained(backbone: Backbone) -> UserAttention:
    """An adapter that says something, attached."""
    torch.manual_seed(5)
    adapter = UserAttention.beside(backbone, (ROWS, DIM), SMALL).eval()
    for block in adapter.blocks.values():
        torch.nn.init.normal_(block.to_v.weight)
    adapter.attach(backbone)
    return adapter


def users(n: int) -> Tensor:
    return torch.randn(n, ROWS, DIM, generator=torch.Generator().manual_seed(7))


def inputs(backbone: Backbone) -> tuple:
    g = torch.Generator().manual_seed(1)
    return torch.randn(3, 4, SIDE, SIDE, generator=g), torch.rand(3, generator=g), backbone.encode_captions(CAPTIONS)


def sampling(backbone: Backbone, **changes: object) -> SamplingSettings:
    plain = {"precision": "fp32", "steps": 3, "latent_size": (SIDE, SIDE), "batch_size": 3, "text_guidance": 3.0}
    plain |= {"spacing": 1.0, "text_interval": (0.0, 1.0), "user_guidance": 1.0, "user_interval": (0.0, 1.0)}
    known = backbone.process.samplers
    return SamplingSettings(**plain | {"sampler": "ddpm" if "ddpm" in known else known[0]} | changes)


def own_pipeline(backbone: Backbone, folder: Path) -> object:
    """diffusers' pipeline of the backbone's own modules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match backbone:
            case StableCascadeBackbone():
                pipeline = StableCascadePriorPipeline(
                    backbone.tokenizer, backbone.text_encoder, backbone.network, DDPMWuerstchenScheduler()
                )
            case ZImageBackbone():
                scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
                pipeline = ZImagePipeline(
                    scheduler, backbone.codec.vae, backbone.text_encoder, backbone.tokenizer, backbone.network
                )
            case UNetBackbone(readers=[(tokenizer, encoder)]):
                scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
                pipeline = StableDiffusionPipeline(
                    backbone.codec.vae, encoder, tokenizer, backbone.network, scheduler, None, None,
                    requires_safety_checker=False,
                )  # fmt: skip
            case UNetBackbone(readers=[(tokenizer, encoder), (tokenizer_2, encoder_2)]):
                scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
                pipeline = StableDiffusionXLPipeline(
                    backbone.codec.vae, encoder, encoder_2, tokenizer, tokenizer_2, backbone.network, scheduler
                )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(
    ("base", "precision", "guidance"),
    [*((base, "fp32", guidance) for base in BASES for guidance in (1.0, 4.0)), ("z-image", "bf16", 4.0)],
)
def test_no_user_is_diffusers_own_pipeline_bit_for_bit(
    folders: dict[str, Path], codec: Codec, base: str, precision: str, guidance: float
) -> None:
    """With the adapter attached and trained, and nobody to draw for; captions of different lengths.

    In bf16 the other pipelines keep the latents in bf16 too; ours are in fp32 always, as Z-Image's are.
    """
    backbone = load(folders, base, codec, precision)
    pipeline = own_pipeline(backbone, folders[base])
    trained(backbone)
    requests = [Request(caption, seed) for seed, caption in enumerate(CAPTIONS)]
    text, empty = backbone.encode_captions(CAPTIONS), backbone.encode_captions([""] * 3)
    ours = sample_latents(backbone, requests, text, empty, sampling(backbone, text_guidance=guidance), None)
    noise = [generator("sample", request.caption, request.seed) for request in requests]
    latents = torch.stack([torch.randn(4, SIDE, SIDE, generator=random) for random in noise])
    options: dict[str, object] = {"num_inference_steps": 3, "guidance_scale": guidance, "latents": latents}
    if base == "stable-cascade":
        side = SIDE * 42
        theirs = pipeline(list(CAPTIONS), height=side, width=side, generator=noise, **options).image_embeddings
    else:
        if base == "z-image":  # its scale is 0 where the papers' is 1
            options |= {"guidance_scale": guidance - 1, "max_sequence_length": 64}
        options |= {"height": SIDE * 2, "width": SIDE * 2}
        theirs = pipeline(list(CAPTIONS), output_type="latent", **options).images
        images = pipeline(list(CAPTIONS), output_type="pt", **options | {"latents": latents.clone()}).images
        assert torch.equal(backbone.decode_latents(ours, text, []), images)
        assert images.std() > 0.01
    assert torch.equal(ours, theirs)
    holds("no user is diffusers' own pipeline, bit for bit", base, "latents" if base == BASES[0] else "pixels")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.inference_mode()
def test_zero_none_and_an_untrained_adapter_are_the_base_bit_for_bit(
    folders: dict[str, Path], codec: Codec, base: str, precision: str
) -> None:
    backbone = load(folders, base, codec, precision)
    x_t, t, text = inputs(backbone)
    alone = backbone.predict(x_t, t, text)
    untrained = UserAttention.beside(backbone, (ROWS, DIM), SMALL).eval()
    untrained.attach(backbone)
    with untrained.users(users(3)):
        assert torch.equal(backbone.predict(x_t, t, text), alone)
    untrained.detach()
    adapter = trained(backbone)
    mixed = users(3) * torch.tensor([1.0, 0.0, 1.0])[:, None, None]
    with adapter.users(mixed):
        found = backbone.predict(x_t, t, text)
    assert not torch.allclose(found[0], alone[0], atol=1e-3)
    assert torch.equal(found[1], alone[1])
    for nobody in (None, torch.zeros(3, ROWS, DIM)):
        with adapter.users(nobody):
            assert torch.equal(backbone.predict(x_t, t, text), alone)
    adapter.detach()
    assert torch.equal(backbone.predict(x_t, t, text), alone)
    holds("untrained, u = 0, none and detached are the base, bit for bit", base, "fp32, bf16")


@pytest.mark.parametrize("base", BASES)
def test_an_image_depends_on_its_request_alone(folders: dict[str, Path], codec: Codec, base: str) -> None:
    backbone = load(folders, base, codec)
    adapter = trained(backbone)
    u = users(2)
    requests = [Request(caption, seed, u[seed]) for caption in CAPTIONS for seed in (0, 1)] + [Request(LONG, 0)]
    settings = sampling(backbone, steps=2)

    def draw(some: list[Request]) -> list[np.ndarray]:
        return list(sample(backbone, some, settings, adapter))

    together, backwards = draw(requests), draw(requests[::-1])[::-1]
    alone = [draw([request])[0] for request in requests]
    for a, b, c in zip(together, backwards, alone, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, c)
    assert len({image.tobytes() for image in together}) == len(requests)
    holds("an image does not depend on who shares its batch, to the last bit", base)


@pytest.mark.parametrize("base", BASES)
@torch.inference_mode()
def test_a_lora_is_for_users_row_by_row_and_draws_alike_in_diffusers_own_pipeline(
    folders: dict[str, Path], codec: Codec, base: str, tmp_path: Path
) -> None:
    backbone = load(folders, base, codec)
    x_t, t, text = inputs(backbone)
    alone = backbone.predict(x_t, t, text)
    torch.manual_seed(6)
    lora = LowRank(backbone.network, LoraSettings(rank=2, alpha=4))
    for layer in lora.layers.values():
        torch.nn.init.normal_(layer["lora_B"].weight, std=0.2)
    adapter = UserAttention((ROWS, DIM), {}, SMALL, lora)
    with adapter.users(users(3) * torch.tensor([1.0, 0.0, 1.0])[:, None, None]):
        found = backbone.predict(x_t, t, text)
    assert torch.equal(found[1], alone[1])
    assert not torch.allclose(found[0], alone[0], atol=1e-3)
    assert torch.equal(backbone.predict(x_t, t, text), alone)
    holds("LoRA: a row without a user is the base, bit for bit", base)
    if base == "stable-cascade":
        return  # its pipelines load no LoRA
    people = zip(CAPTIONS, users(3), strict=True)
    requests = [Request(caption, seed, user) for seed, (caption, user) in enumerate(people)]
    empty = backbone.encode_captions([""] * 3)
    for_users = sample_latents(backbone, requests, text, empty, sampling(backbone, text_guidance=1.0), adapter)
    with lora.acting():
        nobody = [replace(request, user=None) for request in requests]
        for_all = sample_latents(backbone, nobody, text, empty, sampling(backbone, text_guidance=4.0), None)
    file = save_plain_lora(tmp_path / "lora", lora.as_peft(), backbone.network)
    pipeline = own_pipeline(backbone, folders[base])
    pipeline.load_lora_weights(file.parent)
    noise = [generator("sample", request.caption, request.seed) for request in requests]
    for guidance, ours in ((1.0, for_users), (4.0, for_all)):
        latents = torch.stack([torch.randn(4, SIDE, SIDE, generator=random) for random in noise])
        noise = [generator("sample", request.caption, request.seed) for request in requests]
        options: dict[str, object] = {"num_inference_steps": 3, "guidance_scale": guidance, "latents": latents}
        if base == "z-image":
            options |= {"guidance_scale": guidance - 1, "max_sequence_length": 64}
        options |= {"height": SIDE * 2, "width": SIDE * 2}
        theirs = pipeline(list(CAPTIONS), output_type="latent", **options).images
        assert torch.equal(ours, theirs)
    holds("LoRA: loaded by diffusers' own pipeline it draws the same, bit for bit", base)


@pytest.mark.parametrize("base", BASES)
def test_it_starts_at_ln_2_and_goes_on_exactly_after_a_kill(
    folders: dict[str, Path], codec: Codec, base: str, tmp_path: Path
) -> None:
    backbone = load(folders, base, codec)
    data = choices(backbone)
    before = {name: weight.clone() for name, weight in backbone.network.state_dict().items()}
    whole = Trainer(backbone, data, FINETUNE, "ppd")
    rows = list(whole.train(tmp_path / "whole"))
    whole.adapter.detach()
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert rows[0]["margin"] == 0
    assert rows[0]["error_chosen"] == rows[0]["reference_chosen"]
    assert rows[-1]["loss"] != rows[0]["loss"]
    assert all(weight.abs().sum() > 0 for name, weight in whole.adapter.named_parameters() if "to_v" in name)
    holds("the first loss is ln 2, the first margin 0", base)
    assert all(torch.equal(weight, before[name]) for name, weight in backbone.network.state_dict().items())
    holds("training leaves the base as it is", base)
    killed = Trainer(backbone, data, FINETUNE, "ppd")
    for row in killed.train(tmp_path / "cut"):
        if row["step"] == 2:
            break
    killed.adapter.detach()
    resumed = Trainer(backbone, data, FINETUNE, "ppd")
    assert [row["step"] for row in resumed.train(tmp_path / "cut")] == [2, 3]
    resumed.adapter.detach()
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())
    holds("N + M steps are N, a kill and M, bit for bit", base)


@pytest.mark.parametrize("base", BASES)
def test_gradient_checkpointing_changes_no_gradient(folders: dict[str, Path], codec: Codec, base: str) -> None:
    backbone = load(folders, base, codec)
    adapter = trained(backbone)
    x_t, t, text = inputs(backbone)

    def gradients() -> dict[str, Tensor]:
        adapter.zero_grad()
        with adapter.users(users(3)):
            backbone.predict(x_t, t, text).square().mean().backward()
        return {name: weight.grad.clone() for name, weight in adapter.named_parameters()}

    plain = gradients()
    backbone.enable_gradient_checkpointing()
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name])
        assert gradient.abs().sum() > 0, name
    holds("gradient checkpointing changes no gradient", base)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["sdxl"])
def test_blocks_that_are_compiled_train_alike(
    folders: dict[str, Path], codec: Codec, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of compiling but generating code, which takes a CPU minutes."""
    monkeypatch.setattr(repeated_blocks, "BACKEND", "eager")
    losses = {}
    for compiled in (False, True):
        backbone = load(folders, base, codec)
        trainer = Trainer(backbone, choices(backbone), FINETUNE.model_copy(update={"compile": compiled}), "ppd")
        losses[compiled] = [trainer.train_step()["loss"] for _ in range(2)]
        assert trainer.compiled == ("block by block" if compiled else "no")
        trainer.adapter.detach()
        repeated_blocks.release_blocks(backbone.repeated_blocks())
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)
    holds("compiled blocks train alike", base)


@pytest.mark.slow
def test_two_processes_train_as_one(folders: dict[str, Path], tmp_path: Path) -> None:
    """All bases in turn in one launch; equal but for the order of sums."""
    script = Path(__file__).with_name("bases_in_processes.py")
    for n in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", str(script)]
        command += [str(tmp_path / str(n)), *(f"{base}={folders[base]}" for base in BASES[1:])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    for base in BASES[1:]:
        one, first, second = (
            torch.load(tmp_path / n / f"{base}-{rank}.pt") for n, rank in (("1", 0), ("2", 0), ("2", 1))
        )
        assert all(torch.equal(first[name], second[name]) for name in first)
        for name, weight in one.items():
            torch.testing.assert_close(first[name], weight, rtol=1e-3, atol=1e-4)
        holds("two processes train as one, but for the order of sums", base)
    holds("two processes train as one, but for the order of sums", "stable-cascade", "test_distributed")


def test_captions_that_z_image_fills_up_to_different_lengths_share_no_batch(
    folders: dict[str, Path], codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A masked place adds nothing, but how many there are decides how kernels sum: on a GPU the last digit differs."""
    backbone = load(folders, "z-image", codec)
    predict, seen = backbone.predict, []

    def recorded(x_t: Tensor, t: Tensor, text: Text) -> Tensor:
        seen.append(set(backbone.text_lengths(text[:2])))  # the captions; the empty one follows
        return predict(x_t, t, text)

    monkeypatch.setattr(backbone, "predict", recorded)
    requests = [Request(caption, seed) for seed in range(2) for caption in CAPTIONS]
    images = list(sample(backbone, requests, sampling(backbone, steps=1, batch_size=2)))
    assert seen == [{32}, {64}, {32}]
    for request, image in zip(requests, images, strict=True):
        assert np.array_equal(next(sample(backbone, [request], sampling(backbone, steps=1, batch_size=2))), image)


def test_a_base_is_known_by_its_content(folders: dict[str, Path], codec: Codec) -> None:
    names = {base: load(folders, base, codec).fingerprint for base in BASES}
    assert names == {base: load(folders, base, codec, "bf16").fingerprint for base in BASES}
    assert len(set(names.values())) == len(BASES)


def test_sizes_reach_sdxl_and_its_empty_caption_is_zeros(folders: dict[str, Path], codec: Codec) -> None:
    backbone = load(folders, "sdxl", codec)
    assert isinstance(backbone, UNetBackbone)
    text = backbone.encode_captions(["", "a cat"])
    assert text.tokens[0].abs().sum() == text.vectors[0].abs().sum() == 0
    assert text.tokens[1].abs().sum() > 0
    assert backbone._sizes(torch.zeros(2, 4, 5, 7)).tolist() == [[10, 14, 0, 0, 10, 14]] * 2
    x_t, t, text = inputs(backbone)
    found = backbone.predict(x_t, t, text)
    backbone.codec.vae.config.block_out_channels = (1,)
    assert not torch.allclose(backbone.predict(x_t, t, text), found)
    assert not torch.allclose(backbone.predict(x_t, t, replace(text, pooled=text.vectors * 2)), found)


def test_a_user_is_asked_by_the_images_queries_alone(folders: dict[str, Path], codec: Codec) -> None:
    """One block of Z-Image against the equation: only the image's part changes, by what the user's keys give."""
    backbone = load(folders, "z-image", codec)
    adapter = trained(backbone)
    block = backbone.attention_blocks()["layers_1"]
    backbone._image_tokens.n = 5
    x = torch.randn(2, 9, 32)
    positions = torch.polar(torch.ones(2, 9, 8), torch.rand(2, 9, 8))
    with torch.no_grad():
        with adapter.users(None):
            base = block(x, freqs_cis=positions)
        with adapter.users(users(2)):
            change = block(x, freqs_cis=positions) - base
        key_u, value_u = adapter.keys_and_values(users(2))[2]
    assert (change[:, 5:] == 0).all()

    def heads(y: Tensor) -> Tensor:
        return y.unflatten(-1, (2, 16)).transpose(1, 2).double()

    query = block.norm_q(block.to_q(x[:, :5]).unflatten(-1, (2, 16))).transpose(1, 2).double()
    z = (query @ heads(key_u).mT / 16**0.5).softmax(-1) @ heads(value_u)
    expected = z.transpose(1, 2).flatten(2) @ block.to_out[0].weight.double().T
    torch.testing.assert_close(change[:, :5].double(), expected, rtol=1e-4, atol=1e-4)


def test_what_is_no_base_is_refused(folders: dict[str, Path], codec: Codec, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="overflow in fp16"):
        load(folders, "sdxl", codec, "fp16")
    with pytest.raises(InputError, match="neither model_index.json"):
        load_backbone(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(InputError, match="a FluxPipeline, which is no base here; known are StableCascadePriorPipeline"):
        load_backbone(tmp_path)
    backbone = load(folders, "z-image", codec)
    with pytest.raises(InputError, match="sampler is ddim, .* Use euler"):
        list(sample(backbone, [Request("a cat", 0)], sampling(backbone, sampler="ddim")))
