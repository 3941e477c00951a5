"""Taking things ahead, in a thread of their own."""

import threading
from collections.abc import Iterator

import pytest

from ppd.diffusion.encoding.prefetch import prefetched


def test_order_and_end_are_those_of_the_items() -> None:
    assert list(prefetched(range(20), depth=3)) == list(range(20))
    assert list(prefetched([])) == []


def test_no_more_than_depth_are_taken_ahead_and_all_by_one_other_thread() -> None:
    taken: list[int] = []
    threads = set()
    ready = threading.Event()

    def counting() -> Iterator[int]:
        for number in range(10):
            threads.add(threading.current_thread())
            taken.append(number)
            if number == 2:
                ready.set()
            yield number

    ahead = prefetched(counting(), depth=2)
    assert next(ahead) == 0
    assert ready.wait(5), "while the first one is used, the next two are taken"
    assert taken == [0, 1, 2]
    ahead.close()  # type: ignore[attr-defined]
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_an_error_comes_where_its_item_would() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    ahead = prefetched(failing())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="the second"):
        next(ahead)
