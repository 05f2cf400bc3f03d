"""Segments that come and go, read in one piece: many cost one multiplication a layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from warpcortex_cli.memory.segment import KVLayout, Segment
from warpcortex_cli.memory.tail import FIRST_CAPACITY, Slab, Tail, TailView

_ROOMY = 1024  # tokens that there is room for at first on a CPU, where pages that nobody writes cost nothing


class Joined:
    """Copies of segments, one behind the other. What was read before stays as it was, whatever comes and goes."""

    def __init__(self, layout: KVLayout) -> None:
        self._first = _ROOMY if layout.device.type == "cpu" else FIRST_CAPACITY
        self._tail = Tail(Slab(layout, 1, self._first), growing=True)
        self._start = 0  # of the first segment; before it are some that have left
        self._segments: tuple[Segment, ...] = ()

    def read(self, segments: Sequence[Segment]) -> TailView:
        """All of them, in order.

        New ones are put behind those that are there. The first ones just leave; where they have left half of the room,
        or another one has left, the others are copied out of the old piece.
        """
        now = tuple(segments)
        left = 0
        while now[: len(self._segments) - left] != self._segments[left:]:
            left += 1
        if left < len(self._segments):
            self._start += sum(s.tokens for s in self._segments[:left])
            self._segments = self._segments[left:]
        elif left:
            self._begin_again(now)
        for segment in now[len(self._segments) :]:
            full = self._tail.length + segment.tokens > self._tail.capacity
            if full and self._start >= self._tail.capacity // 2:
                self._begin_again(self._segments)
            self._tail.append(segment.keys, segment.values, segment.positions)
            self._segments = (*self._segments, segment)  # one by one: there may be no memory for the next
        return TailView(self._tail, self._tail.length - self._start, self._start)

    def _begin_again(self, now: tuple[Segment, ...]) -> None:
        """Takes those that `now` begins with, as far as they are there, into another tail."""
        ends = [self._start + end for end in accumulate(s.tokens for s in self._segments)]
        place = {s: (end - s.tokens, end) for s, end in zip(self._segments, ends, strict=True)}
        known = 0
        spans: list[tuple[int, int]] = []  # of what stays: neighbours are copied as one
        for segment in now:
            if segment not in place:
                break
            start, end = place[segment]
            spans = [*spans[:-1], (spans[-1][0], end)] if spans and spans[-1][1] == start else [*spans, (start, end)]
            known += 1
        old = self._tail  # a row under way may still read it
        tail = Tail(Slab(old.slab.layout, 1, old.capacity if known else self._first), growing=True)
        whole = old.segment()
        for start, end in spans:
            keys, values = ([part[:, start:end] for part in parts] for parts in (whole.keys, whole.values))
            tail.append(keys, values, old.positions[start:end])
        self._tail, self._start, self._segments = tail, 0, now[:known]
