"""Serving images by uid."""

import io
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ppd.errors import DamagedFile, InputError
from ppd.preferences.ingest import ingest
from ppd.preferences.inspection import digest
from ppd.preferences.journal import Limits
from ppd.preferences.store import Preferences
from ppd.settings import PreferenceSettings


@pytest.fixture(scope="module")
def rows(logs):
    return logs.rows(60)


@pytest.fixture(scope="module")
def preferences(tmp_path_factory, logs, rows):
    root = tmp_path_factory.mktemp("store")
    logs.write(root / "a.parquet", rows, row_group_size=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ppd.preferences.journal._GROUP_IMAGES", 5)
        ingest(PreferenceSettings(), root / "a.parquet", root / "out", limits=Limits(part_rows=20))
    assert len(list((root / "out" / "images").iterdir())) == 3
    return Preferences.open(root / "out")


@given(data=st.data())
def test_any_images_in_any_order_also_twice(data, preferences, rows):
    sent = {row[f"image_{side}_uid"]: row[f"jpg_{side}"] for row in rows for side in (0, 1)}
    uids = data.draw(st.lists(st.sampled_from(sorted(sent)), max_size=20))
    assert preferences.image_bytes(uids) == [sent[uid] for uid in uids]


@given(data=st.data())
def test_stored_images_come_in_the_order_of_the_disk_and_each_row_group_is_read_once(data, preferences, rows):
    sent = {row[f"image_{side}_uid"]: row[f"jpg_{side}"] for row in rows for side in (0, 1)}
    uids = data.draw(st.lists(st.sampled_from(sorted(sent)), min_size=1, max_size=60))
    on_disk = preferences.digests.index.tolist()
    group_of = [f"{part} {group}" for part, group, n in groups(preferences) for _ in range(n)]
    read = []

    def counted(file, number, **options):
        read.append(number)
        return read_row_group(file, number, **options)

    read_row_group = pq.ParquetFile.read_row_group
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pq.ParquetFile, "read_row_group", counted)
        images = list(preferences.stored_images(uids))
    assert [image for _, image in images] == [sent[uids[place]] for place, _ in images]
    assert sorted(place for place, _ in images) == list(range(len(uids)))
    places = [on_disk.index(uids[place]) for place, _ in images]
    assert places == sorted(places)
    assert len(read) == len({group_of[place] for place in places})


def groups(preferences):
    """(part, number, images in it) of every row group on disk."""
    for part in sorted((preferences.folder / "images").iterdir()):
        metadata = pq.read_metadata(part)
        yield from (
            (part.name, number, metadata.row_group(number).num_rows) for number in range(metadata.num_row_groups)
        )


def test_decoded_images_come_lazily_as_rgb(preferences, rows):
    uids = (uid for uid in [*preferences.pairs["chosen_uid"].head(7), "nowhere"])
    images = preferences.images(uids, chunk=7)
    first = next(images)
    encoded = {row[f"image_{side}_uid"]: row[f"jpg_{side}"] for row in rows for side in (0, 1)}
    expected = Image.open(io.BytesIO(encoded[preferences.pairs["chosen_uid"][0]])).convert("RGB")
    assert first.mode == "RGB"
    assert first.tobytes() == expected.tobytes()
    assert len([next(images) for _ in range(6)]) == 6
    with pytest.raises(KeyError, match="nowhere"):
        next(images)


def test_the_index_names_all_images_in_the_order_of_the_parts(preferences):
    parts = [pd.read_parquet(part) for part in sorted((preferences.folder / "images").iterdir())]
    stored = pd.concat(parts).set_index("image_uid")
    assert len(parts) == 3
    pd.testing.assert_series_equal(preferences.digests, stored.digest)
    assert preferences.digests.iloc[0] == digest(stored.image.iloc[0])


def test_tables(preferences):
    assert set(preferences.users["split"]) <= {"train", "validation", "test"}
    assert preferences.users["n_pairs"].sum() == len(preferences.pairs)
    assert set(preferences.captions["split"]) == {"train", "eval"}


def test_a_folder_that_holds_none(tmp_path):
    with pytest.raises(InputError, match=r"no preferences here.*ppd stage ingest"):
        Preferences.open(tmp_path)


@pytest.mark.parametrize("shard", ["s-99", "../pairs", "../../etc/passwd", "", "s-00/../s-00"])
def test_a_shard_that_there_is_not(simulated, shard):
    log = Preferences.open(simulated / "preferences")
    assert len(log.support("s-00"))
    with pytest.raises(InputError, match="no shard is called .*; there are s-00"):
        log.support(shard)


@pytest.mark.parametrize("name", ["pairs.parquet", "users.parquet", "captions.parquet", "support/s-00.parquet"])
def test_a_table_that_was_cut_is_named(simulated, tmp_path, name):
    folder = shutil.copytree(simulated / "preferences", tmp_path / "preferences")
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    with pytest.raises(DamagedFile, match=f"{name}: damaged"):
        Preferences.open(folder).support("s-00")


def test_images_that_were_cut_or_changed_are_named(simulated, tmp_path):
    folder = shutil.copytree(simulated / "preferences", tmp_path / "preferences")
    uids = [*Preferences.open(folder).digests.index[:3]]
    (first, *_) = sorted((folder / "images").iterdir())
    whole = first.read_bytes()
    image = Preferences.open(folder).image_bytes(uids)[1]
    place = whole.index(image) + len(image) // 2
    for broken in (whole[:-20], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]):
        first.write_bytes(broken)
        with pytest.raises(DamagedFile, match=f"{first.name}: damaged"):
            Preferences.open(folder).image_bytes(uids)


def test_an_index_of_other_images_is_named(simulated, tmp_path):
    folder = shutil.copytree(simulated / "preferences", tmp_path / "preferences")
    uids = [*Preferences.open(folder).digests.index[:3]]
    pd.read_parquet(folder / "image_index.parquet").head(-1).to_parquet(folder / "image_index.parquet", index=False)
    with pytest.raises(DamagedFile, match="image_index.parquet: damaged"):
        Preferences.open(folder).image_bytes(uids)
