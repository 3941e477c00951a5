from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ppd.settings import JudgeSettings
from ppd.vlm.judging import Answer, Verdict, VlmJudge
from ppd.vlm.prompts import Candidates, Conversation


def said(word: str, p_first: float) -> Answer:
    return Answer("prompt", word, word, p_first)


@pytest.mark.parametrize(
    ("shown", "swapped", "winner", "p_a"),
    [
        (said("first", 0.9), said("second", 0.3), "a", 0.8),
        (said("second", 0.2), said("first", 0.6), "b", 0.3),
        (said("first", 0.9), said("first", 0.7), "tie", 0.6),
        (said("second", 0.4), said("second", 0.4), "tie", 0.5),
    ],
)
def test_a_verdict_counts_only_where_both_orders_name_the_same_image(shown, swapped, winner, p_a):
    verdict = Verdict(shown, swapped)
    assert verdict.winner == winner
    assert verdict.p_a == pytest.approx(p_a)


def test_an_answer_is_the_likelier_word_and_the_probability_of_first() -> None:
    """Of a model that sees in the number in an image how good it is, and reads the pairs once."""

    def answers_about_one(conversations: Sequence[Conversation], answers: Sequence[str]) -> Tensor:
        assert answers == ("first", "second")
        good = torch.tensor([[float(image) for image in conversation.images] for conversation in conversations])
        return good / good.sum(dim=1, keepdim=True)

    vlm = SimpleNamespace(
        ref=SimpleNamespace(revision="some weights"),
        prompt=lambda conversation: f"asked: {conversation.text}",
        answers_about_one=answers_about_one,
        answer_probabilities=lambda *_: pytest.fail("the pairs are read once for all candidates"),
    )
    judge = VlmJudge(vlm, JudgeSettings())
    assert judge.name == "some weights"
    asked = [Candidates("a fox", b"6", b"2"), Candidates("a hen", b"1", b"4"), Candidates("a bee", b"3", b"1")]
    verdicts = judge((), asked)
    assert [verdict.winner for verdict in verdicts] == ["a", "b", "a"]
    assert [verdict.p_a for verdict in verdicts] == pytest.approx([0.75, 0.2, 0.75])
    assert [(v.shown.word, v.shown.said, v.swapped.word) for v in verdicts] == [
        ("first", "first", "second"),
        ("second", "second", "first"),
        ("first", "first", "second"),
    ]
    assert [v.shown.p_first for v in verdicts] == pytest.approx([0.75, 0.2, 0.75])
    for verdict, candidates in zip(verdicts, asked, strict=True):
        assert verdict.shown.prompt.startswith("asked: ") and candidates.caption in verdict.shown.prompt


def test_a_judge_does_not_care_which_candidate_is_called_a(vlm, pairs, candidates):
    judge, known, asked = VlmJudge(vlm, JudgeSettings()), pairs(4), [candidates(c) for c in range(3)]
    one, other = judge(known, asked), judge(known, [two.swapped() for two in asked])
    opposite = {"a": "b", "b": "a", "tie": "tie"}
    for here, there in zip(one, other, strict=True):
        assert here.p_a == pytest.approx(1 - there.p_a, abs=2e-5)
        assert here.winner == opposite[there.winner]


def test_reading_the_pairs_once_changes_no_verdict(vlm, pairs, candidates):
    known, asked = pairs(4), [candidates(c) for c in range(5)]
    reused, plain = (VlmJudge(vlm, JudgeSettings(), reuse_pairs=r)(known, asked) for r in (True, False))
    for here, there in zip(reused, plain, strict=True):
        assert here.p_a == pytest.approx(there.p_a, abs=2e-5)
        assert here.shown.prompt == there.shown.prompt


def test_every_prompt_is_kept_as_it_was_asked(vlm, pairs, candidates):
    (verdict,) = VlmJudge(vlm, JudgeSettings())(pairs(2), [candidates(3)])
    assert verdict.shown.prompt == verdict.swapped.prompt, "only the images change places"
    assert verdict.shown.prompt.endswith("which is preferred<|assistant|>")
    assert verdict.shown.prompt.count("<image>") == 6
    assert 0 < verdict.shown.p_first < 1
    assert VlmJudge(vlm, JudgeSettings())(pairs(2), []) == []
