"""Which of two images would this person prefer? Asked in both orders, since judges lean towards a position.

Swapping the candidates flips about one verdict in eight of a large judge (lm-sys/FastChat issue 3911); a verdict counts
only where both orders name the same image, as in PPD's evaluation (arXiv 2501.06655).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ppd.settings import JudgeSettings
from ppd.users.support import Pair
from ppd.vlm.prompts import ANSWERS, Candidates, judge_conversation
from ppd.vlm.transformers_backend import TransformersVlm


@dataclass(frozen=True)
class Answer:
    """One question as it was asked: the prompt, what was said, the word it comes down to, and how sure it was.

    word: "void" where nothing was said that is one of the two words, or nothing at all. p_first: probability of "first"
    of the two words; NaN from a judge that does not tell.
    """

    prompt: str
    said: str
    word: Literal["first", "second", "void"]
    p_first: float


@dataclass(frozen=True)
class Verdict:
    """Both answers about candidates (a, b): shown in that order, and swapped.

    winner: a or b where both answers name it, void where one is void, else tie. p_a: probability that a is preferred,
    mean of the two orders.
    """

    shown: Answer
    swapped: Answer

    @property
    def p_a(self) -> float:
        return (self.shown.p_first + 1 - self.swapped.p_first) / 2

    @property
    def winner(self) -> Literal["a", "b", "tie", "void"]:
        if "void" in (self.shown.word, self.swapped.word):
            return "void"
        one: Literal["a", "b"] = "a" if self.shown.word == "first" else "b"
        other = "b" if self.swapped.word == "first" else "a"
        return one if one == other else "tie"


class Judge(Protocol):
    """Anything that judges for a person known by their pairs: a vision-language model, a server, a fake in a test.

    name: changes with what the answers depend on beside settings and questions: the weights.
    """

    name: str

    def __call__(self, pairs: Sequence[Pair], candidates: Sequence[Candidates]) -> list[Verdict]: ...


class VlmJudge:
    """A vision-language model as a judge. A person's pairs are read once for all of their comparisons."""

    def __init__(self, vlm: TransformersVlm, settings: JudgeSettings, *, reuse_pairs: bool = True) -> None:
        self.vlm = vlm
        self.name = vlm.ref.revision
        self.settings = settings
        self.reuse_pairs = reuse_pairs

    def __call__(self, pairs: Sequence[Pair], candidates: Sequence[Candidates]) -> list[Verdict]:
        """A verdict for each two candidates, in order."""
        if not candidates:
            return []
        orders = [order for asked in candidates for order in (asked, asked.swapped())]
        conversations = [judge_conversation(pairs, order, self.settings.prompt) for order in orders]
        read = self.vlm.answers_about_one if self.reuse_pairs else self.vlm.answer_probabilities
        prompts = {conversation.text: self.vlm.prompt(conversation) for conversation in conversations[::2]}
        answers = []
        for conversation, probabilities in zip(conversations, read(conversations, ANSWERS), strict=True):
            word = ANSWERS[int(probabilities.argmax())]
            answers.append(Answer(prompts[conversation.text], word, word, float(probabilities[0])))
        return [Verdict(*both) for both in zip(answers[::2], answers[1::2], strict=True)]
