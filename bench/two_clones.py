"""A machine with a GPU here, a laptop with the UI there, S3 between them: `python bench/two_clones.py` (five minutes).

Needs `pip install "moto[server]" dvc-s3`: the remote is a real server process that speaks S3. What `make send-results`
and `make get-results` run is run in two clones of the project of bench/small_project.py (the real graph, stand-ins for
the stages that need a model). Then the laptop has the same dvc.lock, computes nothing, and its UI shows every stage as
materialised, with metadata.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import small_project
from rich.console import Console
from served import dagster_dev, graphql, stale, until

S3_PORT, UI_PORT = 3444, 3445
ACCESS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
SEND = ([*small_project.DVC, "--wait-for-lock", "repro"], [sys.executable, "-m", "orchestration.record", "--push"])
GET = (["git", "pull", "--ff-only"], [*small_project.DVC, "--wait-for-lock", "pull", "--run-cache"])
SHOWN = """{assetNodes {assetKey {path} staleStatus computeKind
  assetMaterializations(limit: 1) {metadataEntries {label}}}}"""


def do(root: Path, *commands: list[str]) -> str:
    return "".join(small_project.run(root, command).stdout for command in commands)


def clone(origin: Path, root: Path) -> Path:
    subprocess.run(["git", "clone", "-q", origin, root], check=True)
    (root / ".dagster").mkdir()
    (root / ".dagster/dagster.yaml").write_text((small_project.ROOT / "orchestration/dagster.yaml").read_text())
    do(
        root,
        [*small_project.DVC, "remote", "add", "--local", "-d", "mine", "s3://ppd/store"],
        [*small_project.DVC, "remote", "modify", "--local", "mine", "endpointurl", f"http://127.0.0.1:{S3_PORT}"],
        ["git", "config", "user.name", "a"],
        ["git", "config", "user.email", "a@b"],
    )
    return root


def prove(folder: Path) -> dict[str, Any]:
    import boto3

    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{S3_PORT}").create_bucket(Bucket="ppd")
    maker, origin = folder / "maker", folder / "origin"
    maker.mkdir()
    small_project.build(maker, None, first_run=False)
    do(maker, ["git", "add", "-A"], ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "project"])
    subprocess.run(["git", "clone", "-q", "--bare", maker, origin], check=True)
    gpu, laptop = clone(origin, folder / "gpu"), clone(origin, folder / "laptop")
    (gpu / "data").mkdir(exist_ok=True)
    subprocess.run(["cp", "-r", str(maker / "data"), str(gpu)], check=True)

    started = time.monotonic()
    ran = do(gpu, *SEND).count("Running stage")
    sent = time.monotonic()
    do(laptop, *GET)
    got = time.monotonic()
    again = do(laptop, [*small_project.DVC, "repro"])
    found: dict[str, Any] = {
        "stages run on the machine with a GPU": ran,
        "stages run on the laptop": again.count("Running stage"),
        "the same dvc.lock": (gpu / "dvc.lock").read_bytes() == (laptop / "dvc.lock").read_bytes(),
        "dvc status": json.loads(do(laptop, [*small_project.DVC, "status", "--json"])),
        "send-results, s": round(sent - started, 1),
        "get-results, s": round(got - sent, 1),
    }
    with dagster_dev(laptop, UI_PORT, small_project.environment(laptop)) as base:
        ask = partial(graphql, base)
        until(lambda: not stale(base), 300, "the UI does not show the results")
        nodes = ask(SHOWN)["assetNodes"]
    shown = {"/".join(node["assetKey"]["path"]): node for node in nodes}
    wanted = ("models/ppd", "artifacts/preferences", "reports/win_rates.json", "artifacts/users.parquet")
    found["labels in the UI"] = {
        path: [entry["label"] for entry in shown[path]["assetMaterializations"][0]["metadataEntries"]][:4]
        for path in wanted
    }
    return found


def main() -> None:
    os.environ.update(ACCESS)
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(S3_PORT)], stderr=subprocess.DEVNULL)
    try:
        time.sleep(5)
        with tempfile.TemporaryDirectory() as folder:
            found = prove(Path(folder))
    finally:
        server.terminate()
        server.wait()
    Console().print(found)
    lost = found["stages run on the laptop"] or found["dvc status"] or not found["the same dvc.lock"]
    sys.exit(bool(lost) or not all(found["labels in the UI"].values()))


if __name__ == "__main__":
    main()
