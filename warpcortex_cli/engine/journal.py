"""Gives events their order and time, and passes them to every listener."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from warpcortex_cli.events import Event, Listener


class Journal:
    """The session's events in total order. `drain` returns those not drained yet.

    A failing listener disturbs neither other listeners nor the agent that wrote the event: `drain` raises its error.
    """

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self.listeners = list(listeners)
        self._start = time.monotonic()
        self._next = 0
        self._fresh: list[Event] = []
        self._error: Exception | None = None  # the first error of a listener

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
