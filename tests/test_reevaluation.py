"""Re-evaluation: fresh noises by date, what was there when it began, a history that loses no line."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ppd import pinned
from ppd import stages as stages_module
from ppd.cli import app
from ppd.errors import InputError
from ppd.layout import Layout
from ppd.reevaluation import ADAPTERS, BEGUN, MADE, READ, STAGES, evaluation_of, history, reevaluate
from ppd.settings import Settings, load_settings
from ppd.stage_times import latest, timed
from ppd.users.whitening import Whitening

SETTINGS = Settings()
MONDAY, TUESDAY = datetime(2026, 1, 5, 6), datetime(2026, 1, 6, 6)


def write_adapters(root: Path, weights: str, whitening: str = "") -> None:
    for name in ADAPTERS:
        folder = root / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"base": "nano", "whitening": whitening}))
        fresh = folder / "fresh"
        fresh.write_text(weights)
        fresh.replace(folder / "adapter.safetensors")  # as stages do: replaced, never changed


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pinned, "_LOOK_EVERY_S", 0.01)
    layout = Layout(tmp_path)
    for folder in (layout.data, layout.preferences, layout.truth, layout.users / "s-00"):
        folder.mkdir(parents=True)
    for file in (layout.manifest, layout.preferences / "captions.parquet", layout.shard("s-00")):
        file.write_text("1")
    Whitening(torch.zeros(1, 2), torch.zeros(1, 2, 2)).save(layout.whitening)
    write_adapters(tmp_path, "1")
    return tmp_path


class Stages:
    """Stands for the stages: writes down its calls, and the first seed and the adapter as the win rate."""

    def __init__(self, fail_at: str | None = None, meanwhile=lambda: None) -> None:
        self.ran: list[str] = []
        self.fail_at, self.meanwhile = fail_at, meanwhile

    def __call__(self, arguments, folder: Path) -> None:
        self.ran.append(" ".join(arguments))
        [name] = [name for name, asked in STAGES.items() if asked == arguments]
        with timed(name, Layout(folder).stage_times):
            if arguments[0] == self.fail_at:
                raise RuntimeError("out of memory")
            self.meanwhile()
            if arguments[0] == "report":
                seed = load_settings(folder / "params.yaml").evaluation.first_seed
                (folder / "reports").mkdir(exist_ok=True)
                rate = {"win_rate": seed, "adapter": (folder / "models/ppd/adapter.safetensors").read_text()}
                (folder / "reports" / "win_rates.json").write_text(json.dumps([rate]))


def test_two_timestamps_share_no_noise_and_a_timestamp_has_always_the_same():
    n_seeds = SETTINGS.evaluation.n_seeds
    assert evaluation_of(MONDAY + timedelta(minutes=1), SETTINGS).first_seed - n_seeds == (
        evaluation_of(MONDAY, SETTINGS).first_seed
    )
    monday, tuesday = (evaluation_of(day, SETTINGS).first_seed for day in (MONDAY, TUESDAY))
    assert tuesday - monday >= n_seeds
    assert monday >= SETTINGS.evaluation.first_seed + n_seeds
    assert monday == evaluation_of(MONDAY, SETTINGS).first_seed


def test_the_stages_run_in_order_with_the_seeds_of_the_date(root):
    stages = Stages()
    line = reevaluate(root, SETTINGS, MONDAY, stages)
    assert stages.ran == [" ".join(stage) for stage in STAGES.values()]
    assert line["win_rates"][0]["win_rate"] == evaluation_of(MONDAY, SETTINGS).first_seed
    assert history(root) == [line]


def test_all_other_settings_stay(root):
    reevaluate(root, SETTINGS, MONDAY, Stages())
    used = load_settings(root / "runs/reevaluations/2026-01-05T06:00/params.yaml")
    assert used.evaluation == evaluation_of(MONDAY, SETTINGS)
    assert used.model_copy(update={"evaluation": SETTINGS.evaluation}) == SETTINGS


def stages_in_parts(arguments, folder: Path) -> None:
    """Stands for stages that go on where they were: each makes three parts, if they are not there.

    Beside the folder stands what was made, in order.
    """
    name = "-".join(arguments)
    for part in range(3):
        if not (file := folder / f"{name}.{part}").exists():
            time.sleep(0.002)
            file.write_text("made")
            with (folder.parent / "made").open("a") as made:
                made.write(f"{file.name}\n")
    Stages()(arguments, folder)


def killed_after(seconds: float, run: Callable[[], object]) -> bool:
    """Run it in a process that is killed after a while; whether it had ended before."""
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(seconds)
    ended = process.exitcode is not None
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return ended


def test_killed_again_and_again_it_leaves_one_line_and_makes_nothing_twice(root):
    """At 30 moments, the clean-up after the line included."""
    whole = reevaluate(root, SETTINGS, MONDAY, Stages())
    Layout(root).history.unlink()
    began = time.monotonic()
    reevaluate(root, SETTINGS, MONDAY, stages_in_parts)
    took, chance = time.monotonic() - began, random.Random(0)
    Layout(root).history.unlink()
    journal = Layout(root).reevaluations / "made"
    journal.unlink()
    kills, ended = 0, False
    while kills < 30 or not ended:
        limit = chance.uniform(0.1, 1.0) * took if kills < 30 else 60.0
        ended = killed_after(limit, lambda: reevaluate(root, SETTINGS, MONDAY, stages_in_parts))
        if ended:
            assert history(root) == [whole]
            made = journal.read_text().splitlines() if journal.exists() else []
            assert len(made) == len(set(made)) <= 3 * len(STAGES)
            journal.unlink(missing_ok=True)
        else:
            kills += 1
            assert history(root) in ([], [whole])
            if history(root):  # killed in the clean-up: once more is a new evaluation
                journal.unlink(missing_ok=True)
    assert len(list(Layout(root).reevaluations.glob(f"2026*/{BEGUN}"))) == 0


def test_history_is_by_date_and_a_repeated_date_is_evaluated_again_and_replaces_its_line(root):
    for day in (TUESDAY, MONDAY):
        reevaluate(root, SETTINGS, day, Stages())
    write_adapters(root, "2")
    stages = Stages()
    reevaluate(root, SETTINGS, TUESDAY, stages)
    assert len(stages.ran) == len(STAGES)
    assert [(line["date"], line["win_rates"][0]["adapter"]) for line in history(root)] == [
        ("2026-01-05T06:00", "1"), ("2026-01-06T06:00", "2"),
    ]  # fmt: skip


def test_a_failed_evaluation_leaves_no_line_and_goes_on_where_it_was(root):
    with pytest.raises(RuntimeError):
        reevaluate(root, SETTINGS, MONDAY, Stages(fail_at="judge"))
    assert history(root) == []
    again = Stages()
    reevaluate(root, SETTINGS, MONDAY, again)
    assert again.ran == ["judge", "report"]


def test_a_stage_that_had_ended_when_its_process_was_still_going_is_not_run_again(root):
    stages = Stages()

    def killed_at_its_end(arguments, folder: Path) -> None:
        stages(arguments, folder)
        raise KeyboardInterrupt

    for _ in STAGES:
        with pytest.raises(KeyboardInterrupt):
            reevaluate(root, SETTINGS, MONDAY, killed_at_its_end)
    reevaluate(root, SETTINGS, MONDAY, stages)
    assert stages.ran == [" ".join(stage) for stage in STAGES.values()]


def test_the_stages_themselves_note_their_end_under_the_names_that_are_looked_for(monkeypatch, tmp_path):
    """By the command line's own way, with stages that do nothing."""
    monkeypatch.chdir(tmp_path)
    for name in {arguments[0] for arguments in STAGES.values()}:
        monkeypatch.setattr(stages_module, name, lambda *_: None)
    (tmp_path / "params.yaml").write_text("launch: {processes: 1, training: 1}\n")
    for arguments in STAGES.values():
        assert CliRunner().invoke(app, ["stage", *arguments]).exit_code == 0
    assert [run.stage for run in latest(Layout(tmp_path).stage_times)] == [*STAGES]


