"""Profiles written by an inference engine: any OpenAI-compatible server with the weights that read them afterwards.

What an embedding is made of is the hidden state where the model read its own last word. Given the text, one forward
over prompt and text leaves the same state, whoever wrote it; an engine writes many texts at once, which `generate` does
not.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from ppd.errors import InputError
from ppd.parts import this_part
from ppd.settings import ServerSettings
from ppd.vlm.answer_cache import AnswerCache, key_of
from ppd.vlm.budget import Budget
from ppd.vlm.chat_client import CallFailed, ChatClient, ask_within
from ppd.vlm.chat_request import chat_request
from ppd.vlm.embedding import Profile
from ppd.vlm.prompts import Conversation

_SETTING = "embedding.server"


class ServerWriter:
    """Writes an answer to each conversation, several at a time; what was written is kept and asked for no second time.

    Of several processes (`ppd.parts`) each has its share of the budget and of the requests under way.
    """

    def __init__(self, server: ServerSettings, cache_folder: Path) -> None:
        n = this_part().count
        self.server = server
        self._n_threads = max(1, server.concurrency // n)
        self._halt = Event()
        self._budget = Budget(server.budget / n, _SETTING)
        self._client, self._cache = ChatClient(server, self._halt, _SETTING), AnswerCache(cache_folder)

    def __call__(self, conversations: Sequence[Conversation]) -> list[Profile]:
        """A profile each, in order.

        Raises InputError where one cannot be written: every group needs its embedding.
        """
        self._halt.clear()
        with ThreadPoolExecutor(self._n_threads) as pool:
            try:
                return list(pool.map(self._write, conversations))
            except BaseException:
                self._halt.set()
                raise

    def _write(self, conversation: Conversation) -> Profile:
        body = chat_request(conversation, self.server)
        key = key_of(self.server.url, body)
        reply = self._cache.get(key)
        if reply is None:
            try:
                reply = ask_within(self._budget, self._client, conversation, body)
            except CallFailed as error:
                raise InputError(
                    f"a profile could not be written: {error}",
                    file=self._client.url,
                    fix=f"{error.advice}. What was written so far is kept",
                ) from error
            if reply.ending == "withheld":
                raise InputError(
                    f"the server withheld a profile: it said {reply.text!r}",
                    file=self._client.url,
                    fix="Write with the weights themselves, behind no filter",
                )
            self._cache.put(key, reply)
        return Profile(reply.text, reply.ending == "cut")
