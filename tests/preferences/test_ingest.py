"""From a log to preferences, with everything that can be wrong in between."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ppd.errors import InputError
from ppd.preferences.ingest import ingest
from ppd.preferences.inspection import digest
from ppd.preferences.journal import Limits
from ppd.preferences.leakage import check_leakage
from ppd.preferences.schema import IMAGES, REFUSED
from ppd.preferences.store import Preferences
from ppd.settings import PreferenceSettings

SETTINGS = PreferenceSettings(max_refused_share=0.3)
NAN = float("nan")

# What can be wrong with a row of an otherwise sound log, and the outcome: a reason to refuse or a way to be dropped.
BREAKS = {
    "label_missing": {"label_0": NAN, "label_1": NAN},
    "label_disagrees": {"best_image_uid": "somebody-else"},
    "label_invalid": {"label_0": 0.9, "label_1": 0.1},
    "duplicate_ranking": {"ranking_id": 1000},
    "value_missing": {"caption": None},
    "image_missing": {"jpg_1": None},
    "image_undecodable": {"jpg_0": b"<html>404</html>"},
    "same_image": {"image_0_uid": "x", "image_1_uid": "x"},
    "tie": {"label_0": 0.5, "label_1": 0.5, "best_image_uid": "tie"},
    "no_label": {"has_label": False, "label_0": NAN, "label_1": NAN},
    "not_different": {"are_different": False},
}
DROPPED = {"tie", "no_label", "not_different"}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under `folder`, by its relative name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def dirty_rows(logs):
    """120 rows of 10 users, some broken in each of the ways, the rest sound."""
    rows = logs.rows(120)
    for number, changes in zip(range(5, 120, 10), BREAKS.values(), strict=False):
        rows[number] |= changes
    rows[70] |= {"jpg_0": rows[70]["jpg_0"][:700]}
    return rows


def test_the_layout_and_what_comes_of_each_row(tmp_path, logs):
    rows = dirty_rows(logs)
    logs.write(tmp_path / "log" / "a.parquet", rows[:50])
    logs.write(tmp_path / "log" / "b.parquet", rows[50:])
    summary = ingest(SETTINGS, tmp_path / "log", tmp_path / "out")

    assert sorted(tree(tmp_path / "out")) == [
        *("captions.parquet", "image_index.parquet", "images/part-00000.parquet", "pairs.parquet"),
        *("refused.parquet", "summary.json"),
        *(f"support/s-{shard:02}.parquet" for shard in range(SETTINGS.n_shards)),
        "users.parquet",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "out"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    lost = sum(summary["dropped"].values()) + sum(summary["refused"].values())
    assert summary["n_rows"] == 120 == summary["n_pairs"] + lost
    assert summary["refused"] == {reason: 1 for reason in BREAKS if reason not in DROPPED} | {"image_truncated": 1}
    assert {reason for reason in DROPPED if summary["dropped"][reason] == 1} == DROPPED

    refused = pq.read_table(tmp_path / "out" / "refused.parquet")
    assert refused.schema == REFUSED
    places = {(row["file"], row["row"]): row["reason"] for row in refused.to_pylist()}
    assert places["a.parquet", 5] == "label_missing"
    assert places["b.parquet", 20] == "image_truncated"

    pairs = pd.read_parquet(tmp_path / "out" / "pairs.parquet")
    assert [*pairs.columns] == [
        *("pair_id", "user_id", "caption", "chosen_uid", "rejected_uid", "created_at", "role", "support_group")
    ]
    pair = pairs.set_index("pair_id").loc[1001]
    assert (pair["user_id"], pair["chosen_uid"], pair["rejected_uid"]) == ("0", "000001-b", "000001-a")
    assert pair["created_at"] == rows[1]["created_at"]
    assert pq.read_schema(tmp_path / "out" / "images" / "part-00000.parquet") == IMAGES
    assert check_leakage(tmp_path / "out") == []


def test_images_are_stored_once_and_as_they_came(tmp_path, logs):
    rows = logs.rows(48)
    for number in range(1, 48, 2):  # the winner of the round before is kept
        rows[number] |= {"image_0_uid": rows[number - 1]["image_0_uid"], "jpg_0": rows[number - 1]["jpg_0"]}
    logs.write(tmp_path / "a.parquet", rows)
    ingest(SETTINGS, tmp_path / "a.parquet", tmp_path / "out", limits=Limits(part_rows=10))
    parts = sorted((tmp_path / "out" / "images").iterdir())
    images = pd.concat(map(pd.read_parquet, parts))
    assert images["image_uid"].is_unique
    sent = {row[f"image_{side}_uid"]: row[f"jpg_{side}"] for row in rows for side in (0, 1)}
    assert dict(zip(images["image_uid"], images["image"], strict=True)) == sent
    assert set(images["width"]) == {24}
    assert set(images["height"]) == {16}


def test_captions_keep_every_character(tmp_path, logs):
    captions = ["狐狸 🦊", "e\u0301", "é", "ﬁn", "a\u202eb", "\u0000x", "ÅÅ" * 2000]
    rows = [logs.row(number, caption=captions[number % 7], user_id=0) for number in range(84)]
    logs.write(tmp_path / "a.parquet", rows)
    ingest(SETTINGS, tmp_path, tmp_path / "out")
    pairs = pd.read_parquet(tmp_path / "out" / "pairs.parquet").set_index("pair_id")
    assert pairs["caption"].to_dict() == {row["ranking_id"]: row["caption"] for row in rows}
    split = pd.read_parquet(tmp_path / "out" / "captions.parquet").set_index("caption")["split"]
    assert split["é"] == split["e\u0301"]


def test_neither_workers_nor_shards_nor_row_groups_change_the_result(tmp_path, logs):
    rows = dirty_rows(logs)
    logs.write(tmp_path / "one" / "a.parquet", rows)
    logs.write(tmp_path / "two" / "a.parquet", rows, row_group_size=13)
    ingest(SETTINGS, tmp_path / "one", tmp_path / "out1", workers=1)
    ingest(SETTINGS, tmp_path / "one", tmp_path / "out4", workers=4)
    ingest(SETTINGS, tmp_path / "two", tmp_path / "out2")
    assert tree(tmp_path / "out1") == tree(tmp_path / "out4") == tree(tmp_path / "out2")


def test_users_with_too_few_pairs_leave(tmp_path, logs):
    rows = [*logs.rows(24), *(logs.row(number, user_id=77) for number in range(24, 27))]
    logs.write(tmp_path / "a.parquet", rows)
    summary = ingest(SETTINGS, tmp_path, tmp_path / "out")
    assert summary["dropped"]["few_pairs"] == 3
    assert "77" not in set(pd.read_parquet(tmp_path / "out" / "users.parquet")["user_id"])


def test_when_nobody_has_enough_the_reason_is_given(tmp_path, logs):
    logs.write(tmp_path / "a.parquet", logs.rows(3))
    with pytest.raises(InputError, match="of 3 rows 3 can be used, but no user has 4 pairs"):
        ingest(SETTINGS, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_many_refused_rows_stop_it_with_reasons_and_places(tmp_path, logs):
    rows = logs.rows(400)
    for number in range(0, 60):
        rows[number] |= {"label_0": NAN} if number % 3 else {"jpg_0": b""}
    logs.write(tmp_path / "log" / "a.parquet", rows)
    with pytest.raises(InputError, match=r"60 of the first 64 rows are refused, more than 10.0% of all 400") as error:
        ingest(PreferenceSettings(max_refused_share=0.1), tmp_path / "log", tmp_path / "out")
    assert "40 x label_missing, as in a.parquet row 1 (has_label is true but the labels are nan" in str(error.value)
    assert "20 x image_missing, as in a.parquet row 0" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_stopping_for_refused_rows_is_not_undone_by_another_try(tmp_path, logs):
    rows = [logs.row(number, **({"label_0": NAN} if number < 20 else {})) for number in range(40)]
    logs.write(tmp_path / "a.parquet", rows)
    for _ in range(2):
        with pytest.raises(InputError, match="20 x label_missing"):
            ingest(SETTINGS, tmp_path / "a.parquet", tmp_path / "out", limits=Limits(part_rows=10))


@pytest.mark.parametrize("source", ["nowhere", "empty"])
def test_a_source_that_is_none(tmp_path, source):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=source):
        ingest(SETTINGS, tmp_path / source, tmp_path / "out")


def test_a_log_without_rows(tmp_path, logs):
    logs.write(tmp_path / "a.parquet", [])
    with pytest.raises(InputError, match="the log has no rows"):
        ingest(SETTINGS, tmp_path, tmp_path / "out")


def test_an_older_result_is_replaced_as_a_whole_or_not_at_all(tmp_path, logs):
    logs.write(tmp_path / "a.parquet", logs.rows(24))
    logs.write(tmp_path / "b.parquet", logs.rows(3))
    ingest(SETTINGS, tmp_path / "a.parquet", tmp_path / "out", limits=Limits(part_rows=10))
    before = tree(tmp_path / "out")
    with pytest.raises(InputError):
        ingest(SETTINGS, tmp_path / "b.parquet", tmp_path / "out")
    assert tree(tmp_path / "out") == before
    ingest(SETTINGS.model_copy(update={"seed": 1}), tmp_path / "a.parquet", tmp_path / "out")
    assert tree(tmp_path / "out").keys() == before.keys()
    assert tree(tmp_path / "out") != before


def test_a_folder_of_ones_own(tmp_path, logs):
    lines = ["user,caption,image_a,image_b,choice"]
    for number in range(24):
        for side in "ab":
            (tmp_path / f"{number}{side}.png").write_bytes(logs.image(f"{number}{side}", kind="PNG"))
        lines.append(f"{'ann' if number < 12 else 'bob'},thing {number},{number}a.png,{number}b.png,{'ab'[number % 2]}")
    lines.append("ann,thing,/etc/passwd,1a.png,a")
    (tmp_path / "choices.csv").write_text("\n".join(lines))
    summary = ingest(SETTINGS.model_copy(update={"source_format": "folder"}), tmp_path, tmp_path / "out")
    assert (summary["n_users"], summary["n_images"], summary["refused"]) == (2, 48, {"path_absolute": 1})
    assert pd.read_parquet(tmp_path / "out" / "pairs.parquet")["created_at"].isna().all()
    assert check_leakage(tmp_path / "out") == []


KILLED = """
import os, signal, sys
from pathlib import Path
from ppd.preferences.ingest import ingest
from ppd.preferences.cleaning import Cleaner
from ppd.preferences.journal import Limits
from ppd.settings import PreferenceSettings
clean, calls = Cleaner.clean, 0
def clean_and_die(self, rows):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return clean(self, rows)
Cleaner.clean = clean_and_die
ingest(PreferenceSettings(max_refused_share=0.3), Path(sys.argv[1]), Path(sys.argv[2]), limits=Limits(part_rows=20))
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 5, 12])
def test_a_killed_run_goes_on_where_it_was_and_gives_the_same(tmp_path, logs, at, monkeypatch):
    log = tmp_path / "log"
    rows = dirty_rows(logs)
    rows[110] |= {"ranking_id": 1003}  # repeats what an earlier part has
    rows[111] |= {"image_0_uid": rows[0]["image_0_uid"], "jpg_0": rows[0]["jpg_0"]}
    rows[111] |= {"label_0": 1.0, "label_1": 0.0, "best_image_uid": rows[0]["image_0_uid"]}
    logs.write(log / "a.parquet", rows[:65], row_group_size=10)
    logs.write(log / "b.parquet", rows[65:], row_group_size=10)
    limits = Limits(part_rows=20)
    ingest(SETTINGS, log, tmp_path / "whole", limits=limits)

    command = [sys.executable, "-c", KILLED, str(log), str(tmp_path / "out"), str(at)]
    killed = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    if at > 1:  # there is progress, and what a part in the making leaves
        (tmp_path / ".out.partial" / "images" / "part-00099.parquet").write_bytes(b"PAR1")

    read: list[int] = []
    monkeypatch.setattr("ppd.preferences.ingest.Cleaner", counting(read))
    ingest(SETTINGS, log, tmp_path / "out", limits=limits)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert sum(read) == 120 - {1: 0, 5: 40, 12: 105}[at]
    assert not list(tmp_path.glob(".out*"))


