"""What becomes of a row."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppd.preferences.cleaning import Cleaned, Cleaner, Pair
from ppd.preferences.rows import RawRow, Refusal

NAN = float("nan")


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def raw(logs):
    def raw(number: int, **changes) -> RawRow:
        row = logs.row(number)
        return RawRow(
            file="a.parquet",
            row=number,
            ranking_id=row["ranking_id"],
            user_id=str(row["user_id"]),
            caption=row["caption"],
            created_us=number,
            uid_0=row["image_0_uid"],
            uid_1=row["image_1_uid"],
            image_0=row["jpg_0"],
            image_1=row["jpg_1"],
            label_0=row["label_0"],
            label_1=row["label_1"],
            best_uid=row["best_image_uid"],
            has_label=True,
            are_different=True,
        )._replace(**changes)

    return raw


def clean(pool, *rows, batch: int | None = None) -> Cleaned:
    cleaner, total = Cleaner(10_000, pool), Cleaned()
    for start in range(0, len(rows), batch or len(rows)):
        part = cleaner.clean(rows[start : start + (batch or len(rows))])
        total.pairs += part.pairs
        total.images += part.images
        total.refused += part.refused
        total.dropped += part.dropped
    return total


def test_a_sound_row_becomes_a_pair_and_two_images(pool, raw):
    cleaned = clean(pool, raw(0), raw(1))
    assert cleaned.pairs == [
        Pair(1000, "0", "a sticker of thing 0", "000000-a", "000000-b", 0),
        Pair(1001, "0", "a sticker of thing 1", "000001-b", "000001-a", 1),
    ]
    assert [(image.uid, image.encoded, image.width, image.height) for image in cleaned.images[:2]] == [
        ("000000-a", raw(0).image_0, 24, 16),
        ("000000-b", raw(0).image_1, 24, 16),
    ]


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"has_label": False}, "no_label"),
        ({"has_label": False, "label_0": NAN, "label_1": NAN, "best_uid": None, "caption": None}, "no_label"),
        ({"are_different": False}, "not_different"),
        ({"label_0": 0.5, "label_1": 0.5, "best_uid": "tie"}, "tie"),
        ({"label_0": 0.5, "label_1": 0.5, "best_uid": None}, "tie"),
    ],
)
def test_a_choice_not_made_is_dropped_and_counted_apart(pool, raw, changes, outcome):
    cleaned = clean(pool, raw(0, **changes))
    assert cleaned == Cleaned(dropped=cleaned.dropped)
    assert cleaned.dropped == {outcome: 1}


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"label_0": NAN}, "label_missing", "labels are nan, 0.0"),
        ({"label_1": None}, "label_missing", "labels are 1.0, None"),
        ({"label_0": 0.7, "label_1": 0.3}, "label_invalid", "expected 1/0, 0/1 or 0.5/0.5"),
        ({"label_1": 1.0}, "label_invalid", "labels are 1.0, 1.0"),
        ({"label_0": float("inf")}, "label_invalid", "labels are inf"),
        ({"best_uid": "000000-b"}, "label_disagrees", "the labels choose 000000-a; best_image_uid is 000000-b"),
        ({"best_uid": None}, "label_disagrees", "best_image_uid is None"),
        ({"caption": " \t"}, "value_missing", "caption"),
        ({"user_id": None}, "value_missing", "user_id"),
        ({"ranking_id": None}, "value_missing", "ranking_id"),
        ({"has_label": None}, "value_missing", "has_label"),
        ({"uid_1": ""}, "value_missing", "image_1_uid"),
        ({"uid_1": "000000-a"}, "same_image", "both images are 000000-a"),
        ({"image_0": None}, "image_missing", "image 000000-a: no bytes"),
        ({"image_1": b"no image"}, "image_undecodable", "image 000000-b"),
    ],
)
def test_a_wrong_row_is_refused_with_its_reason(pool, raw, changes, reason, detail):
    cleaned = clean(pool, raw(0, **changes), raw(1))
    (refusal,) = cleaned.refused
    assert (refusal.file, refusal.row, refusal.reason) == ("a.parquet", 0, reason)
    assert detail in refusal.detail
    assert [pair.pair_id for pair in cleaned.pairs] == [1001]
    assert len(cleaned.images) == 2


@pytest.mark.parametrize("batch", [1, 2, None])
class TestWhatMayComeOnlyOnce:
    def test_ranking(self, pool, raw, batch):
        cleaned = clean(pool, raw(0), raw(1, ranking_id=1000), raw(2), batch=batch)
        assert [refusal.reason for refusal in cleaned.refused] == ["duplicate_ranking"]
        assert [image.uid for image in cleaned.images] == ["000000-a", "000000-b", "000002-a", "000002-b"]

    def test_two_images_before_one_user_also_with_sides_swapped(self, pool, raw, batch):
        first = raw(0)
        swapped = first._replace(
            ranking_id=5, uid_0=first.uid_1, uid_1=first.uid_0, image_0=first.image_1, image_1=first.image_0
        )
        cleaned = clean(pool, first, swapped._replace(best_uid=first.uid_1), raw(1), batch=batch)
        assert [refusal.reason for refusal in cleaned.refused] == ["duplicate_pair"]

    def test_but_another_user_may_judge_them(self, pool, raw, batch):
        cleaned = clean(pool, raw(0), raw(0, ranking_id=5, user_id="9"), batch=batch)
        assert len(cleaned.pairs) == 2
        assert len(cleaned.images) == 2

    def test_bytes_of_an_image(self, pool, raw, batch):
        other = raw(1, uid_0="000000-a", label_0=1.0, label_1=0.0, best_uid="000000-a")
        cleaned = clean(pool, raw(0), other, raw(2), batch=batch)
        assert [refusal.reason for refusal in cleaned.refused] == ["image_conflict"]
        assert len(cleaned.images) == 4

    def test_a_refused_row_uses_nothing_up(self, pool, raw, batch):
        broken = raw(0, image_1=b"broken")
        cleaned = clean(pool, broken, raw(0), batch=batch)
        assert [refusal.reason for refusal in cleaned.refused] == ["image_undecodable"]
        assert [image.uid for image in cleaned.images] == ["000000-a", "000000-b"]


def test_two_uids_for_the_same_picture_are_no_choice(pool, raw):
    (refusal,) = clean(pool, raw(0, image_1=raw(0).image_0)).refused
    assert refusal.reason == "same_image"


def test_a_kept_winner_is_stored_once(pool, raw):
    first, second = raw(0), raw(2)
    second = second._replace(uid_0=first.uid_0, image_0=first.image_0, best_uid=first.uid_0)
    cleaned = clean(pool, first, second)
    assert len(cleaned.pairs) == 2
    assert [image.uid for image in cleaned.images] == ["000000-a", "000000-b", "000002-b"]


def raw_rows(images: list[bytes | None]) -> st.SearchStrategy[RawRow]:
    """Rows out of a few ids, images and labels, so that they repeat and contradict one another in every way."""
    uid = st.sampled_from(["x", "y", "z", "", None])
    labels = st.sampled_from([(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (NAN, 0.0), (1.0, None), (1.0, 1.0)])
    flag = st.sampled_from([True, True, True, False, None])
    return st.builds(
        lambda ranking, user, caption, uids, encoded, labels, flags: RawRow(
            *("f", 0, ranking, user, caption, None, *uids[:2], *encoded, *labels, uids[2], *flags)
        ),
        st.sampled_from([*range(9), None]),
        st.sampled_from(["u", "v", "", None]),
        st.sampled_from(["é", "", None]),
        st.tuples(uid, uid, uid),
        st.tuples(st.sampled_from(images), st.sampled_from(images)),
        labels,
        st.tuples(flag, flag),
    )


@given(data=st.data(), batch=st.integers(1, 8))
def test_every_row_has_one_outcome_and_batches_do_not_matter(data, batch, pool, logs):
    good = logs.image("p"), logs.image("q"), logs.image("r")
    images = [*good, *good, good[0][:200], b"", None]
    some = raw_rows(images) | st.just(Refusal("f", 0, "text_not_utf8", ""))
    rows = data.draw(st.lists(some, max_size=10))
    whole = clean(pool, *rows) if rows else Cleaned()
    assert len(whole.pairs) + len(whole.refused) + whole.dropped.total() == len(rows)
    uids = [image.uid for image in whole.images]
    assert len(uids) == len(set(uids))
    assert {uid for pair in whole.pairs for uid in (pair.chosen_uid, pair.rejected_uid)} == set(uids)
    assert len({pair.pair_id for pair in whole.pairs}) == len(whole.pairs)
    if rows:
        assert clean(pool, *rows, batch=batch) == whole
