"""Segments that come and go, read in one piece: many cost one multiplication a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch

from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.memory.tail import Tail, TailView


class Joined:
    """Copies of segments, one behind the other.

    Args:
        new_tail: makes an empty tail that grows.
    """

    def __init__(self, new_tail: Callable[[], Tail]) -> None:
        self._new_tail = new_tail
        self._tail = new_tail()
        self._segments: tuple[Segment, ...] = ()

    def read(self, segments: Sequence[Segment]) -> TailView:
        """All of them, in order. What was read before stays as it was.

        New ones are put behind those that are there; where one has left, the others are copied out of the old piece.
        """
        now = tuple(segments)
        known = len(self._segments)
        if now[:known] != self._segments:
            known = self._begin_again(now)
        for segment in now[known:]:
            self._tail.append(list(segment.keys), list(segment.values), segment.positions)
        self._segments = now
        return self._tail.view(self._tail.length)

    def _begin_again(self, now: tuple[Segment, ...]) -> int:
        """Takes the first ones of `now` that there are into another tail; returns how many."""
        old, self._tail = self._tail, self._new_tail()  # a row under way may still read the old one
        ends = list(accumulate(s.tokens for s in self._segments))
        place = {s: range(end - s.tokens, end) for s, end in zip(self._segments, ends, strict=True)}
        kept: list[range] = []
        for segment in now:
            if segment not in place:
                break
            kept.append(place[segment])
        if kept:
            self._tail.copy_from(old, torch.tensor([t for tokens in kept for t in tokens]))
        return len(kept)
