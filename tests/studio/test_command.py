"""`ppd studio`, as far as it goes without serving."""

import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ppd.cli import app
from ppd.errors import InputError
from ppd.preferences.studio import SNAPSHOT
from ppd.studio.pool import Captions

PARAMS = str(Path(__file__).parents[2] / "params.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "TLS"),
        (["--host", "0.0.0.0", "--certificate", "cert.pem"], "both"),
        (["--certificate", "cert.pem", "--key", "key.pem"], "no such file"),
        (["--adapter", "nowhere"], "nowhere"),
        (["--password-file", "nowhere"], "cannot be read"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["studio", "--params", PARAMS, *options])
    assert isinstance(done.exception, InputError) and message in str(done.exception)
    assert not (tmp_path / "runs").exists()


def test_the_snapshot_is_written_where_ingestion_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["studio", "--params", PARAMS, "--publish"])
    assert done.exit_code == 0
    with sqlite3.connect(tmp_path / "data" / "choices" / SNAPSHOT) as snapshot:
        assert snapshot.execute("SELECT count(*) FROM choices").fetchone() == (0,)


@pytest.mark.parametrize("content", [b"one\ntwo\n", b"\xff\xfe\xff", b""])
def test_captions_of_ones_own_are_enough_lines_of_text(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "captions.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"captions\.txt"):
        Captions.of(tmp_path, file)
    with pytest.raises(InputError, match="--captions"):
        Captions.of(tmp_path, None)
