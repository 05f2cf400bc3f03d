"""Stamps events with their order and time, and hands them to every listener."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from warpcortex_cli.events import Event, Listener


class Journal:
    """The session's total order of events. `drain` gives those that nobody has drained yet."""

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self.listeners = list(listeners)
        self._start = time.monotonic()
        self._next = 0
        self._fresh: list[Event] = []

    def now(self) -> float:
        """Seconds since the session began."""
        return time.monotonic() - self._start

    def write(self, event: Event) -> None:
        stamped = replace(event, seq=self._next, time=round(self.now(), 6))
        self._next += 1
        self._fresh.append(stamped)
        for listener in self.listeners:
            listener(stamped)

    def drain(self) -> list[Event]:
        fresh, self._fresh = self._fresh, []
        return fresh
