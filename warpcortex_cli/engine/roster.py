"""The list of Streams: those alive, the newest of those that ended, and a count of older ones."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from warpcortex_cli.engine.stream import Stream

REMEMBERED = 1000  # ended Streams; a River may start any number of them in its life


class Roster:
    """All Streams of an engine, in the order of their numbers.

    Attributes:
        alive: those that have not ended.
        spawned: how many there ever were, which is also the number of the newest.
        forgotten: how many that ended long ago are in which state.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self.alive: list[Stream] = []
        self.spawned = 0
        self.forgotten: Counter[str] = Counter()
        self._all: dict[int, Stream] = {}
        self._ended: deque[int] = deque()
        self._remembered = remembered

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._all.values())

    def __getitem__(self, number: int) -> Stream:
        """The Stream of that number.

        Raises:
            KeyError: there is none, or it has been forgotten.
        """
        return self._all[number]

    def since(self, number: int) -> list[Stream]:
        """Those that were spawned after the Stream of that number."""
        return [self._all[n] for n in range(number + 1, self.spawned + 1) if n in self._all]

    def continue_from(self, number: int) -> None:
        """Numbers later Streams from here on, as after a session was restored."""
        self.spawned = number

    def add(self, stream: Stream) -> None:
        """Adds the newest Stream, whose number is `spawned` + 1."""
        self.spawned += 1
        self._all[stream.id] = stream
        self.alive.append(stream)

    def close(self, stream: Stream) -> None:
        """Notes that a Stream has ended."""
        self.alive.remove(stream)
        self._ended.append(stream.id)
        if len(self._ended) > self._remembered:
            oldest = self._all.pop(self._ended.popleft())
            self.forgotten[oldest.state] += 1
