"""Where a start's time goes. Commands record their phases here, and `warpcortex doctor --startup` prints them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

REST = "everything else"
_loaded = time.perf_counter()


class Phases:
    """Seconds by name, in the order in which phases began. A nested phase is not counted twice.

    Args:
        now: when the first phase begins.
    """

    def __init__(self, now: float) -> None:
        self._seconds: dict[str, float] = {}
        self._stack = [REST]
        self.began = self._since = now

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """A context whose time in the main thread counts towards this phase."""
        self._charge()
        self._seconds.setdefault(name, 0.0)
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        name = self._stack[-1]
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since
        self._since = now

    def seconds(self) -> dict[str, float]:
        """Seconds of all phases so far; time outside phases comes last."""
        self._charge()
        rest = self._seconds.pop(REST)
        self._seconds[REST] = rest
        return dict(self._seconds)


phase = Phases(_loaded)
