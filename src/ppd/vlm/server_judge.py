"""A judge behind an OpenAI-compatible chat endpoint: GPT-4o, as in PPD's evaluation, or any model that vLLM serves.

It tells no probabilities. An answer that is not one of the two words, and a question that got no answer, are void:
their own outcome, never a score.
"""

import base64
import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Literal

from ppd.errors import InputError
from ppd.preferences.images import as_sent
from ppd.settings import PromptVersion, ServerSettings
from ppd.vlm.answer_cache import AnswerCache, key_of
from ppd.vlm.budget import Budget, cost, estimate
from ppd.vlm.chat_client import CallFailed, ChatClient, Reply
from ppd.vlm.conversation import ANSWERS, IMAGE, Candidates, Conversation, Pair, judge_conversation
from ppd.vlm.judging import Answer, Verdict

FAILURES_IN_A_ROW = 20
"""So many questions without an answer, one after the other: the server is gone, and asking on would only take time."""


class ServerJudge:
    """Asks a server which of two images a person would prefer, both ways round, several questions at a time."""

    def __init__(self, server: ServerSettings, prompt: PromptVersion, cache_folder: Path) -> None:
        self.server, self.prompt = server, prompt
        self.budget = Budget(server.budget)
        self._client, self._cache = ChatClient(server), AnswerCache(cache_folder)
        self._failures, self._lock = 0, Lock()

    def estimate(self, pairs: Sequence[Pair], n_comparisons: int) -> str:
        """What so many comparisons for people with such pairs will cost, in words; kept answers cost nothing."""
        question = judge_conversation(pairs, Candidates(pairs[0].caption, b"", b""), self.prompt)
        each = estimate(question, self.server)
        return (
            f"{2 * n_comparisons} questions to {self.server.model} at {self.server.url}: about "
            f"{2 * n_comparisons * each:.2f} at most ({each:.5f} each; what was answered before costs nothing). "
            f"The budget is {self.server.budget:g}"
        )

    def __call__(self, pairs: Sequence[Pair], candidates: Sequence[Candidates]) -> list[Verdict]:
        """A verdict for each two candidates, in order.

        Raises InputError where going on makes no sense: the budget is used up, the settings are wrong, the server is
        gone. What was answered until then is kept and asked no second time.
        """
        orders = [order for asked in candidates for order in (asked, asked.swapped())]
        with ThreadPoolExecutor(self.server.concurrency) as pool:
            answers = list(pool.map(lambda order: self._answer(judge_conversation(pairs, order, self.prompt)), orders))
        return [Verdict(*both) for both in zip(answers[::2], answers[1::2], strict=True)]

    def _answer(self, conversation: Conversation) -> Answer:
        body = self._request(conversation)
        key = key_of(self.server.url, body)
        reply = self._cache.get(key)
        if reply is None:
            try:
                reply = self._ask(conversation, body)
            except CallFailed as error:
                self._count_failure()
                return Answer(conversation.text, f"(failed: {error})", "void", math.nan)
            self._failures = 0
            self._cache.put(key, reply)
        return Answer(conversation.text, reply.text, word_in(reply.text) or "void", math.nan)

    def _ask(self, conversation: Conversation, body: dict[str, object]) -> Reply:
        reserved = estimate(conversation, self.server)
        self.budget.reserve(reserved)
        spent = reserved  # a question without an answer may have been charged all the same
        try:
            reply = self._client.ask(body)
            counted = cost(reply, self.server)
            spent = reserved if counted is None else counted
        finally:
            self.budget.settle(reserved, spent)
        return reply

    def _count_failure(self) -> None:
        with self._lock:
            self._failures += 1
            if self._failures >= FAILURES_IN_A_ROW:
                raise InputError(
                    f"{self._failures} questions in a row got no answer",
                    file=self.server.url,
                    fix="Run it again when the server answers: the answers so far are kept",
                )

    def _request(self, conversation: Conversation) -> dict[str, object]:
        """The body of a chat request: one turn, text and images in the order of the conversation."""
        texts = conversation.text.split(IMAGE)
        content: list[dict[str, object]] = []
        for text, image in zip(texts, [*conversation.images, None], strict=True):
            if text:
                content.append({"type": "text", "text": text})
            if image is not None:
                content.append({"type": "image_url", "image_url": {"url": _data_url(image)}})
        return {
            "model": self.server.model,
            "messages": [{"role": "user", "content": content}],
            "max_completion_tokens": self.server.max_new_tokens,
            "temperature": self.server.temperature,
        }


def word_in(said: str) -> Literal["first", "second"] | None:
    """The one word that was asked for, whatever its case and the marks around it; None for anything else."""
    found = re.fullmatch(r"[\W_]*(\w+?)[\W_]*", said.lower())
    return next((word for word in ANSWERS if found is not None and found[1] == word), None)


def _data_url(image: bytes) -> str:
    kind, sent = as_sent(image)
    return f"data:{kind};base64,{base64.b64encode(sent).decode()}"
