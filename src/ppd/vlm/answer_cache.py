"""Answers that were paid for, on disk by the content of their question: a killed run asks for none twice."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from ppd.files import atomic_path
from ppd.vlm.reply import Reply


class AnswerCache:
    """One small file an answer. Several threads and processes may write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Reply | None:
        """The reply to the question with this key, if it was answered before; what is damaged or no answer is none."""
        try:
            reply = Reply(**json.loads(self._file(key).read_text(encoding="utf-8")))
            return reply if reply.word is not None else None
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply that is an answer. Any other is worth asking again: `get` passes over it."""
        with atomic_path(self._file(key)) as fresh:
            fresh.write_text(json.dumps(asdict(reply)), encoding="utf-8")

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def key_of(url: str, body: Mapping[str, object]) -> str:
    """Changes with everything that the answer depends on: server, model, words, images, parameters."""
    return hashlib.sha256(json.dumps([url, body], sort_keys=True).encode()).hexdigest()
