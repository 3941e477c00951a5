"""Answers that were paid for."""

import pytest

from ppd.vlm.answer_cache import AnswerCache
from ppd.vlm.reply import Reply


@pytest.mark.parametrize("length", [0, 1, 10, -1])
def test_a_damaged_answer_is_none_and_is_kept_anew(tmp_path, length):
    cache, reply = AnswerCache(tmp_path), Reply("first", 900, 1)
    cache.put("abc", reply)
    assert cache.get("abc") == reply
    (file,) = tmp_path.rglob("*.json")
    file.write_bytes(file.read_bytes()[:length])
    assert cache.get("abc") is None
    cache.put("abc", reply)
    assert cache.get("abc") == reply
