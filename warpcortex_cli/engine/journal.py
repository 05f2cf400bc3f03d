"""Stamps events with their order and time, and hands them to every listener."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from warpcortex_cli.events import Event, Listener


class Journal:
    """The session's total order of events. `drain` gives those that nobody has drained yet.

    A listener that fails disturbs neither the others nor the agent whose event it was told: `drain` raises its error.
    """

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self.listeners = list(listeners)
        self._start = time.monotonic()
        self._next = 0
        self._fresh: list[Event] = []
        self._error: Exception | None = None  # the first of a listener

    def now(self) -> float:
        """Seconds since the session began."""
        return time.monotonic() - self._start

    def write(self, event: Event) -> None:
        stamped = replace(event, seq=self._next, time=round(self.now(), 6))
        self._next += 1
        self._fresh.append(stamped)
        for listener in self.listeners:
            try:
                listener(stamped)
            except Exception as error:
                self._error = self._error or error

    def drain(self) -> list[Event]:
        error, self._error = self._error, None
        if error is not None:
            raise error
        fresh, self._fresh = self._fresh, []
        return fresh
