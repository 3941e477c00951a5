"""What a step costs: how much goes through the network at once, in which form, and what waits for what."""

from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch._dynamo.backends.registry import lookup_backend
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ppd.diffusion.model import repeated_blocks
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.training.dataset import Pairs, TrainingData
from ppd.diffusion.training.describe import describe
from ppd.diffusion.training.fit import pairs_that_fit
from ppd.diffusion.training.trainer import Trainer
from ppd.errors import InputError
from ppd.settings import FinetuneSettings, LossSettings, UserAttentionSettings

SETTINGS = FinetuneSettings(
    precision="fp32",
    steps=3,
    pairs_per_step=8,
    micro_batch_pairs=2,
    learning_rate=3e-3,
    attention=UserAttentionSettings(tokens_per_row=2, token_dim=8),
    loss=LossSettings(dispersion=0.1, safeguard=0.1),
)


def changed(**changes: object) -> FinetuneSettings:
    return FinetuneSettings.model_validate(SETTINGS.model_dump() | changes)


@pytest.fixture
def data(backbone: StableCascadeBackbone) -> TrainingData:
    g = torch.Generator().manual_seed(0)

    def pairs(n: int) -> Pairs:
        return Pairs(*(torch.randint(high, (n,), generator=g) for high in (5, 2, 30, 30)))

    return TrainingData(
        latents=torch.randn(30, 4, 4, 4, generator=g),
        text=backbone.encode_captions(["a sticker of a fox", "a sticker of a tree"]),
        embeddings=torch.randn(5, 2, 6, generator=g),
        first=torch.arange(6),
        train=pairs(20),
        seen=pairs(2),
        held_out=pairs(2),
        pictures_hash="random",
        content_hash="random",
    )


def rows(backbone: StableCascadeBackbone, data: TrainingData, settings: FinetuneSettings) -> list[dict[str, float]]:
    """The statistics of three steps; the backbone is given back bare."""
    trainer = Trainer(backbone, data, settings, "ppd")
    try:
        return [trainer.train_step() for _ in range(3)]
    finally:
        trainer.adapter.detach()
        repeated_blocks.release_blocks(backbone.repeated_blocks())


class Reads(TorchFunctionMode):
    """Counts what hands numbers to Python, and so waits for the device (`numpy` takes tensors of the host alone)."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        names = {"item", "tolist", "cpu", "__bool__", "__float__", "__int__", "__index__", "nonzero"}
        self.n += getattr(func, "__name__", "") in names
        return func(*args, **(kwargs or {}))


class Scalars(TorchDispatchMode):
    """Counts the same where the library asks for a number itself."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("micro_batch_pairs", [8, 2])
