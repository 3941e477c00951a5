"""The judge that the settings name."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ppd.device import this_device
from ppd.settings import Settings
from ppd.users.support import Pair
from ppd.vlm.judging import Judge, VlmJudge
from ppd.vlm.server_judge import ServerJudge
from ppd.vlm.transformers_backend import TransformersVlm


def load_judge(settings: Settings, answers: Path, pairs: Sequence[Pair], n_comparisons: int) -> Judge:
    """The local model, or a server, which keeps its answers in the folder `answers`.

    pairs, n_comparisons: what will be asked, for the estimate of its cost that is printed first.
    """
    how = settings.judge
    if how.server is None:
        vlm = TransformersVlm.load(
            settings.models.vlm, device=this_device(), precision=how.precision, batch_size=how.batch_size
        )
        return VlmJudge(vlm, how)
    judge = ServerJudge(how.server, how.prompt, answers)
    Console(stderr=True).print(judge.estimate(pairs, n_comparisons), soft_wrap=True)
    return judge