def test_it_begins_anew_where_models_or_settings_are_others_than_before_it_was_killed(root):
    for change in (lambda: write_adapters(root, "2"), lambda: None):
        with pytest.raises(RuntimeError):
            reevaluate(root, SETTINGS, MONDAY, Stages(fail_at="judge"))
        change()
    other = SETTINGS.model_copy(update={"sampling": SETTINGS.sampling.model_copy(update={"steps": 2})})
    again = Stages()
    reevaluate(root, other, MONDAY, again)
    assert len(again.ran) == len(STAGES)


def test_models_that_are_replaced_meanwhile_change_nothing(root):
    line = reevaluate(root, SETTINGS, MONDAY, Stages(meanwhile=lambda: write_adapters(root, "2")))
    assert line["win_rates"][0]["adapter"] == "1"
    after = reevaluate(root, SETTINGS, TUESDAY, Stages())
    assert after["win_rates"][0]["adapter"] == "2"
    assert {name for name in line["made_with"] if line["made_with"][name] != after["made_with"][name]} == {"adapter"}


def test_models_that_were_changed_in_place_are_no_result(root):
    def spoil() -> None:
        (root / "models/ppd/adapter.safetensors").write_text("another")

    with pytest.raises(InputError, match="changed in place"):
        reevaluate(root, SETTINGS, MONDAY, Stages(meanwhile=spoil))
    assert history(root) == []


