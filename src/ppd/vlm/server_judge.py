"""A judge behind an OpenAI-compatible chat endpoint: GPT-4o, as in PPD's evaluation, or any model that vLLM serves.

It tells no probabilities. An answer that is not one of the two words, and a question that got no answer, are void:
their own outcome, never a score.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock

from ppd.errors import InputError
from ppd.settings import PromptVersion, ServerSettings
from ppd.users.support import Pair
from ppd.vlm.answer_cache import AnswerCache, key_of
from ppd.vlm.budget import Budget, estimate
from ppd.vlm.chat_client import CallFailed, ChatClient, ask_within
from ppd.vlm.chat_request import chat_request
from ppd.vlm.complaint import bounded, one_line
from ppd.vlm.judging import Answer, Verdict
from ppd.vlm.prompts import Candidates, Conversation, judge_conversation
from ppd.vlm.reply import Reply

VOID_IN_A_ROW = 20
"""So many questions without an answer, one after the other: something is wrong, and asking on only costs."""
VOID_FROM_THE_START = 3
"""So many without any answer before, for a reason that most likely holds for all questions."""


class ServerJudge:
    """Asks a server which of two images a person would prefer, both ways round, several questions at a time."""

    def __init__(self, server: ServerSettings, prompt: PromptVersion, cache_folder: Path) -> None:
        self.server, self.prompt = server, prompt
        self.name = server.model
        self.budget = Budget(server.budget)
        self._halt, self._lock = Event(), Lock()
        self._fault: InputError | None = None
        self._client, self._cache = ChatClient(server, self._halt), AnswerCache(cache_folder)
        self._answered, self._void_in_a_row, self._void_for_all = False, 0, 0
        self._in_vain: InputError | None = None

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
        gone or says nothing of use. What was answered until then is kept and asked no second time.
        """
        orders = [order for asked in candidates for order in (asked, asked.swapped())]
        self._halt.clear()
        self._fault = None
        with ThreadPoolExecutor(self.server.concurrency) as pool:
            try:
                answers = list(pool.map(lambda order: self._answer_unless_halted(pairs, order), orders))
            except BaseException:
                self._halt.set()
                raise
        if self._fault is None and self._void_for_all and not self._answered:
            self._fault = self._in_vain  # few questions, all of them in vain
        if self._fault is not None:
            raise self._fault
        told = [answer for answer in answers if answer is not None]
        return [Verdict(*both) for both in zip(told[::2], told[1::2], strict=True)]

    def _answer_unless_halted(self, pairs: Sequence[Pair], order: Candidates) -> Answer | None:
        """None once a fault has stopped the run: the first one is what the user is told."""
        if self._halt.is_set():
            return None
        try:
            return self._answer(judge_conversation(pairs, order, self.prompt))
        except InputError as error:
            with self._lock:
                self._fault = self._fault or error
            self._halt.set()
            return None

    def _answer(self, conversation: Conversation) -> Answer:
        body = chat_request(conversation, self.server)
        key = key_of(self.server.url, body)
        reply = self._cache.get(key)
        if reply is None or reply.word is None:
            try:
                reply = self._ask(conversation, body)
            except CallFailed as error:
                self._count_void(str(error), error.advice, for_all=error.for_all)
                return Answer(conversation.text, f"(failed: {error})", "void", math.nan)
        if reply.word is None:
            why, advice = _why_void(reply, self.server)
            self._count_void(why, advice, for_all=reply.ending == "cut")
            said = reply.text or ("" if reply.ending == "said" and not reply.thought else f"({why})")
            return Answer(conversation.text, said, "void", math.nan)
        self._answered, self._void_in_a_row = True, 0
        self._cache.put(key, reply)
        return Answer(conversation.text, reply.text, reply.word, math.nan)

    def _ask(self, conversation: Conversation, body: dict[str, object]) -> Reply:
        return ask_within(self.budget, self._client, conversation, body)

    def _count_void(self, why: str, advice: str, *, for_all: bool) -> None:
        with self._lock:
            self._void_in_a_row += 1
            self._void_for_all += for_all
            self._in_vain = InputError(
                f"{self._void_in_a_row} questions in a row got no answer; the last one: {why}",
                file=self._client.url,
                fix=f"{advice}. Answers so far are kept, what was none is asked again",
            )
            hopeless = not self._answered and self._void_for_all >= VOID_FROM_THE_START
            if hopeless or self._void_in_a_row >= VOID_IN_A_ROW:
                raise self._in_vain


def _why_void(reply: Reply, server: ServerSettings) -> tuple[str, str]:
    """Why a reply is no answer, and what may help."""
    said = f"it said {bounded(one_line(reply.text))!r}" if reply.text.strip() else "it said nothing"
    if reply.ending == "withheld":
        return f"{said} and withheld an answer", "This model refuses such images or words: another may not"
    if reply.ending == "cut" or (reply.thought and not reply.text.strip()):
        return (
            f"{said}{' but only thought' if reply.thought else ''}"
            f"{' until its tokens were used up' if reply.ending == 'cut' else ''}",
            f"Raise judge.server.max_new_tokens ({server.max_new_tokens}), or have a model that thinks think less by "
            "judge.server.extra_body",
        )
    return f"{said}, neither first nor second", "This model does not answer as it is asked to: another may"
