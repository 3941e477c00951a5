"""Votes survive kill -9."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.studio.browser import Browser
from tests.studio.small import paths

ROOT = Path(__file__).parents[2]


def start(home: Path, port: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    command = [sys.executable, str(ROOT / "tests/studio/small.py"), str(home), str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/", timeout=5)
            return process
        except httpx.TransportError:
            assert process.poll() is None
            time.sleep(0.1)


@pytest.mark.slow
def test_a_vote_that_was_answered_is_there_after_a_kill_and_one_that_was_not_can_be_sent_again(
    tmp_path: Path, pools: Path
) -> None:
    import shutil

    where = paths(tmp_path)
    shutil.copytree(pools, where.folder / "pools")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(tmp_path, port)
    browser = Browser.at(f"http://127.0.0.1:{port}")
    answered: list[int] = []
    threading.Timer(0.35, process.send_signal, [signal.SIGKILL]).start()
    unanswered = None
    while unanswered is None:  # votes as fast as they go, until one meets the kill
        showing, fields = browser.showing(), browser.form("/vote") | {"choice": "skip", "more": "yes"}
        try:
            response = browser.client.post("/vote", data=fields)
            browser.page = response.text
            answered.append(showing)
            if response.status_code == 429:
                answered.pop()
                time.sleep(0.05)
                browser.page = browser.client.get("/choose").text
        except httpx.TransportError:
            unanswered = fields
    process.wait()
    process = start(tmp_path, port)
    try:
        assert browser.client.post("/vote", data=unanswered).status_code == 200  # as studio.js does
        with sqlite3.connect(where.database) as database:
            rows = database.execute("SELECT showing, count(*) FROM votes WHERE undone_at IS NULL GROUP BY showing")
            votes = dict(rows.fetchall())
        assert votes == dict.fromkeys([*answered, int(unanswered["showing"])], 1)
        assert answered
    finally:
        process.kill()
        process.wait()
