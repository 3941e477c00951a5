"""Ten thousand questions to a server that fails three in ten, in mixed ways: nothing is lost, nothing counted twice."""

import io
import math
import random
from collections import Counter

import numpy as np
import pandas as pd
from PIL import Image

from ppd.evaluation.metrics import judge_metrics
from ppd.evaluation.vlm_verdicts import judge_comparisons
from ppd.users.support import Pair
from tests.vlm.misbehaving_server import cut_off, in_a_trickle, refuses, reset, says, silent, status, torn

N_USERS, N_EACH = 50, 100
PASSES = [
    status(429, Retry_After="0"),
    status(500),
    status(503, b"overloaded"),
    status(200, b"{}"),
    status(200),
    torn,
    cut_off,
    reset,
]
STAYS = [
    refuses(400, "filtered", code="content_filter"),
    refuses(413, "too large"),
    says("both"),
    says("", "length"),
    says(None, refusal="I do not judge"),
    says("<think>hm"),
]
FAILS = [*PASSES, *STAYS]
TIMEOUT_S = 5.0
"""Beyond what a loaded machine needs for an answer; so only a few of the failures are of this sort."""


def test_each_comparison_ends_in_exactly_one_outcome(server, judge, tmp_path):
    """A failed attempt is followed by another question or by another attempt, so `done` counts what each came to."""
    chance, done = random.Random(0), Counter()
    unanswered = [silent, in_a_trickle(60)] * 16

    def mostly(handler):
        with server.lock:
            fails = chance.random() < 0.3 and done.total() > 100
            act = chance.choice(FAILS) if fails else says(chance.choice(["first", "first", "second"]))
            comes_to = "void" if act in STAYS else "passes" if fails else "word"
            if comes_to == "passes" and unanswered and chance.random() < 0.05:
                act = unanswered.pop()
            done[comes_to] += 1
        server.requests.clear()  # 10,000 bodies are not needed
        act(handler)

    server.afterwards = mostly
    drawn = {}
    for seed in range(N_EACH):
        for model in ("ppd", "base"):
            buffer = io.BytesIO()
            Image.new("RGB", (4, 4), (seed, 99 if model == "ppd" else 0, 7)).save(buffer, "PNG")
            drawn |= {(model, f"u{user}", "a fox", seed): buffer.getvalue() for user in range(N_USERS)}
    keys = [(f"u{user}", seed) for user in range(N_USERS) for seed in range(N_EACH)]
    users, seeds = zip(*keys, strict=True)
    meetings = pd.DataFrame({"user_id": users, "caption": "a fox", "pairing": "independent", "first_of_pairing": True})
    meetings = meetings.assign(method="ppd", method_user=users, method_seed=seeds)
    meetings = meetings.assign(opponent_model="base", opponent_user=users, opponent_seed=seeds)
    known = {f"u{user}": [Pair(f"fox {user}", *[drawn["base", "u0", "a fox", 0]] * 2)] for user in range(N_USERS)}
    asking = judge(
        concurrency=8, timeout_s=TIMEOUT_S, attempts=6, first_wait_s=0, price_per_million_prompt_tokens=0, budget=1e9
    )

    table = judge_comparisons(meetings, drawn, known, asking)

    assert list(zip(table.user_id, table.method_seed, strict=True)) == keys, "one row a comparison, in order"
    said = Counter(table.word_shown) + Counter(table.word_swapped)
    assert said.total() == 2 * N_USERS * N_EACH == 10_000
    assert done["passes"] > 1000, "and they did fail"
    assert not unanswered, "and did not answer"
    assert done["void"] > 1000
    assert said["first"] + said["second"] == done["word"], "each word is counted once"
    assert said["void"] == 10_000 - done["word"]
    void = (table.word_shown == "void") | (table.word_swapped == "void")
    assert (table.outcome.isna() == void).all()
    same = table.word_shown == table.word_swapped
    expected = np.where(void, math.nan, np.where(same, 0.5, (table.word_shown == "first") * 1.0))
    np.testing.assert_array_equal(table.outcome, expected)
    metrics = judge_metrics(table.rename(columns={"outcome": "correct"}), table)
    assert metrics["judge.void.verdicts"] == void.mean()
    assert len(list((tmp_path / "answers").rglob("*.json"))) == done["word"], "voids are asked again by the next run"
