"""The soak's short form: webserver, daemon, shell, arrivals, schedule, a cancel and a kill, and nothing is lost."""

import importlib.util
import socket
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench/soak.py"


@pytest.mark.slow
def test_nothing_is_lost_between_the_two_doors(tmp_path):
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    soak = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = soak  # as dataclasses expect it
    spec.loader.exec_module(soak)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    soak.build(tmp_path, None)
    figures = soak.soak(tmp_path, 0.5, 3, print, port)
    assert figures["lost"] == {}
    assert figures["happened"]
