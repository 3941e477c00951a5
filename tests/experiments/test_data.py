"""What a variant may see of the log."""

from pathlib import Path

import pytest
import torch

from ppd.experiments.data import embedded, narrowed
from ppd.preferences.store import Preferences
from ppd.settings import EmbeddingSettings
from ppd.users.embeddings import UserEmbeddings, VlmRef


@pytest.fixture
def log(simulated: Path) -> Preferences:
    return Preferences.open(simulated / "preferences")


def trained_on(log: Preferences) -> set[str]:
    return set(log.users.user_id[log.users.split == "train"])


def hidden_states(log: Preferences) -> UserEmbeddings:
    random = torch.Generator().manual_seed(0)
    hidden = {user_id: 3 + torch.randn(3, 2, 8, generator=random) for user_id in log.users.user_id}
    return UserEmbeddings(hidden, dict.fromkeys(hidden, ("",) * 3), VlmRef("in memory", ""))


def test_fewer_people_are_some_of_more_people_and_held_out_ones_stay(log):
    few, more = narrowed(log, 4, 1.0), narrowed(log, 9, 1.0)
    assert len(trained_on(few)) == 4 and len(trained_on(more)) == 9
    assert trained_on(few) < trained_on(more) < trained_on(log)
    for part in (few, more):
        unseen = part.users[part.users.split != "train"]
        assert unseen.user_id.tolist() == log.users.user_id[log.users.split != "train"].tolist()
        assert set(part.pairs.user_id) == set(part.users.user_id)


def test_a_share_of_the_pairs_is_a_share_of_each_persons_and_of_nothing_but_training(log):
    half, quarter = narrowed(log, None, 0.5), narrowed(log, None, 0.25)
    for part, share in ((half, 0.5), (quarter, 0.25)):
        kept = part.pairs[part.pairs.role == "train"].groupby("user_id").size()
        whole = log.pairs[log.pairs.role == "train"].groupby("user_id").size()
        assert (kept - share * whole).abs().max() <= 1
        assert part.pairs[part.pairs.role != "train"].equals(log.pairs[log.pairs.role != "train"])
    assert set(quarter.pairs.pair_id) < set(half.pairs.pair_id)


@pytest.mark.parametrize("whitened", [True, False])
def test_embeddings_depend_on_training_people_alone(log, whitened):
    people, settings = hidden_states(log), EmbeddingSettings(rows=None, components=4)
    before = embedded(log, people, settings, whitened=whitened)
    stranger = next(user_id for user_id in people.hidden if user_id not in trained_on(log))
    people.hidden[stranger] *= 100
    after = embedded(log, people, settings, whitened=whitened)
    assert all(before[user_id].equal(after[user_id]) for user_id in before if user_id != stranger)
    member = min(trained_on(log))
    people.hidden[member] *= 100
    assert not embedded(log, people, settings, whitened=whitened)[stranger].equal(after[stranger])


def test_embeddings_that_are_not_whitened_have_a_mean_square_of_1(log):
    users = embedded(log, hidden_states(log), EmbeddingSettings(rows=None), whitened=False)
    assert torch.cat([users[user_id] for user_id in trained_on(log)]).square().mean().item() == pytest.approx(1)
