from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ppd.diffusion.encoding.encode import encode
from ppd.diffusion.encoding.store import Encoded
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.training.assemble import training_data
from ppd.diffusion.training.dataset import TrainingData
from ppd.errors import InputError
from ppd.preferences.store import Preferences


@pytest.fixture(scope="module")
def preferences(simulated: Path) -> Preferences:
    return Preferences.open(simulated / "preferences")


@pytest.fixture
def encoded(preferences: Preferences, backbone: StableCascadeBackbone, tmp_path: Path) -> Encoded:
    encode(preferences, backbone, tmp_path / "latents", tmp_path / "work", image_px=8, batch_size=256)
    return Encoded.open(tmp_path / "latents")


@pytest.fixture
def embeddings(preferences: Preferences) -> dict[str, Tensor]:
    users = preferences.users[preferences.users.split != "test"]
    random = torch.Generator().manual_seed(0)
    return {
        user_id: torch.randn(n, 2, 3, generator=random)
        for user_id, n in zip(users.user_id, users.n_support_groups, strict=True)
    }


def images(data: TrainingData, encoded: Encoded, part: str) -> set[str]:
    pairs = getattr(data, part)
    uids = encoded.image_row.index
    return {uids[i] for i in torch.cat([pairs.chosen, pairs.rejected]).tolist()}


def test_people_and_images_stay_on_their_side(
    preferences: Preferences, encoded: Encoded, embeddings: dict[str, Tensor]
) -> None:
    data = training_data(preferences, encoded, embeddings)
    split = preferences.users.set_index("user_id").split
    train = preferences.pairs[(preferences.pairs.user_id.map(split) == "train") & (preferences.pairs.role == "train")]
    assert len(data.train) == len(train)
    assert images(data, encoded, "train") == {*train.chosen_uid, *train.rejected_uid}
    assert not images(data, encoded, "train") & (images(data, encoded, "seen") | images(data, encoded, "held_out"))
    assert set(data.train.user.tolist()) == set(data.seen.user.tolist())
    assert not set(data.train.user.tolist()) & set(data.held_out.user.tolist())
    for part in (data.train, data.seen, data.held_out):
        assert all(int(column.min()) >= 0 for column in (part.user, part.caption, part.chosen, part.rejected))


def test_a_pair_points_at_its_own_person_caption_and_images(
    preferences: Preferences, encoded: Encoded, embeddings: dict[str, Tensor]
) -> None:
    data = training_data(preferences, encoded, embeddings)
    split = preferences.users.set_index("user_id").split
    train = preferences.pairs[(preferences.pairs.user_id.map(split) == "train") & (preferences.pairs.role == "train")]
    train = train.sort_values("pair_id")
    row = train.iloc[5]
    assert encoded.image_row.index[int(data.train.chosen[5])] == row.chosen_uid
    assert encoded.image_row.index[int(data.train.rejected[5])] == row.rejected_uid
    assert encoded.caption_row.index[int(data.train.caption[5])] == row.caption
    user = int(data.train.user[5])
    torch.testing.assert_close(
        data.embeddings[data.first[user] : data.first[user + 1]], embeddings[row.user_id], rtol=0, atol=0
    )


def test_a_person_without_an_embedding_is_named(
    preferences: Preferences, encoded: Encoded, embeddings: dict[str, Tensor]
) -> None:
    lost = next(iter(embeddings))
    del embeddings[lost]
    with pytest.raises(InputError, match=f"user {lost}.*ppd stage embed"):
        training_data(preferences, encoded, embeddings)


def test_the_content_hash_alone_sees_a_changed_embedding(
    preferences: Preferences, encoded: Encoded, embeddings: dict[str, Tensor]
) -> None:
    before, again = (training_data(preferences, encoded, embeddings) for _ in range(2))
    assert (again.pictures_hash, again.content_hash) == (before.pictures_hash, before.content_hash)
    embeddings[next(iter(embeddings))][0, 0, 0] += 1e-3
    after = training_data(preferences, encoded, embeddings)
    assert after.pictures_hash == before.pictures_hash
    assert after.content_hash != before.content_hash


def test_both_hashes_see_a_choice_that_was_turned_round(
    preferences: Preferences, encoded: Encoded, embeddings: dict[str, Tensor]
) -> None:
    before = training_data(preferences, encoded, embeddings)
    turned = preferences.pairs.rename(columns={"chosen_uid": "rejected_uid", "rejected_uid": "chosen_uid"})
    after = training_data(replace(preferences, pairs=turned), encoded, embeddings)
    assert after.pictures_hash != before.pictures_hash
    assert after.content_hash != before.content_hash
