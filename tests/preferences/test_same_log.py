"""One log, written in four ways, is one log: the same pairs, users, captions and support, so the same win rates."""

import base64
import csv
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppd.evaluation.plan import image_requests, plan_comparisons, plan_requests
from ppd.preferences.ingest import ingest
from ppd.preferences.store import Preferences
from ppd.settings import ColumnSettings, EvaluationSettings, PreferenceSettings

N = 15 * 12
WITH_IDS = ColumnSettings(image_a_id="id_a", image_b_id="id_b")


@pytest.fixture(scope="module")
def rows(logs):
    """Fifteen users; some rows are ties, some repeat, some keep a winner, some have a broken image."""
    rows = logs.rows(N)
    for number in range(4, N, 9):  # the winner stays for the next round
        if number % 12:
            before = rows[number - 1]
            kept = 0 if before["label_0"] == 1 else 1
            rows[number] |= {"image_0_uid": before[f"image_{kept}_uid"], "jpg_0": before[f"jpg_{kept}"]}
            rows[number]["best_image_uid"] = rows[number][f"image_{0 if rows[number]['label_0'] == 1 else 1}_uid"]
    for number in range(7, N, 40):
        rows[number] |= {"label_0": 0.5, "label_1": 0.5, "best_image_uid": "tie"}
    rows[25] |= {"jpg_1": rows[25]["jpg_1"][:300]}
    rows.insert(60, dict(rows[59]))
    return rows


def choice(row) -> str:
    return {1.0: "a", 0.0: "b", 0.5: "tie"}[row["label_0"]]


def as_folder(root, rows, kind):
    """The same rows in a table of `kind` beside or with their images."""
    (root / "images").mkdir(parents=True)
    table = [
        {
            "user": row["user_id"] if kind != "csv" or n % 2 else f"{row['user_id']}.0",
            "caption": row["caption"],
            "image_a": f"images/{row['image_0_uid']}.jpg",
            "image_b": f"images/{row['image_1_uid']}.jpg",
            "choice": choice(row),
            "id_a": row["image_0_uid"],
            "id_b": row["image_1_uid"],
        }
        for n, row in enumerate(rows)
    ]
    for row, written in zip(rows, table, strict=True):
        for side, uid in ((0, "image_a"), (1, "image_b")):
            if kind == "csv":
                (root / written[uid]).write_bytes(row[f"jpg_{side}"])
            elif kind == "jsonl":
                written[uid] = "data:image/jpeg;base64," + base64.b64encode(row[f"jpg_{side}"]).decode()
            else:
                written[uid] = row[f"jpg_{side}"]
    if kind == "csv":
        with (root / "choices.csv").open("w", newline="", encoding="utf-16") as file:
            writer = csv.DictWriter(file, table[0], delimiter=";")
            writer.writeheader()
            writer.writerows(table)
    elif kind == "jsonl":
        (root / "choices.jsonl").write_text("\n".join(map(json.dumps, table)))
    else:
        pq.write_table(pa.Table.from_pylist(table), root / "choices.parquet")
    return root


def outcome(folder):
    """Everything of an ingestion that a later stage reads but the bytes of images, and the plan made of it."""
    preferences = Preferences.open(folder)
    evaluation = EvaluationSettings()
    requests = plan_requests(preferences, evaluation)
    uids = sorted({*preferences.pairs.chosen_uid, *preferences.pairs.rejected_uid})
    return {
        # pair_id only orders pairs, and created_at is for people to read.
        "pairs": preferences.pairs.drop(columns=["pair_id", "created_at"]),
        "order": preferences.pairs.pair_id.rank(),
        "users": preferences.users,
        "captions": preferences.captions,
        **{shard: preferences.support(shard) for shard in ("s-00", "s-01", "s-02", "s-03")},
        "digests": preferences.digests[uids],
        "requests": requests,
        "images": image_requests(requests, "ppd", evaluation),
        "comparisons": plan_comparisons(requests, evaluation),
    }


def same(one, other):
    for name in one:
        found, expected = one[name], other[name]
        assert_equal = (
            pd.testing.assert_frame_equal if isinstance(found, pd.DataFrame) else pd.testing.assert_series_equal
        )
        assert_equal(found, expected, obj=name)


def test_four_ways_to_write_a_log(tmp_path, logs, rows):
    settings = PreferenceSettings(max_refused_share=0.2)
    logs.write(tmp_path / "shards" / "a.parquet", rows[:70])
    logs.write(tmp_path / "shards" / "b.parquet", rows[70:])
    ingest(settings, tmp_path / "shards", tmp_path / "out", for_training=True)
    expected = outcome(tmp_path / "out")
    assert len(expected["pairs"]) > 150
    for kind in ("csv", "jsonl", "parquet"):
        folder = as_folder(tmp_path / kind, rows, kind)
        own = settings.model_copy(update={"source_format": "folder", "columns": WITH_IDS})
        ingest(own, folder, tmp_path / f"out-{kind}", for_training=True)
        same(outcome(tmp_path / f"out-{kind}"), expected)


def test_without_names_of_images_the_three_kinds_of_table_agree(tmp_path, rows):
    settings = PreferenceSettings(max_refused_share=0.2, source_format="folder")
    found = []
    for kind in ("csv", "jsonl", "parquet"):
        ingest(settings, as_folder(tmp_path / kind, rows, kind), tmp_path / f"out-{kind}", for_training=True)
        found.append(outcome(tmp_path / f"out-{kind}"))
    same(found[0], found[1])
    same(found[1], found[2])