def counting(read: list[int]) -> type:
    from ppd.preferences.cleaning import Cleaner

    class Counting(Cleaner):
        def clean(self, rows):
            read.append(len(rows))
            return super().clean(rows)

    return Counting


@pytest.mark.parametrize("change", ["settings", "file"])
def test_progress_of_another_log_or_other_settings_is_not_taken_up(tmp_path, logs, change, monkeypatch):
    path = logs.write(tmp_path / "a.parquet", dirty_rows(logs), row_group_size=10)
    limits, settings = Limits(part_rows=20), SETTINGS
    original = path.read_bytes()
    damaged = bytearray(original)
    start = pq.read_metadata(path).row_group(8).column(9).data_page_offset
    damaged[start : start + 2000] = b"\xff" * 2000
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="row 80: the data is damaged"):
        ingest(settings, path, tmp_path / "out", limits=limits)
    assert (tmp_path / ".out.partial").is_dir()
    stamp = path.stat().st_mtime_ns
    path.write_bytes(original)
    if change == "settings":
        settings = settings.model_copy(update={"max_image_pixels": 24 * 16})
        os.utime(path, ns=(stamp, stamp))  # as far as can be seen, the file is the same
    read: list[int] = []
    monkeypatch.setattr("ppd.preferences.ingest.Cleaner", counting(read))
    ingest(settings, path, tmp_path / "out", limits=limits)
    assert sum(read) == 120


