"""Hidden states of one position, of all layers, without keeping those of the others.

`output_hidden_states` keeps every position: at 7B and 6,400 positions that is 1.3 GB of bf16 for one conversation, and
in `generate` every step beside it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from transformers import LogitsProcessor, Qwen2Model


@contextmanager
def states_at(language: Qwen2Model, position: Tensor | None = None) -> Iterator[Callable[[], Tensor]]:
    """Watch the forwards of `language`; the yielded function gives the latest one's states: [N, layers + 1, width].

    position: which position of each row, [N]; None is the last. Row 0 is the input embedding, the last is normed, as in
    the library's own `hidden_states`.
    """
    states: dict[int, Tensor] = {}

    def keep(row: int, hidden: Tensor) -> None:
        states[row] = hidden[:, -1].clone() if position is None else hidden[torch.arange(len(hidden)), position]

    with ExitStack() as hooks:
        for row, layer in enumerate(language.layers):
            hook = layer.register_forward_pre_hook(lambda _, inputs, row=row: keep(row, inputs[0]))
            hooks.callback(hook.remove)
        last = language.norm.register_forward_hook(lambda _, inputs, output: keep(len(language.layers), output))
        hooks.callback(last.remove)
        yield lambda: torch.stack([states[row] for row in range(len(language.layers) + 1)], dim=1)


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
