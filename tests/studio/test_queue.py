"""Turns, places, and jobs that fail."""

import threading
import time

from ppd.studio.queue import BACKGROUND, Queue


def test_visitors_take_turns_and_the_background_comes_last() -> None:
    queue, done = Queue(max_jobs=20, max_of_one=9), []
    queue.add(BACKGROUND, "pool", lambda: done.append("pool"))
    for owner, n in (("ann", 3), ("ben", 1), ("cleo", 2)):
        for at in range(n):
            queue.add(owner, f"{owner} {at}", lambda name=f"{owner} {at}": done.append(name))
    assert queue.place("ann 0").n_before == 0
    assert queue.place("ann 2").n_before == 5
    assert queue.place("pool").n_before == 6
    assert queue.place("ann 2").seconds > queue.place("ben 0").seconds > 0
    queue.start()
    while len(done) < 7:
        time.sleep(0.01)
    queue.close()
    assert done == ["ann 0", "ben 0", "cleo 0", "ann 1", "cleo 1", "ann 2", "pool"]
    assert queue.place("ann 2") is None


def test_a_job_is_taken_once_and_too_many_are_refused() -> None:
    queue = Queue(max_jobs=3, max_of_one=2)
    assert [queue.add("ann", name, lambda: None) for name in ("a", "b", "a", "c")] == [True, True, True, False]
    assert [queue.add("ben", name, lambda: None) for name in ("d", "e")] == [True, False]


def test_the_queue_goes_on_after_a_job_that_failed() -> None:
    queue, done = Queue(max_jobs=9, max_of_one=9), threading.Event()
    queue.start()
    queue.add("ann", "bad", lambda: 1 / 0)
    queue.add("ann", "good", done.set)
    assert done.wait(5)
    queue.close()


def test_who_is_dropped_has_nothing_in_it_afterwards() -> None:
    queue, running, go_on, done = Queue(max_jobs=9, max_of_one=9), threading.Event(), threading.Event(), []
    queue.start()

    def work() -> None:
        running.set()
        go_on.wait(5)
        done.append("first")

    queue.add("ann", "first", work)
    queue.add("ann", "second", lambda: done.append("second"))
    running.wait(5)
    threading.Timer(0.1, go_on.set).start()
    queue.drop("ann")
    assert done == ["first"]  # what ran was waited for, what waited is gone
    queue.close()
    assert done == ["first"]
