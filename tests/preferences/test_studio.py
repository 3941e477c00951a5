"""From votes to ingestion: a snapshot that is read like any log."""

import itertools
import json
import sqlite3
from pathlib import Path

import pandas as pd
import pytest

from ppd.errors import InputError
from ppd.preferences.ingest import ingest
from ppd.preferences.rows import Position
from ppd.preferences.store import Preferences
from ppd.preferences.studio import FIRST_RANKING, SNAPSHOT, Studio
from ppd.settings import PreferenceSettings
from ppd.studio.database import Database
from ppd.studio.publishing import write_snapshot, write_verdicts
from ppd.studio.showings import NewShowing, answers, open_showing, show, undo, vote
from ppd.studio.visitors import Visitor, forget, visitor_of, welcome
from tests.preferences.conftest import Logs

CAPTIONS = [f"a sticker of thing {at}" for at in range(12)]
SETTINGS = PreferenceSettings(
    source_format="studio", eval_caption_share=0.0, validation_user_share=0.0, test_user_share=0.0
)


@pytest.fixture
def database(tmp_path: Path, logs: Logs) -> Database:
    """A studio's file with two pictures of each caption."""
    made = Database(tmp_path / "studio" / "studio.sqlite")
    with made.change():
        for caption, side in itertools.product(CAPTIONS, "xy"):
            picture = logs.image(f"{caption} {side}", kind="PNG")
            made.run(
                "INSERT INTO pictures (id, model, caption, seed, made, image) VALUES (?, 'base', ?, 0, '{}', ?)",
                *(f"{caption}-{side}", caption, picture),
            )
    return made


def visit(database: Database, name: str, choices: list[str]) -> Visitor:
    """Somebody who answers so."""
    visitor = welcome(database, name)
    for caption, choice in zip(CAPTIONS, choices, strict=False):
        new = NewShowing(caption, f"{caption}-x", f"{caption}-y", "fixed")
        showing = show(database, visitor.id, "choice", "adapter", new)
        assert showing is not None
        assert vote(database, visitor.id, showing.id, choice)  # type: ignore[arg-type]
    return visitor


def test_choices_are_ingested_as_they_were_made(database: Database, tmp_path: Path) -> None:
    ann = visit(database, "ann", ["left", "right"] * 4 + ["skip"])
    ben = visit(database, "ben", ["right"] * 8)
    undo(database, ben.id, answers(database, ben.id, "choice")[-1].vote)
    write_snapshot(database.file, tmp_path / "choices")
    summary = ingest(SETTINGS, tmp_path / "choices", tmp_path / "preferences")
    assert (summary["n_rows"], summary["n_pairs"], summary["n_users"]) == (16, 15, 2)
    assert summary["dropped"] == {"few_pairs": 0, "no_label": 1}
    assert summary["refused"] == {}
    preferences = Preferences.open(tmp_path / "preferences")
    pairs = preferences.pairs.sort_values("pair_id")
    assert pairs.pair_id.min() > FIRST_RANKING
    rows = pairs[pairs.user_id == ann.id]
    files = dict(tuple(row) for row in database.all("SELECT id, image FROM pictures"))
    for at, row in enumerate(rows.itertuples()):
        chosen, rejected = preferences.image_bytes([row.chosen_uid, row.rejected_uid])
        sides = ("x", "y") if at % 2 == 0 else ("y", "x")
        assert [chosen, rejected] == [files[f"{row.caption}-{side}"] for side in sides]
    assert rows.created_at.is_monotonic_increasing and rows.created_at.notna().all()


def test_new_people_join_the_log_beside_the_snapshot(database: Database, tmp_path: Path, logs: Logs) -> None:
    choices = tmp_path / "choices"
    shard = logs.write(choices / "train-00000.parquet", logs.rows(24))
    visit(database, "ann", ["left"] * 6)
    write_snapshot(database.file, choices)
    ingest(SETTINGS, choices, tmp_path / "preferences")
    users = Preferences.open(tmp_path / "preferences").users
    assert sorted(user[:6] for user in users.user_id) == ["0", "1", "studio"]
    pickapic = SETTINGS.model_copy(update={"source_format": "pick-a-pic"})
    ingest(pickapic, choices, tmp_path / "without")
    before, after = (pd.read_parquet(tmp_path / name / "users.parquet") for name in ("without", "preferences"))
    merged = before.merge(after, on=list(before.columns))
    assert len(merged) == 2  # nobody of the log is moved by who joins it
    assert shard.exists()


