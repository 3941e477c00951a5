"""Serving images by uid."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ppd.errors import InputError
from ppd.preferences.ingest import ingest
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


def test_tables(preferences):
    assert set(preferences.users["split"]) <= {"train", "validation", "test"}
    assert preferences.users["n_pairs"].sum() == len(preferences.pairs)
    assert set(preferences.captions["split"]) == {"train", "eval"}


def test_a_folder_that_holds_none(tmp_path):
    with pytest.raises(InputError, match=r"no preferences here.*ppd stage ingest"):
        Preferences.open(tmp_path)
