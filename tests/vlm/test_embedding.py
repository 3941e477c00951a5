import dataclasses

import pytest
import torch
from pydantic import ValidationError

from ppd.errors import InputError
from ppd.settings import EmbeddingSettings
from ppd.vlm.embedding import embed, support_key


def test_a_group_is_embedded_alike_alone_and_among_others(vlm, pairs):
    groups = [pairs(4), pairs(2), pairs(4), pairs(3)]
    for settings in (
        EmbeddingSettings(rows=None, max_new_tokens=0),
        EmbeddingSettings(rows=None, read="answer-end", max_new_tokens=3),
    ):
        together = embed(vlm, groups, settings)
        assert together.hidden.shape == (4, vlm.n_rows, vlm.width)
        alone = torch.cat([embed(vlm, [group], settings).hidden for group in groups])
        torch.testing.assert_close(together.hidden, alone, atol=2e-5, rtol=0)


def test_writing_a_profile_leaves_the_embedding_at_the_prompts_end_alone(vlm, pairs):
    groups = [pairs(4), pairs(1)]
    silent = embed(vlm, groups, EmbeddingSettings(rows=None, max_new_tokens=0))
    talkative = embed(vlm, groups, EmbeddingSettings(rows=None, max_new_tokens=3))
    torch.testing.assert_close(silent.hidden, talkative.hidden, atol=2e-5, rtol=0)
    assert silent.profiles == ("", "")
    assert all(talkative.profiles)


def test_only_the_rows_asked_for_are_kept(vlm, pairs):
    group = pairs(2)
    everything = embed(vlm, [group], EmbeddingSettings(rows=None, max_new_tokens=0)).hidden
    chosen = embed(vlm, [group], EmbeddingSettings(max_new_tokens=0, rows=(-1, 0))).hidden
    assert torch.equal(chosen, everything[:, [vlm.n_rows - 1, 0]])
    with pytest.raises(InputError, match="rows 0 to 3"):
        embed(vlm, [group], EmbeddingSettings(rows=(4,)))


def test_the_key_changes_with_everything_that_the_embedding_depends_on(pairs):
    settings, group = EmbeddingSettings(rows=None), pairs(3)
    keys = {
        "same": support_key(list(group), "r1", settings),
        "model": support_key(group, "r2", settings),
        "order": support_key(group[::-1], "r1", settings),
        "fewer": support_key(group[:2], "r1", settings),
        "caption": support_key([dataclasses.replace(group[0], caption="other"), *group[1:]], "r1", settings),
        "roles": support_key(
            [dataclasses.replace(group[0], preferred=group[0].rejected, rejected=group[0].preferred), *group[1:]],
            "r1",
            settings,
        ),
        "prompt": support_key(group, "r1", EmbeddingSettings(rows=None, prompt="full-1")),
        "place": support_key(group, "r1", EmbeddingSettings(rows=None, read="answer-end")),
        "rows": support_key(group, "r1", EmbeddingSettings(rows=(1,))),
    }
    assert len(set(keys.values())) == len(keys)
    # How fast it is computed, and how it is whitened afterwards, do not matter.
    assert (
        support_key(group, "r1", EmbeddingSettings(rows=None, batch_size=1, shrinkage=0.5, components=3))
        == keys["same"]
    )


def test_reading_an_answer_that_is_not_written_is_refused_where_it_is_set():
    with pytest.raises(ValidationError, match="answer-end needs a written answer"):
        EmbeddingSettings(rows=None, read="answer-end", max_new_tokens=0)
