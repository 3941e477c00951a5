"""One queue to the accelerator: jobs run one at a time, visitors take turns, and each can be told where they are."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

LOG = logging.getLogger("ppd.studio")
BACKGROUND = ""
"""Whose jobs run only when no visitor waits."""
_FIRST_GUESS_S = 3.0


@dataclass(frozen=True)
class Place:
    """n_before: jobs that run before this one, the running one included; seconds: about how long until it is done."""

    n_before: int
    seconds: float


@dataclass
class _Job:
    owner: str
    name: str
    work: Callable[[], None]
    started: float | None = None


@dataclass
class Queue:
    """A thread that works. A job has a name, and is not taken twice while it waits or runs."""

    max_jobs: int
    max_of_one: int
    _waiting: dict[str, deque[_Job]] = field(default_factory=dict)
    _running: _Job | None = None
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=16))
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to work."""
        self._thread = threading.Thread(target=self._work, name="studio-queue", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End after the job that runs; what waits is left (the pages ask for it again)."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def add(self, owner: str, name: str, work: Callable[[], None]) -> bool:
        """Line a job up. False: the queue is full, or this owner has too much in it already.

        `work` deals with what can go wrong itself; what it raises is logged, and the queue goes on.
        """
        with self._changed:
            if self._find(name) is not None:
                return True
            mine = self._waiting.get(owner, deque())
            n_waiting = sum(len(jobs) for of, jobs in self._waiting.items() if of != BACKGROUND)
            if owner != BACKGROUND and (len(mine) >= self.max_of_one or n_waiting >= self.max_jobs):
                return False
            self._waiting.setdefault(owner, mine).append(_Job(owner, name, work))
            self._changed.notify_all()
            return True

    def drop(self, owner: str) -> None:
        """Take everything of an owner out; a job that runs is waited for."""
        with self._changed:
            self._waiting.pop(owner, None)
            self._changed.wait_for(lambda: self._running is None or self._running.owner != owner)

    def place(self, name: str) -> Place | None:
        """Where a job is; None when it neither waits nor runs."""
        with self._changed:
            job = self._find(name)
            if job is None:
                return None
            usual = sum(self._seconds) / len(self._seconds) if self._seconds else _FIRST_GUESS_S
            left = 0.0
            if self._running is not None and self._running.started is not None:
                left = max(usual - (time.monotonic() - self._running.started), 0.2)
            if job is self._running:
                return Place(0, left)
            order = self._order()
            n_before = order.index(job) + (self._running is not None)
            return Place(n_before, left + usual * (order.index(job) + 1))

    def _find(self, name: str) -> _Job | None:
        if self._running is not None and self._running.name == name:
            return self._running
        return next((job for jobs in self._waiting.values() for job in jobs if job.name == name), None)

    def _order(self) -> list[_Job]:
        """As they will run: a job of each owner in turn, the background's last."""
        owners = [list(jobs) for owner, jobs in self._waiting.items() if owner != BACKGROUND]
        rounds = range(max(map(len, owners), default=0))
        ordered = [jobs[at] for at in rounds for jobs in owners if at < len(jobs)]
        return [*ordered, *self._waiting.get(BACKGROUND, ())]

    def _take(self) -> _Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(self._waiting.values()))
            if self._closed:
                return None
            job = self._order()[0]
            jobs = self._waiting.pop(job.owner)
            jobs.popleft()
            if jobs:
                self._waiting[job.owner] = jobs  # at the end: the others come first
            job.started = time.monotonic()
            self._running = job
            return job

    def _work(self) -> None:
        while (job := self._take()) is not None:
            began = time.monotonic()
            try:
                job.work()
            except Exception:
                LOG.exception("the job %s failed", job.name)
            with self._changed:
                if job.owner != BACKGROUND:
                    self._seconds.append(time.monotonic() - began)
                self._running = None
                self._changed.notify_all()
