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
        """The reply to the question with this key, if it was answered before; what is damaged is none."""
        try:
            return Reply(**json.loads(self._file(key).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply that answers its question. Any other is worth asking again."""
        with atomic_path(self._file(key)) as fresh:
            fresh.write_text(json.dumps(asdict(reply)), encoding="utf-8")

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def key_of(url: str, body: Mapping[str, object]) -> str:
    """Changes with everything that the answer depends on: server, model, words, images, parameters."""
    return hashlib.sha256(json.dumps([url, body], sort_keys=True).encode()).hexdigest()
