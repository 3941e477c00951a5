"""Labels by rewards in place of people."""

import numpy as np
import pandas as pd
import pytest
import torch

from ppd.diffusion.encoding.store import Encoded
from ppd.diffusion.model.backbone import Text
from ppd.experiments.rewards import one_hots, points_between, reward_data

NAMES = ["first", "second"]


@pytest.fixture
def scores() -> pd.DataFrame:
    """Ten pairs (a0, b0) … The first reward prefers every a, the second every b; later pairs are clearer."""
    n = np.arange(10.0)
    uids = {side: [f"{side}{i}" for i in range(10)] for side in "ab"}
    table = pd.DataFrame({"caption": "fox", "chosen_uid": uids["a"], "rejected_uid": uids["b"]})
    return table.assign(**{"chosen.first": n, "rejected.first": -1.0, "chosen.second": 0.0, "rejected.second": n + 1})


@pytest.fixture
def encoded() -> Encoded:
    uids = [f"{side}{i}" for side in "ab" for i in range(10)]
    return Encoded(
        torch.zeros(20, 1, 1, 1),
        pd.Series(range(20), index=uids),
        Text(torch.zeros(1, 1, 1), torch.zeros(1, 1)),
        pd.Series([0], index=["fox"]),
        image_digest=pd.Series([uid.encode() for uid in uids], index=uids),
        image_checksum=np.zeros(20, np.uint32),
        text_checksum=np.zeros(1, np.uint32),
        source="in memory",
    )


def test_each_reward_labels_its_clearer_half(scores, encoded):
    train = reward_data(scores, NAMES, encoded).train
    first, second = train.user == 0, train.user == 1
    assert train.chosen[first].tolist() == list(range(5, 10)) and train.rejected[first].tolist() == list(range(15, 20))
    assert train.chosen[second].tolist() == list(range(15, 20)) and train.rejected[second].tolist() == list(
        range(5, 10)
    )


def test_the_ceiling_learns_from_one_rewards_labels_alone(scores, encoded):
    everything, one = reward_data(scores, NAMES, encoded), reward_data(scores, NAMES, encoded, only="second")
    assert set(one.train.user.tolist()) == {1}
    assert one.train.chosen.tolist() == everything.train.chosen[everything.train.user == 1].tolist()
    assert one.content_hash != everything.content_hash


def test_rewards_are_orthogonal_and_of_the_size_of_people():
    users = one_hots(3)
    assert users.shape == (3, 1, 3) and users.square().mean() == pytest.approx(1)
    assert (users[:, 0] @ users[:, 0].T).equal(3 * torch.eye(3))


def test_a_line_runs_from_one_reward_to_the_other_and_beyond():
    points, users = points_between(NAMES, (0.0, 0.5, 1.0, 1.5)), one_hots(2)
    assert points["first~second~0"].equal(users[0]) and points["first~second~1"].equal(users[1])
    torch.testing.assert_close(points["first~second~0.5"], users.mean(dim=0))
    torch.testing.assert_close(points["first~second~1.5"], 1.5 * users[1] - 0.5 * users[0])
