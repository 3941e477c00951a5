import pytest

from ppd.stage_times import latest, timed


def test_a_stage_that_succeeds_is_written_down_and_one_that_fails_is_not(tmp_path):
    journal = tmp_path / "runs" / "times.jsonl"
    assert latest(journal) == []
    with timed("a", journal):
        pass
    with pytest.raises(ZeroDivisionError), timed("b", journal):
        raise ZeroDivisionError
    [run] = latest(journal)
    assert run.stage == "a"
    assert 0 <= run.wall_s < 5
    assert run.peak_mib > 10


def test_latest_keeps_one_run_of_each_stage_in_order_of_running(tmp_path):
    for stage in ("a", "b", "a"):
        with timed(stage, tmp_path / "times.jsonl"):
            pass
    assert [run.stage for run in latest(tmp_path / "times.jsonl")] == ["b", "a"]


def test_a_line_that_a_power_cut_has_torn_is_no_run(tmp_path):
    journal = tmp_path / "times.jsonl"
    for stage in ("a", "b"):
        with timed(stage, journal):
            pass
    whole = journal.read_bytes()
    for torn in (whole[:-9], whole + b"\0\0\0\n", whole + b"\xff\n", whole + b"3\n", whole + b'{"stage": "c"}\n'):
        journal.write_bytes(torn)
        assert [run.stage for run in latest(journal)] == (["a"] if torn == whole[:-9] else ["a", "b"])