def test_models_of_other_embeddings_than_the_users_have_are_refused(root):
    write_adapters(root, "1", whitening="0123456789abcdef")
    with pytest.raises(InputError, match="whitening 0123456789abcdef.*trained anew"):
        reevaluate(root, SETTINGS, MONDAY, Stages())


def test_while_a_stage_makes_models_it_waits_and_says_who_makes_them(root):
    lock = root / ".dvc/tmp/rwlock"
    lock.parent.mkdir(parents=True)
    holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    lock.write_text(json.dumps({"write": {str(root / "models/ppd"): {"pid": holder.pid, "cmd": "dvc repro"}}}))
    said: list[str] = []
    stages = Stages()
    thread = threading.Thread(target=reevaluate, args=(root, SETTINGS, MONDAY, stages, said.append))
    thread.start()
    deadline = time.monotonic() + 30
    while not said and time.monotonic() < deadline:
        time.sleep(0.01)
    assert said == [f"being made: models/ppd (process {holder.pid}); waiting for it"]
    assert stages.ran == []
    holder.kill()
    holder.wait()  # as with DVC itself: who is gone holds nothing
    thread.join(30)
    assert len(stages.ran) == len(STAGES)

    lock.write_text(json.dumps({"write": {str(root / "artifacts/users/s-00"): {"pid": os.getpid(), "cmd": "x"}}}))
    with pytest.raises(InputError, match=r"still being made after 0 h: artifacts/users/s-00 \(process \d+\)"):
        pinned.wait_until_made(root, MADE, said.append, limit_s=0)
    lock.write_text(json.dumps({"write": {str(root / "artifacts/latents"): {"pid": os.getpid(), "cmd": "x"}}}))
    pinned.wait_until_made(root, MADE, said.append, limit_s=0)


def test_what_a_running_stage_has_taken_away_is_waited_for_and_not_missed(root):
    """As found by the soak: DVC removes a stage's outputs before it runs."""
    lock, truth = root / ".dvc/tmp/rwlock", root / "artifacts/truth"
    lock.parent.mkdir(parents=True)
    holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    lock.write_text(json.dumps({"write": {str(truth): {"pid": holder.pid, "cmd": "dvc repro"}}}))
    truth.rmdir()

    def made(words: str) -> None:
        assert words == f"being made: artifacts/truth (process {holder.pid}); waiting for it"
        truth.mkdir()
        holder.kill()
        holder.wait()

    stages = Stages()
    reevaluate(root, SETTINGS, MONDAY, stages, made)
    assert len(stages.ran) == len(STAGES)
    truth.rmdir()
    with pytest.raises(InputError, match="artifacts/truth is gone, and nobody makes it"):
        pinned.pin(root, MADE, root / "pinned", print)


def test_what_is_replaced_while_it_is_linked_is_linked_again(root, monkeypatch: pytest.MonkeyPatch):
    link, once = pinned._link, iter([True])

    def interrupted(source: Path, target: Path) -> None:
        link(source, target)
        if next(once, False):
            write_adapters(root, "2")

    monkeypatch.setattr(pinned, "_link", interrupted)
    pinned.pin(root, MADE, root / "pinned", print)
    found = {(root / "pinned/models" / name / "adapter.safetensors").read_text() for name in ADAPTERS}
    assert found == {"2"}


def test_of_those_that_end_together_no_line_is_lost(root):
    days = [MONDAY + timedelta(days=day) for day in range(12)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda day: reevaluate(root, SETTINGS, day, Stages()), days))
    assert len(history(root)) == len(days)


def test_a_timestamp_is_evaluated_by_one_process_at_a_time(root):
    def again() -> None:
        with pytest.raises(InputError, match="another process evaluates 2026-01-05T06:00"):
            reevaluate(root, SETTINGS, MONDAY, Stages())

    reevaluate(root, SETTINGS, MONDAY, Stages(meanwhile=again))


def test_without_models_it_says_what_to_run(tmp_path):
    assert READ[0] == "data"
    with pytest.raises(InputError, match=r"no data, models.*dvc repro"):
        reevaluate(tmp_path, SETTINGS, MONDAY, Stages())
