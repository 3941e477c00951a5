"""What killed work goes on from."""

from pathlib import Path

from ppd.resumable import work_folder
from ppd.settings import SamplingSettings


def test_the_same_run_finds_what_it_left_and_another_finds_nothing(tmp_path: Path):
    weights = tmp_path / "weights"
    weights.write_bytes(b"1")

    def work(steps: int) -> Path:
        return work_folder(tmp_path / "work", [SamplingSettings(steps=steps)], [weights])

    (work(1) / "done").touch()
    assert (work(1) / "done").exists()
    assert not (work(2) / "done").exists()
    (work(1) / "done").touch()  # what the first run had left is gone by now
    weights.write_bytes(b"2")
    assert list(work(1).iterdir()) == []
    assert len(list((tmp_path / "work").iterdir())) == 1