broken_rows = st.lists(
    st.tuples(st.integers(1, 71), st.sampled_from(sorted(BREAKS))), max_size=20, unique_by=lambda b: b[0]
)


@hypothesis_settings(max_examples=25)
@given(breaks=broken_rows)
def test_each_broken_row_has_its_own_outcome_whatever_else_is_broken(breaks, logs):
    rows = logs.rows(72)
    for number, kind in breaks:
        rows[number] |= BREAKS[kind]
    with tempfile.TemporaryDirectory() as root:
        logs.write(Path(root) / "a.parquet", rows)
        summary = ingest(SETTINGS.model_copy(update={"max_refused_share": 1}), Path(root), Path(root) / "out")
        refused = pd.read_parquet(Path(root) / "out" / "refused.parquet")
    expected = {number: kind for number, kind in breaks if kind not in DROPPED}
    assert dict(zip(refused["row"], refused["reason"], strict=True)) == expected
    assert summary["refused"] == dict(Counter(expected.values()))
    few_pairs = summary["dropped"].pop("few_pairs")
    assert summary["dropped"] == dict(Counter(kind for _, kind in breaks if kind in DROPPED))
    assert summary["n_pairs"] == 72 - len(breaks) - few_pairs


def support_files(out: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted((out / "support").iterdir())}


