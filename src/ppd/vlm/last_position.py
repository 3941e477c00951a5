"""Hidden states of one position, of all layers, without keeping those of the others.

`output_hidden_states` keeps every position: at 7B and 6,400 positions that is 1.3 GB of bf16 for one conversation, and
in `generate` every step beside it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from transformers import LogitsProcessor, Qwen2Model


@contextmanager
def states_at(
    language: Qwen2Model, position: Tensor | None = None, rows: Sequence[int] | None = None
) -> Iterator[Callable[[], Tensor]]:
    """Watch the forwards of `language`; the yielded function gives the latest one's states: [N, rows, width].

    position: which position of each row, [N]; None is the last. rows: which layers, all if None; row 0 is the input
    embedding, the last (their number) is normed, as in the library's own `hidden_states`. Layers above the highest row
    are not run inside, so what `language` returns is of no use there.
    """
    layers = language.layers
    kept = range(len(layers) + 1) if rows is None else rows
    top = max(kept)
    states: dict[int, Tensor] = {}

    def keep(row: int, hidden: Tensor) -> None:
        if row in kept:
            states[row] = hidden[:, -1].clone() if position is None else hidden[torch.arange(len(hidden)), position]

    with ExitStack() as undo:
        for row, layer in enumerate(layers[:top]):
            hook = layer.register_forward_pre_hook(lambda _, inputs, row=row: keep(row, inputs[0]))
            undo.callback(hook.remove)
        normed = top == len(layers)
        last = language.norm.register_forward_hook(lambda _, inputs, output: keep(top, output if normed else inputs[0]))
        undo.callback(last.remove)
        language.layers = layers[:top]
        undo.callback(setattr, language, "layers", layers)
        yield lambda: torch.stack([states[row] for row in kept], dim=1)


class BeforeAndAfter(LogitsProcessor):
    """Rides along with `generate`: states where the prompt ends, and where each row read the last word it wrote.

    latest: gives the states of the forward just done. ends: token ids that end a text. Changes no score.
    """

    def __init__(self, latest: Callable[[], Tensor], ends: Tensor) -> None:
        self.latest, self.ends = latest, ends

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids: what each row has written so far, [N, step]."""
        states = self.latest()
        if input_ids.shape[1] == 0:
            self.before, self.after = states, states
        else:
            writing = ~torch.isin(input_ids, self.ends).any(dim=1)
            self.after = torch.where(writing[:, None, None], states, self.after)
        return scores
