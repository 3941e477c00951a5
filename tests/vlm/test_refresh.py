import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ppd.errors import DamagedFile, InputError
from ppd.settings import EmbeddingSettings
from ppd.users.embeddings import load_embeddings
from ppd.users.support import SupportGroup
from ppd.vlm.embedding import embed
from ppd.vlm.refresh import Refreshed, refresh

SETTINGS = EmbeddingSettings(rows=None, max_new_tokens=0)


@pytest.fixture
def groups(pairs):
    """Two groups of one person, one of another, none twice."""
    owners = [("anna", 0), ("anna", 1), ("ben", 0)]
    return [SupportGroup(user, group, tuple(pairs(2))) for user, group in owners]


def test_the_store_holds_what_embedding_gives(vlm, groups, tmp_path):
    assert refresh(tmp_path / "e.parquet", groups, vlm, SETTINGS, tmp_path / "work") == Refreshed(embedded=3, kept=0)
    people = load_embeddings([tmp_path / "e.parquet"])
    expected = embed(vlm, [group.pairs for group in groups], SETTINGS).hidden
    torch.testing.assert_close(people.hidden["anna"], expected[:2], atol=2e-5, rtol=0)
    torch.testing.assert_close(people.hidden["ben"], expected[2:], atol=2e-5, rtol=0)


def test_only_what_changed_is_embedded_again(vlm, groups, pairs, tmp_path):
    file = tmp_path / "e.parquet"
    refresh(file, groups, vlm, SETTINGS, tmp_path / "work")
    before = load_embeddings([file])
    assert refresh(file, groups, vlm, SETTINGS, tmp_path / "work") == Refreshed(embedded=0, kept=3)
    changed = [groups[0], SupportGroup("anna", 1, tuple(pairs(3))), SupportGroup("carl", 0, groups[2].pairs)]
    assert refresh(file, changed, vlm, SETTINGS, tmp_path / "work") == Refreshed(embedded=1, kept=2)
    after = load_embeddings([file])
    assert set(after.hidden) == {"anna", "carl"}, "people who left are dropped"
    assert torch.equal(after.hidden["anna"][0], before.hidden["anna"][0])
    assert not torch.equal(after.hidden["anna"][1], before.hidden["anna"][1])
    assert torch.equal(after.hidden["carl"], before.hidden["ben"])
    assert refresh(file, changed, vlm, EmbeddingSettings(max_new_tokens=0, rows=(1,)), tmp_path / "work").embedded == 3


def test_a_killed_run_goes_on_and_ends_the_same(vlm, groups, tmp_path, monkeypatch):
    monkeypatch.setattr("ppd.vlm.refresh.UNIT", 1)
    monkeypatch.setattr(vlm, "batch_size", 1)
    file, embedded = tmp_path / "s-00" / "e.parquet", []
    refresh(tmp_path / "whole.parquet", groups, vlm, SETTINGS, tmp_path / "work")

    def dying(*asked):
        if len(embedded) == 2:
            raise KeyboardInterrupt
        embedded.append(asked)
        return embed(*asked)

    with monkeypatch.context() as patch:
        patch.setattr("ppd.vlm.refresh.embed", dying)
        with pytest.raises(KeyboardInterrupt):
            refresh(file, groups, vlm, SETTINGS, tmp_path / "work")
    assert not file.exists(), "nothing half-written is left in place"
    counting = lambda *asked: embedded.append(asked) or embed(*asked)  # noqa: E731
    monkeypatch.setattr("ppd.vlm.refresh.embed", counting)
    refresh(file, groups, vlm, SETTINGS, tmp_path / "work")
    assert len(embedded) == 3, "two units were kept"
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert pq.read_table(file)["user_id"].to_pylist() == ["anna", "anna", "ben"]
    assert file.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_it_says_what_it_will_take_and_after_the_first_unit_how_long(vlm, groups, tmp_path, capsys):
    refresh(tmp_path / "e.parquet", groups, vlm, SETTINGS, tmp_path / "work", total=3)
    said = capsys.readouterr().err
    assert "3 groups, each about 34 positions with 4 images; 3 at once" in said
    assert "groups/s, so at most" in said
    assert "peak memory" in said


