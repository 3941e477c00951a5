"""Work that takes longer than a sensor's tick may: it goes on between ticks."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class StillWorking(Exception):
    """The work is not done yet; ask again at the next tick."""


class Background(Generic[T]):
    """One piece of work at a time, in a thread of the process that evaluates ticks, which outlives each of them.

    Dagster ends a tick after a minute; hashing data that has just arrived, or reading all embeddings, may take longer.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._found: list[T] = []
        self._failed: list[BaseException] = []

    def result(self, within_s: float) -> T:
        """What the work gives, begun now or at an earlier tick. Raises StillWorking after `within_s`; its errors."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._thread.join(within_s)
            if self._thread.is_alive():
                raise StillWorking
            self._thread = None
            if self._failed:
                raise self._failed.pop()
            return self._found.pop()

    def _run(self) -> None:
        try:
            self._found.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self._failed.append(error)
