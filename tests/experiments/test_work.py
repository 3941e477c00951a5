"""What a killed experiment goes on from."""

from pathlib import Path

from ppd.experiments.settings import WaySettings
from ppd.experiments.work import work_for


def test_the_same_run_finds_what_it_left_and_another_finds_nothing(tmp_path: Path):
    weights = tmp_path / "weights"
    weights.write_bytes(b"1")

    def work(n_interpolations: int) -> Path:
        return work_for(tmp_path / "work", [WaySettings(n_interpolations=n_interpolations)], [weights])

    (work(1) / "done").touch()
    assert (work(1) / "done").exists()
    assert not (work(2) / "done").exists()
    (work(1) / "done").touch()  # what the first run had left is gone by now
    weights.write_bytes(b"2")
    assert list(work(1).iterdir()) == []
    assert len(list((tmp_path / "work").iterdir())) == 1