def test_an_embedding_does_not_depend_on_its_shard(vlm, groups, tmp_path):
    refresh(tmp_path / "all.parquet", groups, vlm, SETTINGS, tmp_path / "work")
    refresh(tmp_path / "one.parquet", groups[2:], vlm, SETTINGS, tmp_path / "work")
    refresh(tmp_path / "two.parquet", groups[:2][::-1], vlm, SETTINGS, tmp_path / "work")
    whole, parts = (
        load_embeddings([tmp_path / "all.parquet"]),
        load_embeddings([tmp_path / f"{n}.parquet" for n in ("one", "two")]),
    )
    for user in ("anna", "ben"):
        np.testing.assert_allclose(whole.hidden[user], parts.hidden[user], atol=2e-5)


def test_missing_and_mismatched_shards_are_input_errors(vlm, groups, tmp_path):
    with pytest.raises(InputError, match="ppd stage embed"):
        load_embeddings([tmp_path / "nothing.parquet"])
    refresh(tmp_path / "one.parquet", groups[:1], vlm, SETTINGS, tmp_path / "work")
    refresh(
        tmp_path / "two.parquet", groups[2:], vlm, EmbeddingSettings(max_new_tokens=0, rows=(0,)), tmp_path / "work"
    )
    with pytest.raises(InputError, match="different shapes"):
        load_embeddings([tmp_path / "one.parquet", tmp_path / "two.parquet"])


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_file_is_embedded_again_and_is_never_read(vlm, groups, tmp_path, capsys, damage):
    file = tmp_path / "e.parquet"
    refresh(file, groups, vlm, SETTINGS, tmp_path / "work")
    whole = file.read_bytes()
    hidden = pq.read_table(file)["hidden"].combine_chunks().values.to_numpy().tobytes()
    place = whole.index(hidden[:16])
    broken = (
        whole[: len(whole) // 2] if damage == "cut" else whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    )
    file.write_bytes(broken)
    with pytest.raises(DamagedFile, match=r"e.parquet: damaged"):
        load_embeddings([file])
    assert refresh(file, groups, vlm, SETTINGS, tmp_path / "work") == Refreshed(embedded=3, kept=0)
    assert "e.parquet: damaged" in capsys.readouterr().err
    assert file.read_bytes() == whole


def test_a_damaged_part_of_a_killed_run_is_embedded_again(vlm, groups, tmp_path, capsys, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    refresh(tmp_path / "whole.parquet", groups, vlm, SETTINGS, tmp_path / "work")
    with monkeypatch.context() as patch:
        patch.setattr("ppd.vlm.refresh.Refreshed", killed)
        with pytest.raises(KeyboardInterrupt):
            refresh(tmp_path / "e.parquet", groups, vlm, SETTINGS, tmp_path / "work")
    (unit,) = (tmp_path / "work").iterdir()
    unit.write_bytes(b"PAR1 half of it")
    whole = (tmp_path / "whole.parquet").read_bytes()
    refresh(tmp_path / "e.parquet", groups, vlm, SETTINGS, tmp_path / "work")
    assert f"{unit.name}: damaged" in capsys.readouterr().err
    assert (tmp_path / "e.parquet").read_bytes() == whole


def test_an_embedding_of_no_number_names_its_user_and_nothing_is_written(vlm, groups, tmp_path, monkeypatch):
    def bad(*args):
        result = embed(*args)
        result.hidden[1] = torch.nan
        return result

    monkeypatch.setattr("ppd.vlm.refresh.embed", bad)
    with pytest.raises(InputError, match="the embedding of user anna, support group 1 is no number"):
        refresh(tmp_path / "e.parquet", groups, vlm, SETTINGS, tmp_path / "work")
    assert not (tmp_path / "e.parquet").exists()
