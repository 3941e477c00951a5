from pathlib import Path

from ppd.doctor import CHECKPOINTS, examine


def test_a_checkpoint_is_found_where_the_pipeline_looks_for_it(tmp_path: Path):
    before = {finding.topic: finding for finding in examine(tmp_path)}
    (tmp_path / "data/models/prior/prior").mkdir(parents=True)
    (tmp_path / "data/models/prior/prior/weights.safetensors").write_bytes(bytes(3 << 20))
    after = {finding.topic: finding for finding in examine(tmp_path)}
    assert before["data/models/prior"].state == "missing"
    assert before["data/models/prior"].advice == "dvc pull data.dvc"
    assert after["data/models/prior"].state == "ok"
    assert "3.0 MiB" in after["data/models/prior"].found
    assert {folder for folder, _ in CHECKPOINTS} <= set(after)


def test_installed_extras_are_told_from_absent_ones():
    found = {finding.topic: finding for finding in examine(Path.cwd())}
    assert found["extra dev"].state == "ok"  # these tests run in it
    assert {"processor", "memory", "disk", "python"} <= set(found)