@pytest.mark.parametrize("known", [False, True])
def test_a_step_waits_for_the_device_once_however_it_is_cut(
    backbone: StableCascadeBackbone,
    data: TrainingData,
    micro_batch_pairs: int,
    known: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And once more where the base's errors are new. Its own step counter AdamW keeps on the host: it is left out."""
    trainer = Trainer(backbone, data, changed(micro_batch_pairs=micro_batch_pairs), "ppd")
    if known:
        trainer.reference.put(0, slice(None), torch.ones(8, 2))
        trainer.reference.collect()
    monkeypatch.setattr(trainer.optimizer, "step", lambda: None)
    draw = trainer._draw()
    monkeypatch.setattr(trainer, "_draw_of", lambda step: draw)  # on the host, and as long before as one likes
    with Scalars() as scalars, Reads() as reads:
        trainer.train_step()
    trainer.adapter.detach()
    assert reads.n == (1 if known else 2)
    assert scalars.n == 0


def test_micro_batches_of_auto_are_as_large_as_fits(
    backbone: StableCascadeBackbone, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = backbone.unet.forward

    def small(**inputs: Tensor) -> object:
        if len(inputs["sample"]) > 4:
            raise torch.OutOfMemoryError
        return forward(**inputs)

    monkeypatch.setattr(backbone.unet, "forward", small)
    trainer = Trainer(backbone, data, changed(micro_batch_pairs="auto"), "ppd")
    assert trainer.micro_batch_pairs == 2
    assert describe(trainer)["pairs a step"] == "8 = 2 at once, as many as fit x 4 accumulated x 1 processes"
    stats = trainer.train_step()
    trainer.adapter.detach()
    by_hand = Trainer(backbone, data, SETTINGS, "ppd")
    assert by_hand.train_step() == stats, "trying has changed nothing"
    assert by_hand.key == trainer.key, "a run goes on with another size"
    by_hand.adapter.detach()


def test_sizes_are_powers_of_two_that_divide_the_step() -> None:
    accelerator = Accelerator(cpu=True)

    def tried(n_pairs: int, room: int = 10**9) -> tuple[int, list[int]]:
        sizes: list[int] = []

        def attempt(size: int) -> None:
            sizes.append(size)
            if size > room:
                raise torch.OutOfMemoryError

        return pairs_that_fit(n_pairs, attempt, accelerator), sizes

    assert tried(96) == (32, [32])
    assert tried(768) == (32, [32])
    assert tried(12) == (4, [4])
    assert tried(7) == (1, [1])
    assert tried(96, room=5) == (4, [32, 16, 8, 4])
    with pytest.raises(InputError, match="not even one pair fits"):
        tried(96, room=0)


@pytest.mark.parametrize("wrong", [-0.5, 1.5, "half"])
def test_a_share_of_blocks_is_a_share(wrong: object) -> None:
    with pytest.raises(ValueError, match="gradient_checkpointing"):
        changed(gradient_checkpointing=wrong)
    assert changed(gradient_checkpointing=True).gradient_checkpointing is True


def test_the_more_blocks_are_checkpointed_the_less_is_kept_and_gradients_stay(
    backbone: StableCascadeBackbone, data: TrainingData
) -> None:
    def kept(share: bool | float) -> tuple[int, dict[str, Tensor]]:
        trainer = Trainer(backbone, data, changed(gradient_checkpointing=share, micro_batch_pairs=8), "ppd")
        for block in trainer.adapter.blocks.values():
            torch.nn.init.normal_(block.to_v.weight, generator=torch.Generator().manual_seed(1))
        n_bytes = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal n_bytes
            n_bytes += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            trainer.attempt(8)
        trainer.adapter.detach()
        backbone.unet.disable_gradient_checkpointing()
        return n_bytes, {name: weight.grad for name, weight in trainer.adapter.named_parameters()}

    every, gradients = kept(False)
    half, gradients_half = kept(0.5)
    none, gradients_none = kept(True)
    assert every > 1.2 * half > 1.2**2 * none
    for name, gradient in gradients.items():
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradients_half[name], gradient)
        torch.testing.assert_close(gradients_none[name], gradient)


def test_a_share_is_taken_evenly_of_each_class_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(torch.nn.Identity): ...

    again: list[torch.nn.Module] = []
    monkeypatch.setattr(repeated_blocks, "checkpoint", lambda block, x, **options: again.append(block) or x)
    blocks = [kind() for _ in range(8) for kind in (Wide, torch.nn.Identity)]
    for share, chosen in ((0.25, [3, 7]), (0.5, [1, 3, 5, 7]), (1.0, list(range(8)))):
        again.clear()
        call = repeated_blocks.checkpoint_share(share)
        for _ in range(2):  # the second forward as the first
            for block in blocks:
                call(block, torch.zeros(1))
        expected = [block for place in chosen for block in blocks[2 * place : 2 * place + 2]]
        assert again == 2 * expected


@pytest.mark.slow
def test_blocks_that_are_compiled_train_alike_and_share_their_code(
    backbone: StableCascadeBackbone, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the adapter on, off for the reference, and backwards; all but code generation."""
    plain = rows(backbone, data, SETTINGS)
    graphs: list[torch.fx.GraphModule] = []

    def counted(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(repeated_blocks, "BACKEND", counted)
    compiled = rows(backbone, data, changed(compile=True))
    assert "forward" not in vars(backbone.repeated_blocks()[0])
    # A residual, a timestep and an attention block, each of two widths: without gradients, with them, and in the first
    # and the last width where their input has none; the block with a skip connection comes on top.
    assert 15 <= len(graphs) <= 20
    for key in ("loss", "margin", "grad_norm"):
        assert [row[key] for row in compiled] == pytest.approx([row[key] for row in plain], rel=1e-3, abs=1e-6)


def test_where_the_compiler_fails_training_says_so_and_goes_on(
    backbone: StableCascadeBackbone, data: TrainingData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    plain = rows(backbone, data, SETTINGS)

    def broken(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        raise TypeError("CantSplit.__init__() missing 2 required positional arguments")

    monkeypatch.setattr(repeated_blocks, "BACKEND", broken)
    trainer = Trainer(backbone, data, changed(compile=True), "ppd")
    assert trainer.compiled == "failed"
    assert [trainer.train_step() for _ in range(3)] == plain
    said = capsys.readouterr().err
    assert "could not be compiled, and training goes on without" in said
    assert "CantSplit.__init__() missing 2" in said
    trainer.adapter.detach()
