"""The command as a shell sees it: output, errors, exit codes."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PPD = Path(sys.executable).parent / "ppd"


def ppd(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PPD, *arguments], cwd=cwd, capture_output=True, text=True, check=False, env={"COLUMNS": "200", "PATH": ""}
    )


def test_help_answers_at_once():
    def cpu_seconds() -> float:  # what it takes on a machine with nothing else to do
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert ppd("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_seconds() for _ in range(5)) < 0.5


def test_help_names_every_command_with_what_it_does():
    shown = ppd("--help").stdout
    commands = "stage personalize sample judge settings times doctor data convert export pretrain studio"
    for command in commands.split():
        assert command in shown


def test_settings_prints_yaml_that_is_a_settings_file_again(tmp_path):
    first = ppd("settings")
    (tmp_path / "params.yaml").write_text(first.stdout)
    assert ppd("settings", cwd=tmp_path).stdout == first.stdout
    assert "temperature: 1.0" in first.stdout


def test_bad_settings_exit_with_2_and_no_traceback(tmp_path):
    (tmp_path / "params.yaml").write_text("people: {temprature: 1}")
    done = ppd("settings", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "ppd: params.yaml: settings that cannot be used:" in done.stderr
    assert "Did you mean people.temperature?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("stage",), ("stage", "no-such-stage"), ("stage", "ingest", "--shard", "s-00"), ("--nonsense",)],
)
def test_wrong_use_exits_with_2(arguments):
    done = ppd(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_defect_exits_with_1_and_shows_its_traceback(tmp_path):
    (tmp_path / "params.yaml").mkdir(mode=0)  # reading it is no defect ...
    assert ppd("settings", cwd=tmp_path).returncode == 2
    broken = "from ppd import cli, stage_times; stage_times.latest = lambda _: 1 / 0; cli.main()"  # ... and this is one
    done = subprocess.run([sys.executable, "-c", broken, "times"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_times_shows_the_last_run_of_each_stage(tmp_path):
    run = {"stage": "ingest", "started": "2026-01-02T03:04:05+00:00", "wall_s": 9.0, "cpu_s": 8.0, "peak_mib": 70.0}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/stage_times.jsonl").write_text(
        "".join(json.dumps(run | {"wall_s": wall}) + "\n" for wall in (123.4, 5.6))
    )
    shown = ppd("times", cwd=tmp_path).stdout
    assert "5.6 s" in shown
    assert "123.4" not in shown


def test_summary_before_ingestion_says_what_is_missing(tmp_path):
    done = ppd("data", "summary", cwd=tmp_path)
    assert done.returncode == 2
    assert "artifacts/preferences" in done.stderr


def test_a_picture_that_is_none_reaches_no_decoder_and_no_model(tmp_path):
    """An EPS named .png would start a program, if Pillow were let."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes((ROOT / "docs" / "people.png").read_bytes() + name.encode())
    (tmp_path / "eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    (tmp_path / "params.yaml").write_text("{}")
    header = "user,caption,image_a,image_b,choice\n"
    (tmp_path / "choices.csv").write_text(header + "ann,a fox,a.png,eps.png,a\n")
    done = ppd("personalize", ".", "--caption", "a fox", cwd=tmp_path)
    assert done.returncode == 2
    assert "choices.csv, row 0: image_undecodable: no JPEG, PNG, WEBP image" in done.stderr
    (tmp_path / "choices.csv").write_text(header + "ann,a fox,a.png,b.png,a\n")
    done = ppd("judge", ".", "a.png", "eps.png", "--caption", "a fox", cwd=tmp_path)
    assert done.returncode == 2
    assert "eps.png: image_undecodable: no JPEG, PNG, WEBP image" in done.stderr