def test_batches_go_on_from_any_position(database: Database, tmp_path: Path, logs: Logs) -> None:
    choices = tmp_path / "choices"
    logs.write(choices / "a.parquet", logs.rows(100))
    for name in map(str, range(10)):
        visit(database, name, ["left"] * 8)
    write_snapshot(database.file, choices)
    source = Studio.open(choices)
    batches = list(source.batches(Position(0, 0)))
    assert sum(len(batch.rows) for batch in batches) == source.n_rows == 180
    for at, batch in enumerate(batches[:-1]):
        rest = list(source.batches(batch.after))
        assert [b.rows for b in rest] == [b.rows for b in batches[at + 1 :]]


def test_who_was_forgotten_is_in_no_later_snapshot(database: Database, tmp_path: Path) -> None:
    ann, ben = visit(database, "ann", ["left"] * 5), visit(database, "ben", ["right"] * 5)
    forget(database, ann)
    write_snapshot(database.file, tmp_path)
    with sqlite3.connect(tmp_path / SNAPSHOT) as snapshot:
        assert snapshot.execute("SELECT DISTINCT user FROM choices").fetchall() == [(ben.id,)]
    assert visitor_of(database, "ann") is None and open_showing(database, ann.id, "choice") is None


def test_a_snapshot_holds_nothing_by_which_a_browser_is_recognised(database: Database, tmp_path: Path) -> None:
    visit(database, "a cookie", ["left"] * 5)
    content = write_snapshot(database.file, tmp_path).read_bytes()
    [session] = database.one("SELECT session FROM visitors")
    assert session.encode() not in content and database.setting("secret").encode() not in content


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        ("UPDATE choices SET choice = 'both' WHERE vote = 2", "choice_invalid"),
        ("DELETE FROM pictures WHERE id LIKE '%thing 1-x'", "image_missing"),
        ("UPDATE choices SET voted_at = 'yesterday' WHERE vote = 2", "value_missing"),
        ("UPDATE choices SET voted_at = NULL WHERE vote = 2", "value_missing"),
        ("UPDATE choices SET caption = '' WHERE vote = 2", "value_missing"),
        ("UPDATE choices SET user = NULL WHERE vote = 2", "value_missing"),
        ("UPDATE choices SET user = x'ff' WHERE vote = 2", "text_not_utf8"),
        ("UPDATE pictures SET image = x'00' WHERE id LIKE '%thing 1-x'", "image_undecodable"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_reason(
    database: Database, tmp_path: Path, break_it: str, reason: str
) -> None:
    visit(database, "ann", ["left"] * 8)
    with sqlite3.connect(write_snapshot(database.file, tmp_path / "choices")) as snapshot:
        snapshot.execute(break_it)
    settings = SETTINGS.model_copy(update={"max_refused_share": 0.5})
    ingest(settings, tmp_path / "choices", tmp_path / "preferences")
    refused = pd.read_parquet(tmp_path / "preferences" / "refused.parquet")
    assert refused.reason.tolist() == [reason] and refused.row.tolist() == [1]


@pytest.mark.parametrize("content", [None, b"no database at all" * 100, b""])
def test_a_folder_without_a_snapshot_is_no_source(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / SNAPSHOT).write_bytes(content)
    with pytest.raises(InputError, match="studio"):
        Studio.open(tmp_path)


def test_another_file_is_not_taken_for_a_studio(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(b"something else" * 1000)
    with pytest.raises(InputError, match="no database of a studio"):
        Database(tmp_path / "x.sqlite")
    with sqlite3.connect(tmp_path / "y.sqlite") as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match="format 99"):
        Database(tmp_path / "y.sqlite")


def test_lines_of_other_studios_stay(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "human.jsonl"
    file.write_text(json.dumps({"studio": "other"}) + "\n")
    write_verdicts(database, file)
    assert json.loads(file.read_text()) == {"studio": "other"}
