"""Two hosts train together, one of them is killed: `python bench/two_hosts.py` (as root on Linux; about five minutes).

Two network namespaces with addresses of their own, a virtual cable between them, and no other way out: as two
machines that share a disk. On each torchrun starts `ppd stage finetune`, as the files in deploy/ do, and is started
again when it fails, as a cluster does. Once nobody is disturbed; once the second host is killed with all that runs on
it, once the first, where the two meet. Weights and curve must be the same bytes each time.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.soak_kills import SETTINGS, copy, make_project, outputs  # noqa: E402 (after the path)

HOSTS = {"ppd-first": "10.213.7.1", "ppd-second": "10.213.7.2"}
PORT = 29400
STEPS, CHECKPOINT_EVERY = 300, 20
STARTS_AT_MOST = 6
TRAINED = "artifacts/trained/"


@dataclass(frozen=True)
class Trained:
    """One training by both hosts. seconds: wall time; starts: how often torchrun was started, by host."""

    killed: str
    seconds: float
    starts: dict[str, int]
    same_bytes: bool


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def two_hosts() -> Iterator[None]:
    """Network namespaces that see nothing but each other."""
    try:
        for host in HOSTS:
            run("ip", "netns", "add", host)
        first, second = HOSTS
        run("ip", "link", "add", "cable", "netns", first, "type", "veth", "peer", "cable", "netns", second)
        for host, address in HOSTS.items():
            inside = ("ip", "-n", host)
            run(*inside, "addr", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                run(*inside, "link", "set", device, "up")
        yield
    finally:
        for host in HOSTS:
            kill(host)
            subprocess.run(["ip", "netns", "delete", host], check=False, capture_output=True)


def kill(host: str) -> None:
    """End all that runs on a host, at once and unasked."""
    found = subprocess.run(["ip", "netns", "pids", host], check=False, capture_output=True, text=True).stdout
    for pid in found.split():
        subprocess.run(["kill", "-9", pid], check=False, capture_output=True)


def agent(host: str) -> list[str]:
    """torchrun on a host, as in deploy/slurm/start.sh."""
    first = next(iter(HOSTS))
    return [
        *("ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes=2", "--nproc-per-node=1", "--max-restarts=3", f"--local-addr={HOSTS[host]}"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint={HOSTS[first]}:{PORT}", "--rdzv-id=two-hosts"),
        f"--rdzv-conf=is_host={int(host == first)}",
        *("--no-python", sys.executable, "-c", "from ppd.cli import main; main()"),
        *("stage", "finetune", "--method", "ppd"),
    ]


class Host(threading.Thread):
    """Starts torchrun on a host, and again when it fails."""

    def __init__(self, host: str, project: Path) -> None:
        super().__init__()
        self.host, self.project, self.starts, self.ended_well = host, project, 0, False

    def run(self) -> None:
        environment = os.environ | {"GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        while not self.ended_well and self.starts < STARTS_AT_MOST:
            self.starts += 1
            with (self.project / f"{self.host}.log").open("a") as log:
                command = agent(self.host)
                done = subprocess.run(command, cwd=self.project, env=environment, stdout=log, stderr=log, check=False)
            self.ended_well = done.returncode == 0


def train(project: Path, killed: str | None) -> tuple[float, dict[str, int]]:
    """Both hosts train in `project`; `killed` is killed after the first checkpoint."""
    began = time.monotonic()
    hosts = [Host(host, project) for host in HOSTS]
    for host in hosts:
        host.start()
    if killed is not None:
        while not list(project.glob("runs/unfinished/ppd/*/checkpoint.safetensors")):
            if not any(host.is_alive() for host in hosts):
                break
            time.sleep(0.1)
        kill(killed)
    for host in hosts:
        host.join()
    if not all(host.ended_well for host in hosts):
        logs = "\n".join((project / f"{host}.log").read_text()[-3000:] for host in HOSTS)
        raise SystemExit(f"the training did not end well:\n{logs}")
    return time.monotonic() - began, {host.host: host.starts for host in hosts}


def prepare(project: Path) -> None:
    """All that training needs, by the stages before it."""
    training = {"steps": STEPS, "checkpoint_every_steps": CHECKPOINT_EVERY, "evaluate_every_steps": STEPS}
    settings = SETTINGS.model_copy(update={"finetune": SETTINGS.finetune.model_copy(update=training)})
    make_project(project, settings)
    shards = [("embed", "--shard", f"s-{at:02}") for at in range(settings.preferences.n_shards)]
    for stage in (("ingest",), ("truth",), ("encode",), *shards, ("users",)):
        command = [sys.executable, "-c", "from ppd.cli import main; main()", "stage", *stage]
        subprocess.run(command, cwd=project, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        raise SystemExit("two_hosts.py needs Linux, root and the command `ip` (iproute2): it makes network namespaces")
    with tempfile.TemporaryDirectory(prefix="two-hosts-") as folder:
        work = Path(folder)
        prepare(work / "project")
        runs, expected = [], None
        for killed in (None, *reversed(HOSTS)):
            project = copy(work / "project", work / "trained")
            with two_hosts():
                seconds, starts = train(project, killed)
            left = {name: digest for name, digest in outputs(project).items() if name.startswith(TRAINED)}
            left = {name: digest for name, digest in left.items() if not name.endswith("config.json")}  # the commit
            expected = expected or left
            runs.append(Trained(killed or "nobody", round(seconds, 1), starts, bool(left) and left == expected))
            print(runs[-1], flush=True)
    result = {"runs": [asdict(one) for one in runs], "steps": STEPS, "checkpoint_every_steps": CHECKPOINT_EVERY}
    result |= {"machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"}
    (ROOT / "bench/results/two_hosts.json").write_text(json.dumps(result, indent=2) + "\n")
    if not all(one.same_bytes for one in runs):
        raise SystemExit("not the same bytes")


if __name__ == "__main__":
    main()
