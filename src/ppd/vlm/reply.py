"""What a chat completion said: its words without its thinking, whether they came to an end, and the word in them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ppd.vlm.prompts import ANSWERS

Ending = Literal["said", "cut", "withheld"]
"""said: to the end; cut: the tokens were used up; withheld: the model or a filter refused."""

_ENDINGS: Mapping[str, Ending] = {
    "length": "cut",
    "max_tokens": "cut",
    "model_length": "cut",
    "content_filter": "withheld",
    "safety": "withheld",
    "refusal": "withheld",
    "sensitive": "withheld",
}
_BROKEN_OFF = {"error", "abort", "cancelled", "insufficient_system_resource"}
"""Reasons to finish that are the server's own trouble: there is no reply."""

_THINKING = re.compile(r"[<\[◁](/?)(?:think|thinking|thought|reasoning|seed:think)[>\]▷]", re.IGNORECASE)
_MARKS = re.compile(r"<\|[^<>|]{1,40}\|>")
"""Special tokens that a server left in, such as those around a boxed answer."""

_AROUND_THE_WORD = {
    *("the", "one", "image", "picture", "answer", "final", "is", "my"),
    *("i", "they", "this", "person", "would", "prefer", "choose"),
}
"""Words that change nothing in an answer. Any other might: "the first looks worse", "not the second"."""


@dataclass(frozen=True)
class Reply:
    """What the server said, how many tokens it counted (None where it does not tell), and how it ended.

    text: without thinking. thought: whether there was any.
    """

    text: str
    prompt_tokens: int | None
    answer_tokens: int | None
    ending: Ending = "said"
    thought: bool = False

    @property
    def word(self) -> Literal["first", "second"] | None:
        """The one of the two words that was said; None where it is not beyond doubt.

        Exactly one of them is there, whatever its case and the marks around it, and beside it only words that cannot
        turn it round: "The first one." is an answer, "The first looks worse" is none. What was cut has to be the bare
        word, since nobody knows how it would have gone on; what was withheld is never an answer.
        """
        words = set(re.findall(r"[^\W_]+", self.text.lower()))
        named = [answer for answer in ANSWERS if answer in words]
        if self.ending == "withheld" or len(named) != 1 or words - {named[0]} - _AROUND_THE_WORD:
            return None
        return named[0] if self.ending == "said" or self.text.strip().lower() == named[0] else None


class NoCompletion(Exception):
    """The content is no chat completion. error: what an error object in its place holds, else None."""

    def __init__(self, why: str, error: object = None) -> None:
        super().__init__(why)
        self.error = error


def read_reply(content: bytes) -> Reply:
    """The reply in the JSON of a response. Raises NoCompletion."""
    try:
        response = json.loads(content)
        if not isinstance(response, dict):
            raise NoCompletion(f"a JSON {type(response).__name__}")
        if response.get("error"):
            raise NoCompletion("an error", response["error"])
        choice = response["choices"][0]
        if choice.get("error"):
            raise NoCompletion("an error", choice["error"])
        finish = str(choice.get("finish_reason") or "").lower()
        if finish in _BROKEN_OFF:
            raise NoCompletion(f"finish_reason {finish}")
        ending = _ENDINGS.get(finish, "said")
        message = choice.get("message")
        if message is None and ending == "withheld":
            message = {}
        text, thought, refused = _words(message.get("content"))
        if isinstance(message.get("refusal"), str) and message["refusal"]:
            text, refused = text or message["refusal"], True
        thought = thought or bool(message.get("reasoning_content") or message.get("reasoning"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise NoCompletion(type(error).__name__) from error
    usage = response.get("usage")
    return Reply(
        text,
        _count(usage, "prompt_tokens"),
        _count(usage, "completion_tokens"),
        "withheld" if refused else ending,
        thought,
    )


def _words(content: object) -> tuple[str, bool, bool]:
    """Text, whether there was thinking, whether it is a refusal; of a string or of a list of parts."""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        if content is not None and not isinstance(content, str):
            raise TypeError(f"content is {type(content).__name__}")
        text, thought = _without_thinking(content or "")
        return text, thought, False
    said, thought, refused = [], False, False
    for part in content:
        kind = "text" if isinstance(part, str) else str(part.get("type", "text"))
        if kind in ("text", "output_text"):
            said.append(part if isinstance(part, str) else _string(part["text"]))
        elif kind == "refusal":
            said.append(_string(part["refusal"]))
            refused = True
        elif kind in ("thinking", "reasoning", "redacted_thinking"):
            thought = True
    text, marked = _without_thinking("".join(said))
    return text, thought or marked, refused


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text is {type(value).__name__}")
    return value


def _without_thinking(text: str) -> tuple[str, bool]:
    """What follows the last block of thinking, nothing where it never ended; and whether there was one.

    The mark that opens a block may be missing: some chat templates put it at the end of the prompt.
    """
    marks = list(_THINKING.finditer(text))
    if marks:
        text = text[marks[-1].end() :] if marks[-1][1] else ""
    return _MARKS.sub(" ", text), bool(marks)


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value >= 0 else None
