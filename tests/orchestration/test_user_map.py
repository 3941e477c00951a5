"""The map of users: the principal components, computed once for each state of the embeddings."""

import numpy as np
import pandas as pd
import pytest

from orchestration import user_map
from orchestration.user_map import mean_embeddings, principal, read_user_map
from ppd.layout import Layout

RNG = np.random.default_rng(0)


def write_shard(root, name: str, users: list[str], width: int = 40):
    hidden = RNG.normal(size=(2 * len(users), width)).astype("float32") * np.linspace(3, 0.1, width, dtype="float32")
    file = Layout(root).shard(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"user_id": np.repeat(users, 2), "hidden": list(hidden)}).to_parquet(file)
    return hidden


def test_places_are_those_of_the_whole_decomposition():
    rows = RNG.normal(size=(300, 50)).astype("float32") * np.array([9, 6, *np.linspace(2, 0.1, 48)], "float32")
    left, values, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    places, shares = principal(rows)
    np.testing.assert_allclose(np.abs(places), np.abs(left * values)[:, :2], atol=1e-2)
    np.testing.assert_allclose(shares, (values**2 / (values**2).sum())[:2], rtol=1e-4)


@pytest.mark.parametrize("rows", [np.zeros((0, 3)), np.zeros((1, 3)), np.ones((4, 3)), np.arange(4.0).reshape(4, 1)])
def test_few_users_or_dimensions_have_a_map_too(rows):
    places, shares = principal(rows.astype("float32"))
    assert places.shape == (len(rows), 2) and np.isfinite(places).all() and np.isfinite(shares).all()


def test_a_user_is_the_mean_of_their_groups_and_shards_of_another_model_are_left_out(tmp_path):
    hidden = write_shard(tmp_path, "s-00", ["a", "b"])
    write_shard(tmp_path, "s-01", ["c"])
    write_shard(tmp_path, "s-02", ["d"], width=7)
    user_ids, means = mean_embeddings(Layout(tmp_path).shard_files())
    assert user_ids == ["a", "b", "c"]
    np.testing.assert_allclose(means[1], hidden[2:4].mean(axis=0), rtol=1e-5)


def test_it_is_computed_again_only_when_a_shard_has_changed(tmp_path, monkeypatch):
    write_shard(tmp_path, "s-00", ["a", "b", "c"])
    first = read_user_map(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(user_map, "principal", lambda rows: pytest.fail("computed again"))
        again = read_user_map(tmp_path)
    pd.testing.assert_frame_equal(first.places, again.places)
    assert first.shares == again.shares
    write_shard(tmp_path, "s-01", ["d"])
    assert list(read_user_map(tmp_path).places.index) == ["a", "b", "c", "d"]
