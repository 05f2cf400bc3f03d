"""Adapts the number of threads to the load of other programs.

The threads of a step wait for each other many times, spinning (see `process`). If another program takes the core of one
of them, all others spin for nothing: two busy programs on two cores left a River a quarter of its speed. Linux counts
for each thread how long it was runnable but did not run. If that shows other programs, the number of threads is reduced
by as many, and raised again when cores are free. Results do not depend on the number of threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

_TASKS = Path("/proc/self/task")
_WINDOW = 0.1  # seconds of steps between two checks
_PAUSE = 0.5  # seconds without a step, after which a new window begins
_BUSY = 0.2  # share of a window that a thread must have been runnable to be counted
_CROWDED = 0.5  # estimated cores in use by others from which on threads are reduced
_FIRST, _LAST = 1.0, 16.0  # seconds before a thread is added again; doubled each time that this fails

Times = Mapping[str, tuple[float, float]]  # by thread: seconds running, and seconds waiting for a core


class Crowd:
    """Reduces the number of threads while other programs run, and raises it again.

    Args:
        times: of this process's threads, since they started.
        clock: in seconds.
        use: sets the number of threads.
    """

    def __init__(
        self,
        times: Callable[[], Times],
        clock: Callable[[], float] = time.monotonic,
        use: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        self._times, self._clock, self._use = times, clock, use
        self._most = self._threads = 0
        self._before: Times = {}
        self._began = self._seen = -1e9
        self._patience, self._until = _FIRST, 0.0

    def look(self, threads: int) -> None:
        """Called before each step, with the number of threads that compute it."""
        now = self._clock()
        if threads != self._threads:  # it was set elsewhere
            self._most = self._threads = threads
        if now - self._seen > _PAUSE:
            self._begin(now)
        self._seen = now
        if self._most > 1 and now - self._began >= _WINDOW:
            self._judge(now, self._neighbours(now))
            self._begin(now)

    def over(self) -> None:
        """Called after each step, which on a crowded machine may take longer than _PAUSE."""
        self._seen = self._clock()

    def _begin(self, now: float) -> None:
        if self._most > 1:
            self._before, self._began = self._times(), now

    def _neighbours(self, now: float) -> float:
        """Cores shared with other programs: there a thread waits at least as long as it runs."""
        least, found = _BUSY * (now - self._began), 0.0
        for thread, (ran, waited) in self._times().items():
            ran_before, waited_before = self._before.get(thread, (ran, waited))
            ran, waited = ran - ran_before, waited - waited_before
            if ran + waited > least:
                found += min(waited / max(ran, 1e-9), 1.0)
        return found

    def _judge(self, now: float, neighbours: float) -> None:
        if neighbours >= _CROWDED:
            if now < self._until + 2 * _WINDOW and self._threads > 1:  # adding a thread has failed
                self._patience = min(2 * self._patience, _LAST)
            self._set(max(1, self._threads - max(1, round(neighbours))))
            self._until = now + self._patience
        elif self._threads < self._most and now >= self._until:
            self._set(self._threads + 1)
            self._until = now
        elif now - self._until > _LAST:
            self._patience = _FIRST

    def _set(self, threads: int) -> None:
        if threads != self._threads:
            self._threads = threads
            self._use(threads)


def thread_times() -> Times:
    """The kernel's counts; empty if there are none."""
    found = {}
    try:
        for task in os.listdir(_TASKS):
            ran, waited, _ = (_TASKS / task / "schedstat").read_bytes().split()
            found[task] = int(ran) / 1e9, int(waited) / 1e9
    except (OSError, ValueError):  # not Linux, no such counts, or a thread that just ended
        return {}
    return found


def follows() -> bool:
    """Whether the number of threads may change: not with OMP_DYNAMIC=false, and only on Linux, which has the counts."""
    return os.environ.get("OMP_DYNAMIC", "").strip().lower() != "false" and bool(thread_times())


_crowd = Crowd(thread_times)


def look() -> None:
    """`Crowd.look` of this process, before a step."""
    _crowd.look(torch.get_num_threads())


def over() -> None:
    """`Crowd.over` of this process, after a step."""
    _crowd.over()