def test_a_shards_file_holds_what_describes_its_users(tmp_path, logs):
    logs.write(tmp_path / "log" / "a.parquet", logs.rows(240))
    ingest(SETTINGS, tmp_path / "log", tmp_path / "out")
    pairs, users = (pd.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in ("pairs", "users"))
    images = Preferences.open(tmp_path / "out")
    expected = pairs[pairs.role == "support"].sort_values(["user_id", "support_group", "pair_id"])
    for shard in support_files(tmp_path / "out"):
        found = pd.read_parquet(tmp_path / "out" / "support" / f"{shard}.parquet")
        own = expected[expected.user_id.isin(users.user_id[users.shard == shard])]
        columns = ["user_id", "support_group", "caption", "chosen_uid", "rejected_uid"]
        assert found[columns].values.tolist() == own[columns].values.tolist()
        for side in ("chosen", "rejected"):
            encoded = images.image_bytes(found[f"{side}_uid"].tolist())
            assert found[f"{side}_digest"].tolist() == [digest(image) for image in encoded]


def changed_caption(rows, number, logs):
    rows[number] |= {"caption": rows[number]["caption"].replace("sticker", "painting")}


def changed_image(rows, number, logs):
    rows[number] |= {"jpg_0": logs.image("another picture under the same name")}


def changed_mind(rows, number, logs):
    before = rows[number]
    other = {"label_0": before["label_1"], "label_1": before["label_0"]}
    best = before["image_0_uid"] if before["label_1"] == 1 else before["image_1_uid"]
    rows[number] |= other | {"best_image_uid": best}


@pytest.mark.parametrize("change", [changed_caption, changed_image, changed_mind])
def test_one_users_change_is_a_change_for_one_shard(tmp_path, logs, change):
    rows = logs.rows(240)
    logs.write(tmp_path / "log" / "a.parquet", rows)
    ingest(SETTINGS, tmp_path / "log", tmp_path / "out")
    before, pairs = support_files(tmp_path / "out"), pd.read_parquet(tmp_path / "out" / "pairs.parquet")
    described = pairs[pairs.role == "support"].iloc[0]
    change(rows, described.pair_id - 1000, logs)
    logs.write(tmp_path / "log" / "a.parquet", rows)
    ingest(SETTINGS, tmp_path / "log", tmp_path / "out")
    after = support_files(tmp_path / "out")
    users = pd.read_parquet(tmp_path / "out" / "users.parquet").set_index("user_id")
    assert {shard for shard in before if before[shard] != after[shard]} == {users.shard[described.user_id]}


def test_a_new_user_is_a_change_for_one_shard(tmp_path, logs):
    rows = logs.rows(252)
    logs.write(tmp_path / "log" / "a.parquet", rows[:240])
    ingest(SETTINGS, tmp_path / "log", tmp_path / "out")
    before = support_files(tmp_path / "out")
    logs.write(tmp_path / "log" / "b.parquet", rows[240:])
    ingest(SETTINGS, tmp_path / "log", tmp_path / "out")
    after = support_files(tmp_path / "out")
    users = pd.read_parquet(tmp_path / "out" / "users.parquet").set_index("user_id")
    assert {shard for shard in before if before[shard] != after[shard]} == {users.shard["20"]}
