"""Work that is longer than a tick goes on, is done once, and tells of its errors."""

import threading

import pytest

from orchestration import sensors
from orchestration.background import Background, StillWorking


def test_it_goes_on_between_ticks_and_is_not_begun_twice():
    go, begun = threading.Event(), []

    def work() -> int:
        begun.append(1)
        go.wait(30)
        return len(begun)

    background = Background(work)
    for _ in range(2):
        with pytest.raises(StillWorking):
            background.result(0.05)
    go.set()
    assert background.result(30) == 1
    assert background.result(30) == 2, "asked again, it is done again"


def test_its_error_is_raised_where_the_result_is_asked_for():
    background = Background(lambda: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            background.result(30)


def test_a_tick_says_that_hashing_goes_on(project, monkeypatch):
    go = threading.Event()
    read = sensors.read_workspace
    monkeypatch.setattr(sensors, "read_workspace", lambda root: (go.wait(30), read(root))[1])
    monkeypatch.setattr(sensors, "SECONDS_PER_TICK", 0.05)
    assert "goes on until the next tick" in project.tick()
    go.set()
    monkeypatch.setattr(sensors, "SECONDS_PER_TICK", 30.0)
    assert project.tick().startswith("Reported ")
    assert project.tick() == "Nothing changed."
