"""Low-rank weights of the base itself (LoRA, arXiv 2106.09685), in the layers that peft makes and diffusers loads.

    y = W·x + (alpha/rank)·B·A·x,   B = 0 before training

The base's own layers stay where they are until `acting` puts peft's in their place, and come back when its block ends:
without users the network is the base, module for module, and its own reference model.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ppd.errors import InputError
from ppd.settings import LoraSettings

NAME = "default"
"""The one adapter that a layer of peft's holds here."""


class LowRank(nn.Module):
    """A and B of each targeted linear layer of `network`, in fp32; nothing of the network is registered here.

    bias: B gets a bias beside it, as peft's `lora_bias`. Raises InputError where the targets match no linear layer.
    """

    def __init__(self, network: nn.Module, settings: LoraSettings, *, bias: bool = False) -> None:
        super().__init__()
        self.settings = settings
        self._swaps = _low_rank_layers(network, settings, bias)
        self.layers = nn.ModuleDict(
            {
                name.replace(".", "/"): nn.ModuleDict({"lora_A": layer.lora_A[NAME], "lora_B": layer.lora_B[NAME]})
                for name, (_, _, layer) in self._swaps.items()
            }
        ).float()
        self._rows: Tensor | None = None
        for _, _, layer in self._swaps.values():
            layer.lora_A[NAME].register_forward_hook(self._only_some_rows)

    @contextmanager
    def acting(self, users: Tensor | None = None) -> Iterator[None]:
        """Inside, the network has these weights: for the rows of u [B, rows, dim] that are not zero, or for all.

        Blocks may be nested; the innermost decides. Keep it open until `backward` is done, as `UserAttention.users`.
        """
        before, self._rows = self._rows, None if users is None else (users != 0).any(dim=(1, 2))
        try:
            with self._in_place({name: layer for name, (_, _, layer) in self._swaps.items()}):
                yield
        finally:
            self._rows = before

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Inside, the network has the base's own layers, also within a block of `acting`."""
        with self._in_place({name: layer.get_base_layer() for name, (_, _, layer) in self._swaps.items()}):
            yield

    def around(self, layer: nn.Module) -> Any:
        """peft's layer around one of the network's own; None where it has no low-rank weights."""
        return next((mine for _, _, mine in self._swaps.values() if mine.get_base_layer() is layer), None)

    def as_peft(self) -> dict[str, Tensor]:
        """The weights under peft's names (`NAME.lora_A.weight`), with alpha/rank inside B: alpha = rank for a reader.

        A rounding of the last digit, unless alpha/rank is a power of 2.
        """
        scale = self.settings.alpha / self.settings.rank
        return {
            name.removeprefix("layers.").replace("/", "."): (weight * scale if ".lora_B." in name else weight).detach()
            for name, weight in self.state_dict().items()
        }

    @contextmanager
    def _in_place(self, layers: dict[str, nn.Module]) -> Iterator[None]:
        before = {name: parent.get_submodule(child) for name, (parent, child, _) in self._swaps.items()}
        try:
            self._put(layers)
            yield
        finally:
            self._put(before)

    def _put(self, layers: dict[str, nn.Module]) -> None:
        for name, layer in layers.items():
            parent, child, _ = self._swaps[name]
            setattr(parent, child, layer)

    def _only_some_rows(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        """A·x [B, ..., rank], zero in the rows of nobody: B·0 adds exactly nothing to them."""
        if self._rows is None:
            return None
        if len(output) != len(self._rows):
            raise InputError(
                f"a layer with low-rank weights sees {len(output)} rows at once, the batch has {len(self._rows)}",
                fix="Leave it out of finetune.lora.targets: only layers that see a row a user can be personal",
            )
        return output * self._rows.view(-1, *[1] * (output.ndim - 1))


def _low_rank_layers(network: nn.Module, settings: LoraSettings, bias: bool) -> dict[str, tuple[nn.Module, str, Any]]:
    """Of each targeted layer its parent, its name there, and peft's layer around it; the network is left as it was."""
    from peft import LoraConfig, inject_adapter_in_model  # here, so that what trains no LoRA runs without it

    names = _targeted(network, settings.targets)
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=names, lora_bias=bias)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`lora_bias=True` was passed")  # we merge nothing
        inject_adapter_in_model(config, network, NAME)
    swaps: dict[str, tuple[nn.Module, str, Any]] = {}
    for name in names:
        above, _, child = name.rpartition(".")
        parent = network.get_submodule(above)
        layer: Any = network.get_submodule(name)
        swaps[name] = (parent, child, layer.eval())
        setattr(parent, child, layer.get_base_layer())
    del network.peft_config
    return swaps


def _targeted(network: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """Names of the layers whose name is a target or ends in one, as peft reads `target_modules`."""
    modules, names = dict(network.named_modules()), []
    for target in targets:
        found = [name for name in modules if f".{name}".endswith(f".{target}")]
        if not found or not all(isinstance(modules[name], nn.Linear) for name in found):
            what = f"{found[0]} is a {type(modules[found[0]]).__name__}" if found else "there is no such layer"
            linear = {_end(name) for name, module in modules.items() if isinstance(module, nn.Linear)}
            raise InputError(
                f"finetune.lora.targets: {target!r} must name linear layers, but {what}",
                fix=f"Those of this base end in {', '.join(sorted(linear))}",
            )
        names += found
    return sorted(set(names), key=list(modules).index)


def _end(name: str) -> str:
    """The last part of a module's name, with the one before where it is only a number: `to_out.0`."""
    above, _, last = name.rpartition(".")
    return f"{above.rpartition('.')[2]}.{last}" if last.isdigit() else last
