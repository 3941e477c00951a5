"""Waiting for servers that a benchmark started, and the Dagster UI as one of them."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PATIENT = {"DAGSTER_GRPC_TIMEOUT_SECONDS": "600", "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD": "60"}
"""Of `make ui`, and the reason is in the Makefile."""


def until(done: Callable[[], object], within_s: float, otherwise: str, every_s: float = 0.5) -> None:
    """Wait for it; raises TimeoutError with `otherwise`."""
    deadline = time.monotonic() + within_s
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        time.sleep(every_s)


def reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def graphql(base: str, query: str, **variables: object) -> Any:
    """What Dagster's webserver at this address answers."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{base}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["data"]


def stale(base: str, but_group: str = "") -> list[str]:
    """Assets of the pipeline that Dagster calls stale or missing, apart from those of one group."""
    query = "{assetNodes {assetKey {path} staleStatus groupName}}"
    return [
        "/".join(node["assetKey"]["path"])
        for node in graphql(base, query)["assetNodes"]
        if node["staleStatus"] in ("STALE", "MISSING")
        and node["assetKey"]["path"][0] not in ("watched_users", "evaluations")
        and node["groupName"] != but_group
    ]


@contextmanager
def dagster_dev(root: Path, port: int, environment: Mapping[str, str]) -> Iterator[str]:
    """Webserver and daemon of the project in `root`, ended with all their children; yields their address."""
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    with (root / ".dagster/ui.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=root,
            env={**environment, **PATIENT},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    base = f"http://127.0.0.1:{port}"
    try:
        until(lambda: reachable(f"{base}/server_info"), 900, f"no webserver; see {root / '.dagster/ui.log'}")
        yield base
    finally:
        process.send_signal(signal.SIGINT)  # it ends its children one by one; on a busy machine some do not hear it
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
