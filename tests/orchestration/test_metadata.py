"""What the UI shows: numbers that are the files' own, pictures that can be decoded, and never too much of it."""

import base64
import io
import json
import re
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from dvc.repo import Repo
from markdown_it import MarkdownIt
from PIL import Image

from orchestration.metadata import N_IMAGES, N_USERS, SHOWN, describe, describe_history, describe_user
from orchestration.pictures import Markdown, images, table
from ppd.preferences.store import Preferences
from ppd.users.embeddings import SCHEMA

ROOT = Path(__file__).parents[2]


def pictures(markdown: str) -> list[Image.Image]:
    """The images inside the markdown."""
    encoded = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", markdown)
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in encoded]


def png(shade: int, size: int = 64) -> bytes:
    Image.new("RGB", (size, size), (shade, shade, shade)).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def root(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real preferences; made-up embeddings of all users, and samples for eight users in 128 px."""
    root = tmp_path_factory.mktemp("shown")
    (root / "artifacts").mkdir()
    (root / "artifacts/preferences").symlink_to(simulated / "preferences")
    users = Preferences.open(simulated / "preferences").users
    rng = np.random.default_rng(0)
    for shard, group in users.groupby("shard"):
        rows = [
            {"user_id": user_id, "support_group": k, "key": f"{user_id}{k}", "profile": "likes | ink"}
            for user_id, n in zip(group.user_id, group.n_support_groups, strict=True)
            for k in range(n)
        ]
        table = pd.DataFrame(rows).assign(hidden=list(rng.normal(size=(len(rows), 12)).astype("float32")))
        (root / "artifacts/users" / shard).mkdir(parents=True)
        table.to_parquet(root / "artifacts/users" / shard / "embeddings.parquet")
    manifest = users.assign(profile="likes | ink", embedding_norm=3.0, version="v")
    manifest.to_parquet(root / "artifacts/users.parquet", index=False)
    requests = [(user, f"caption {c}", c) for user in users.user_id[:8] for c in range(10)]
    mine = pd.DataFrame(requests, columns=["user_id", "caption", "seed"]).assign(png=png(200, 128))
    base = mine.drop_duplicates(["caption", "seed"]).assign(user_id="", png=png(50, 128))
    for method, table in {"ppd": mine, "base": base}.items():
        (root / "artifacts/samples" / method).mkdir(parents=True)
        table.to_parquet(root / "artifacts/samples" / method / "images.parquet")
    return root


def test_every_output_of_the_pipeline_has_something_to_show():
    with Repo(str(ROOT)) as repo:
        outs = {
            Path(out.fs_path).relative_to(ROOT).as_posix()
            for stage in repo.index.stages
            if stage.path_in_repo != "experiments/dvc.yaml"
            for out in stage.outs
        }
    silent = {out for out in outs if not any(PurePosixPath(out).match(pattern) for pattern, _, _ in SHOWN)}
    assert silent == {"data", "artifacts/whitening.safetensors"}


def test_nothing_is_shown_of_what_has_not_been_made(tmp_path):
    assert describe(tmp_path, "models/ppd") == {}
    (tmp_path / "models/ppd").mkdir(parents=True)
    assert describe(tmp_path, "models/ppd") == {}


def test_what_cannot_be_shown_keeps_nothing_from_being_reported(tmp_path):
    (tmp_path / "models/ppd").mkdir(parents=True)
    (tmp_path / "models/ppd/curve.csv").write_text("half of a f")
    assert describe(tmp_path, "models/ppd")["not shown"].startswith("KeyError")


def test_counts_of_ingestion_are_those_of_its_summary(root):
    shown = describe(root, "artifacts/preferences")
    summary = json.loads((root / "artifacts/preferences/summary.json").read_text())
    assert (shown["rows"], shown["pairs"], shown["users"]) == tuple(
        summary[f"n_{n}"] for n in ("rows", "pairs", "users")
    )
    assert shown["rows"] == shown["pairs"] + shown["rows refused"] + shown["rows dropped"]
    for reason, n in summary["refused"].items():
        assert f"| {reason} | {n} |" in shown["refused, by reason"].value


def test_the_grid_puts_a_users_images_beside_those_of_the_base(root):
    shown = describe(root, "artifacts/samples/ppd")["base | personalised"].value
    lines = shown.splitlines()
    assert lines[0] == "| user | base | ppd |"
    assert len(lines) == 2 + N_USERS
    for line in lines[2:]:
        left, right = (image.convert("L") for image in pictures(line))
        assert left.size == right.size == (N_IMAGES * 68 - 4, 64), "thumbnails, whatever the size drawn"
        assert (left.getpixel((10, 10)), right.getpixel((10, 10))) == (50, 200)


def test_the_map_holds_all_users_and_a_profile_cannot_break_the_table(root):
    shown = describe(root, "artifacts/users.parquet")
    assert shown["users"] == len(pd.read_parquet(root / "artifacts/users.parquet"))
    [drawn] = pictures(shown["map of users"].value)
    assert drawn.size[0] > 400
    rows = shown["manifest"].value.splitlines()
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}


HOSTILE = [
    "a | b",
    "![](https://example.org/x.png)",
    "[x](https://example.org) <img src=x> <!-- ",
    "`code` *bold* __init__ ~~gone~~ \\| \\\\|",
    "one line\n| another | row |\n\n# title",
    "&lt;b&gt; &amp;",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_mark_in_a_text_gets_out_of_its_cell(text):
    """Read by another Markdown reader: one table, one row, the text itself in it and nothing else."""
    shown = table([{"caption": text, "n_pairs": 1, "drawn": Markdown("![](data:image/png;base64,AA==)")}])
    tokens = MarkdownIt("gfm-like", {"linkify": False, "html": False}).parse(shown)
    kinds = [token.type for token in tokens]
    assert kinds.count("table_open") == 1
    assert kinds.count("tr_open") == 2
    cells = [token for token in tokens if token.type == "inline"][3:]
    assert [child.type for child in cells[0].children] == ["text"]
    assert cells[0].children[0].content == " ".join(text.split())
    assert [child.type for child in cells[2].children] == ["image"]


def test_a_shard_without_users_and_a_log_without_refusals(tmp_path):
    shard = tmp_path / "artifacts/users/s-02/embeddings.parquet"
    shard.parent.mkdir(parents=True)
    pq.write_table(SCHEMA.empty_table(), shard)
    assert describe(tmp_path, "artifacts/users/s-02") == {"users": 0, "embeddings": 0}
    assert table([]) == "nothing"
    assert images([]) == "nothing"


def test_a_user_is_shown_with_what_they_chose_and_what_was_drawn_for_them(root):
    known = Preferences.open(root / "artifacts/preferences")
    user_id = known.users.user_id[0]
    shown = describe_user(root, user_id)
    support = known.pairs[(known.pairs.user_id == user_id) & (known.pairs.support_group == 0)]
    chosen, _ = pictures(shown["chose | rejected"].value)
    assert chosen.size == (len(support) * 68 - 4, 64)
    assert shown["pairs"] == (known.pairs.user_id == user_id).sum()
    assert len(pictures(shown["base | personalised"].value)) == 2
    assert "base | personalised" not in describe_user(root, known.users.user_id[9]), "nothing was drawn for them"


@pytest.mark.parametrize("outcome", [np.nan, 1.0], ids=["void", "verdicts"])
def test_a_judge_that_said_nothing_has_counts_and_no_rates(tmp_path, outcome):
    folder = tmp_path / "artifacts/verdicts"
    folder.mkdir(parents=True)
    table = pd.DataFrame({"outcome": [outcome] * 3, "consistent": [outcome == 1] * 3, "correct": [outcome] * 3})
    table.to_parquet(folder / "vlm.parquet")
    table.to_parquet(folder / "choices.parquet")
    told = describe(tmp_path, "artifacts/verdicts")
    assert told["void, vlm"] == told["void, held-out choices"] == (0 if outcome == 1 else 3)
    assert told.get("consistent when swapped") == (1.0 if outcome == 1 else None)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/win_rates.json").write_text("[]")
    assert describe(tmp_path, "reports/win_rates.json")["win rates"].value == "nothing"


def test_five_thousand_users_stay_a_small_event(tmp_path):
    n = 5000
    users = pd.DataFrame({"user_id": [str(10**6 + at) for at in range(n)], "split": "train", "shard": "s-00"})
    users = users.assign(n_pairs=50, n_support_groups=3, profile="likes ink", embedding_norm=1.0, version="0" * 16)
    (tmp_path / "artifacts/users/s-00").mkdir(parents=True)
    users.to_parquet(tmp_path / "artifacts/users.parquet")
    hidden = list(np.random.default_rng(0).normal(size=(n, 16)).astype("float32"))
    users[["user_id", "profile"]].assign(hidden=hidden).to_parquet(tmp_path / "artifacts/users/s-00/embeddings.parquet")
    for path in ("artifacts/users.parquet", "artifacts/users/s-00"):
        shown = describe(tmp_path, path)
        assert sum(len(str(getattr(value, "value", value))) for value in shown.values()) < 200_000


def test_the_trend_has_a_point_for_each_evaluation():
    entry = {"method": "ppd", "opponent": "base", "users": "unseen", "judge": "vlm", "pairing": "independent"}
    lines = [
        {
            "date": f"2026-01-0{day}",
            "made_with": {"adapter": str(day // 3), "users": "u"},
            "win_rates": [entry | {"win_rate": 0.7 + day / 100, "ci_low": 0.6, "ci_high": 0.9}],
        }
        for day in (1, 2, 3)
    ]
    shown = describe_history(lines, "2026-01-02")
    assert shown["win rate over base, unseen, vlm"] == 0.72
    assert shown["history"].value.count("2026-01-0") == 3
    assert len(pictures(shown["trend"].value)) == 1
    rows = shown["history"].value.splitlines()[2:]
    assert [row.split("|")[-2].strip() for row in rows] == ["adapter", "—", "—"], "newest first"
