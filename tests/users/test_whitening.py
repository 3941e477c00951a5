import hashlib
from dataclasses import replace

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from ppd.errors import InputError
from ppd.preferences.store import Preferences
from ppd.settings import EmbeddingSettings
from ppd.stored_tables import read_frame, write_table
from ppd.users.embeddings import UserEmbeddings, VlmRef, load_embeddings, load_profiles, write_rows
from ppd.users.manifest import fit_whitening, whitened, write_manifest
from ppd.users.whitening import Whitening, fit_on_users


@pytest.fixture
def hidden():
    """[500, 2, 6]: correlated, off-centre, with one direction that hardly varies."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(2, 6, 6, generator=generator)
    scales = torch.tensor([5.0, 3, 2, 1, 0.5, 0.05])
    return 10 + torch.einsum("nrd,rde->nre", torch.randn(500, 2, 6, generator=generator) * scales, mixing)


def test_whitened_people_have_mean_zero_and_identity_covariance(hidden):
    u = Whitening.fit(hidden, shrinkage=0)(hidden)
    torch.testing.assert_close(u.mean(dim=0), torch.zeros(2, 6), atol=1e-3, rtol=0)
    for row in range(2):
        torch.testing.assert_close(torch.cov(u[:, row].T), torch.eye(6), atol=5e-4, rtol=0)


def test_two_users_by_hand():
    """They differ by (4, 4): variance 16 along (1, 1)/√2 and none across; half way to the mean of 8 it is 12."""
    hidden = torch.tensor([[[8.0, 7.0]], [[4.0, 3.0]]])
    whitening = Whitening.fit(hidden, components=1, shrinkage=0.5)
    torch.testing.assert_close(whitening.mean, torch.tensor([[6.0, 5.0]]))
    torch.testing.assert_close(whitening.matrix, torch.full((1, 2, 1), 1 / 24**0.5))
    torch.testing.assert_close(whitening(hidden), torch.tensor([[[4 / 24**0.5]], [[-4 / 24**0.5]]]))


def test_the_largest_entry_of_a_direction_is_positive(hidden):
    matrix = Whitening.fit(hidden).matrix
    assert (matrix.gather(1, matrix.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_the_unit_of_the_embeddings_does_not_matter(hidden):
    small = hidden * 2.0**-13
    torch.testing.assert_close(Whitening.fit(small)(small), Whitening.fit(hidden)(hidden))


def test_directions_that_never_vary_are_near_zero_and_no_numbers_are_lost(hidden):
    """As with fewer users than dimensions, or where all users are alike."""
    few = hidden[:3]
    u = Whitening.fit(few, shrinkage=0)(few)
    torch.testing.assert_close(torch.cov(u[:, 0].T).diag()[:2], torch.ones(2), atol=1e-3, rtol=0)
    assert u[..., 2:].abs().max() < 1e-2
    alike = torch.full((4, 2, 6), 3.0)
    assert torch.equal(Whitening.fit(alike)(alike), torch.zeros(4, 2, 6))


def test_the_mean_person_is_nobody(hidden):
    whitening = Whitening.fit(hidden)
    assert torch.equal(whitening(hidden.mean(dim=0, dtype=torch.float64).float()), torch.zeros(2, 6))


def test_shrinkage_keeps_a_direction_without_signal_small(hidden):
    u = Whitening.fit(hidden, shrinkage=0.1)(hidden)
    assert u.std(dim=0)[:, 0].min() > 0.8
    assert u.std(dim=0)[:, -1].max() < 0.2


def test_components_are_the_principal_ones_in_order(hidden):
    everything, some = Whitening.fit(hidden)(hidden), Whitening.fit(hidden, components=3)(hidden)
    torch.testing.assert_close(some, everything[..., :3])
    # What three of six directions leave unexplained is little of the variance.
    for row in range(2):
        x = hidden[:, row] - hidden[:, row].mean(0)
        fitted = some[:, row] @ torch.linalg.lstsq(some[:, row], x).solution
        assert (x - fitted).square().sum() < 0.1 * x.square().sum()


def test_with_users_the_first_directions_are_those_in_which_they_differ_and_agree_with_themselves():
    """Of three directions the largest says nothing of a user, the second half of what it says, the last everything."""
    random = torch.Generator().manual_seed(0)
    own = torch.arange(500).repeat_interleave(4)
    noise, person = torch.randn(2000, 3, generator=random), torch.randn(500, 3, generator=random)[own]
    between = torch.tensor([0.0, 0.5, 1.0])
    hidden = 7 + ((1 - between).sqrt() * noise + between.sqrt() * person) * torch.tensor([9.0, 3.0, 1.0])
    matrix = Whitening.fit(hidden.unsqueeze(1), own, shrinkage=0).matrix[0]
    torch.testing.assert_close(matrix, torch.diag(torch.tensor([1 / 9, 1 / 3, 1.0])).flip(1), atol=0.05, rtol=0)
    assert Whitening.fit(hidden.unsqueeze(1), shrinkage=0).matrix[0].argmax(dim=0).tolist() == [0, 1, 2]


def test_who_is_called_what_and_in_which_order_changes_no_direction(hidden):
    own = torch.arange(125).repeat_interleave(4)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    other = Whitening.fit(hidden[order], 1000 - 3 * own[order], shrinkage=0.1)
    torch.testing.assert_close(other.matrix, Whitening.fit(hidden, own, shrinkage=0.1).matrix, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 1.0])
def test_with_users_the_whitened_space_is_turned_and_nothing_else(hidden, shrinkage):
    """Distances between embeddings are what they are without."""
    own = torch.arange(250).repeat_interleave(2)
    plain = Whitening.fit(hidden, shrinkage=shrinkage)(hidden)
    turned = Whitening.fit(hidden, own, shrinkage=shrinkage)(hidden)
    assert not torch.allclose(plain, turned, atol=0.1)
    apart, before = (torch.cdist(u.transpose(0, 1), u.transpose(0, 1)) for u in (turned, plain))
    torch.testing.assert_close(apart, before, atol=1e-2, rtol=1e-3)


def test_where_everybody_chose_once_the_principal_directions_are_taken_and_that_is_said(embeddings, capsys):
    log, known = embeddings
    settings = EmbeddingSettings(rows=None, directions="discriminant", components=3)
    fit_whitening(log, known, settings)
    assert capsys.readouterr().err == ""
    once = replace(known, hidden={user: hidden[:1] for user, hidden in known.hidden.items()})
    found = fit_whitening(log, once, settings)
    assert "No training user has two groups of choices" in capsys.readouterr().err
    assert found.name == fit_whitening(log, once, settings.model_copy(update={"directions": "principal"})).name
    assert capsys.readouterr().err == ""


def test_one_user_who_chose_twice_is_little_to_go_by_and_no_error(hidden):
    few = torch.cat([torch.arange(499), torch.tensor([0])])
    assert Whitening.fit(hidden, few).matrix.isfinite().all()


@pytest.mark.parametrize("directions", ["discriminant", "principal"])
def test_the_settings_say_which_directions_come_first(hidden, directions):
    users = [*hidden.split([1, 3] * 125)]
    settings = EmbeddingSettings(directions=directions, components=2, shrinkage=0.2)
    own = torch.repeat_interleave(torch.arange(250), torch.tensor([1, 3] * 125))
    asked = Whitening.fit(hidden, own if directions == "discriminant" else None, components=2, shrinkage=0.2)
    assert fit_on_users(users, settings).name == asked.name


def test_it_is_the_same_after_saving_and_known_by_its_name(hidden, tmp_path):
    whitening = Whitening.fit(hidden)
    whitening.save(tmp_path / "whitening.safetensors")
    loaded = Whitening.load(tmp_path / "whitening.safetensors")
    assert torch.equal(loaded(hidden), whitening(hidden))
    assert loaded.name == whitening.name != Whitening.fit(hidden[1:]).name


def test_a_whitening_keeps_the_name_that_adapters_know_it_by():
    # python -c "import numpy, sys; sys.stdout.buffer.write(numpy.arange(6, dtype='<f4').tobytes())" | sha256sum
    whitening = Whitening(torch.tensor([[0.0, 1.0]]), torch.tensor([[[2.0, 3.0], [4.0, 5.0]]]))
    assert whitening.name == "e2c0a71510b5394d"


def test_shrinkage_is_that_of_the_settings_where_none_is_given(hidden):
    shrinkage = EmbeddingSettings().shrinkage
    assert torch.equal(Whitening.fit(hidden).matrix, Whitening.fit(hidden, shrinkage=shrinkage).matrix)


def test_what_cannot_be_whitened_or_read_is_an_input_error(hidden, tmp_path):
    for components in (-1, 0, 7):
        with pytest.raises(InputError, match=f"embedding.components is {components}; .* 1 to 6 directions"):
            Whitening.fit(hidden, components=components)
    with pytest.raises(InputError, match="1 of the training users' embeddings; at least 2"):
        Whitening.fit(hidden[:1])
    with pytest.raises(InputError, match=r"embeddings of \(rows, dim\) \(3, 6\); .* fitted on those of \(2, 6\)"):
        Whitening.fit(hidden)(torch.zeros(5, 3, 6))
    with pytest.raises(InputError, match="nothing.safetensors: is not there"):
        Whitening.load(tmp_path / "nothing.safetensors")
    save_file({"mean": hidden[0].contiguous()}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="not a whitening"):
        Whitening.load(tmp_path / "other.safetensors")


@pytest.fixture
def embeddings(simulated):
    """Made-up raw embeddings of all users of a log, one group each; every split has some."""
    log = Preferences.open(simulated / "preferences")
    assert set(log.users.split) == {"train", "validation", "test"}
    random = torch.Generator().manual_seed(0)
    hidden = {user_id: torch.randn(2, 1, 4, generator=random) for user_id in log.users.user_id}
    profiles = dict.fromkeys(hidden, ("likes ink", ""))
    return log, UserEmbeddings(hidden, profiles, VlmRef("vlm", "1"))


def test_the_whitening_is_that_of_the_training_users_whatever_the_others_are_like(embeddings):
    log, known = embeddings
    settings = EmbeddingSettings(rows=None, components=3, shrinkage=0.0)
    white = fit_whitening(log, known, settings)
    train = log.users.user_id[log.users.split == "train"]
    others = {user_id: 100 + hidden for user_id, hidden in known.hidden.items() if user_id not in set(train)}
    assert others
    moved = replace(known, hidden=known.hidden | others)
    assert fit_whitening(log, moved, settings).name == white.name
    one = {train.iloc[0]: known.hidden[train.iloc[0]] + 1}
    assert fit_whitening(log, replace(known, hidden=known.hidden | one), settings).name != white.name
    u = torch.cat([white(known.hidden[user_id]) for user_id in train])
    torch.testing.assert_close(u.mean(dim=0), torch.zeros(1, 3), atol=1e-5, rtol=0)


def test_users_are_read_one_at_a_time_and_whitened_as_all_at_once(embeddings, tmp_path, monkeypatch):
    """Also where a user's groups lie in two batches of what is read."""
    log, known = embeddings
    users = sorted(known.hidden)
    files = [tmp_path / "b.parquet", tmp_path / "a.parquet"]
    for file, some in zip(files, (users[: len(users) // 2], users[len(users) // 2 :]), strict=True):
        rows = [
            {
                "user_id": user_id,
                "support_group": group,
                "key": f"{user_id} {group}",
                "profile": known.profiles[user_id][0],
                "shape": list(hidden.shape),
                "hidden": hidden.numpy().reshape(-1),
            }
            for user_id in some
            for group, hidden in enumerate(known.hidden[user_id])
        ]
        write_rows(file, rows, known.vlm)
    monkeypatch.setattr("ppd.users.embeddings.ROWS_AT_ONCE", 3)
    loaded = load_embeddings(reversed(files))
    assert list(loaded.hidden) == users
    assert all(torch.equal(loaded.hidden[user_id], known.hidden[user_id]) for user_id in users)
    assert {user_id: profiles[:1] for user_id, profiles in load_profiles(files).items()} == {
        user_id: known.profiles[user_id][:1] for user_id in users
    }
    white = fit_whitening(log, known, EmbeddingSettings(rows=None, components=3))
    u = whitened(files, white)
    assert list(u) == users
    assert all(torch.equal(u[user_id], white(known.hidden[user_id])) for user_id in users)


@pytest.mark.parametrize(("rows", "kept"), [(None, (0, 1)), ((5, 9), (5, 9))])
def test_a_whitening_keeps_how_its_embeddings_were_read(embeddings, tmp_path, rows, kept):
    log, known = embeddings
    two = replace(known, hidden={user: hidden.repeat(1, 2, 1) for user, hidden in known.hidden.items()})
    recipe = fit_whitening(log, two, EmbeddingSettings(rows=rows, components=3)).recipe
    assert recipe is not None
    assert (recipe.vlm, recipe.revision, recipe.rows) == ("vlm", "1", kept)
    for written in (recipe, None):
        replace(Whitening.fit(torch.randn(9, 2, 4)), recipe=written).save(tmp_path / "whitening.safetensors")
        assert Whitening.load(tmp_path / "whitening.safetensors").recipe == written


def test_the_manifest_shows_the_profile_of_the_first_group(embeddings, tmp_path):
    log, known = embeddings
    keys = [{"user_id": user_id, "key": user_id} for user_id in known.hidden]
    write_table(pd.DataFrame(keys), tmp_path / "shard.parquet")
    write_manifest(log, known, [tmp_path / "shard.parquet"], tmp_path / "users.parquet")
    written = read_frame(tmp_path / "users.parquet")
    assert set(written.profile) == {"likes ink"}, "and not the empty one of the second group"
    assert list(written.user_id) == sorted(known.hidden)
    norms = [known.hidden[user_id].square().sum(dim=-1).sqrt().mean().item() for user_id in sorted(known.hidden)]
    assert written.embedding_norm.tolist() == pytest.approx(norms)
    sha256 = hashlib.sha256(written.user_id[0].encode()).hexdigest()
    assert written.version[0] == sha256[:16], "of the user's only key"
