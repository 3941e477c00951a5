"""Preparing what is needed next while the last one is still worked on."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """`items` in their order, taken by a thread of their own; at most `depth` of them wait at a time.

    What taking one raises is raised here, where its turn comes.
    """
    remaining, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        ahead = deque(thread.submit(next, remaining, end) for _ in range(depth))
        try:
            while (item := ahead.popleft().result()) is not end:
                ahead.append(thread.submit(next, remaining, end))
                yield item  # type: ignore[misc]
        finally:
            thread.shutdown(cancel_futures=True)
