"""Parking: a Stream whose seat goes to one of higher priority waits without room on the device.

Its private KV is kept like blocks of the River's past, in the same tiers and formats, and returns to the positions that
it left. So its keys stay rotated: stored as `exact` they come back bit for bit in any type, which rotating back and
forth would not give. (A tail in int8 is rounded once more on its return; in fp32 that changes nothing.)

It has a store of its own, because blocks of the River's store become records of the session's file, and no Stream
outlives a reply. The store is dropped with the last Stream in it, and so is its file, if it needed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.states import StreamState
from warpcortex_cli.engine.stream import Stream
from warpcortex_cli.engine.workers.model import Writing
from warpcortex_cli.events import StreamParked, StreamResumed
from warpcortex_cli.memory.segment import KVLayout
from warpcortex_cli.memory.store import BLOCK, BlockStore, Budgets, Tier
from warpcortex_cli.memory.tail import Tail
from warpcortex_cli.profile import MemorySettings


def seating(alive: Sequence[Stream], seats: int) -> list[Stream]:
    """Streams that move now, in order: "thinking" ones give up their seat, "queued" and "parked" ones take one.

    Seats go by priority; among equals, to the parked first, then to the oldest. If none is free, the newest Stream of
    the lowest priority gives its seat to one of a strictly higher priority. Only a Stream that writes does so: one that
    still reads its prompt does it afterwards, and one at the Gate is nearly done.
    """
    waiting = [s for s in alive if s.state in ("queued", "parked")]
    if not waiting:  # as in nearly every step
        return []
    waiting.sort(key=lambda s: (-s.role.priority, s.state != "parked", s.id))
    seated = [s for s in alive if s.state in ("thinking", "gating")]
    writing = [s for s in seated if s.state == "thinking" and s.tokens]
    writing.sort(key=lambda s: (s.role.priority, -s.id))
    free = seats - len(seated)  # below zero if a new profile has fewer seats
    moves: list[Stream] = []
    for stream in waiting:
        missing = max(0, 1 - free)
        leaving = [s for s in writing[:missing] if s.role.priority < stream.role.priority]
        if len(leaving) < missing:
            break
        del writing[:missing]
        free += missing - 1
        moves += [*leaving, stream]
    return moves


@dataclass(frozen=True)
class _Kept:
    """A parked tail: the numbers of its blocks, and its positions, [tokens]."""

    numbers: range
    positions: Tensor


class Parking:
    """Keeps the tails of parked Streams.

    Args:
        layout: the model's KV shape.
        journal: gets an event for each Stream that is parked or resumed.

    Attributes:
        failure: why parked tails stay in memory beyond their budget, for the user; empty if they do not.
    """

    def __init__(self, layout: KVLayout, journal: Journal) -> None:
        self._layout = layout
        self._journal = journal
        self._store: BlockStore | None = None
        self._kept: dict[int, _Kept] = {}
        self._next = 0
        self.failure = ""

    @property
    def tiers(self) -> dict[str, Tier]:
        """Blocks and bytes of parked tails, as in `BlockStore.tiers`."""
        return self._store.tiers() if self._store else dict.fromkeys(("hot", "warm", "cold"), Tier(0, 0))

    @torch.inference_mode()
    def park(self, stream: Stream, memory: MemorySettings) -> None:
        """Stores a Stream's tail and releases it.

        Raises:
            RuntimeError: there is not enough memory. The Stream is unchanged; call `forget` for it.
        """
        work = _writing(stream)
        tail = work.tail
        assert tail is not None
        if self._store is None:  # one block is unpacked at a time, while it is read
            self._store = BlockStore(self._layout, memory.stored, Budgets(hot=0, warm=memory.warm_mb << 20))
        before, starts = self._nbytes, range(0, tail.length, BLOCK)
        numbers = range(self._next, self._next + len(starts))
        self._next = numbers.stop
        self._kept[stream.id] = _Kept(numbers, tail.positions.clone())
        layers = [tail.layer(i) for i in range(self._layout.layers)]
        for number, start in zip(numbers, starts, strict=True):
            part = slice(start, start + BLOCK)
            self._store.put(number, [k[:, part] for k, _ in layers], [v[:, part] for _, v in layers])
        if self._store.failure:
            self.failure = "parked Streams cannot be written to disk; they are kept in memory."
        tokens = tail.length
        work.leave(self._nbytes - before)
        stream.state = StreamState.PARKED
        self._journal.write(StreamParked(id=stream.id, tokens=tokens, bytes=stream.kv_bytes))

    @torch.inference_mode()
    def resume(self, stream: Stream, tail: Tail) -> None:
        """Puts a parked Stream's KV into an empty tail and lets the Stream go on with it.

        Raises:
            RuntimeError, ValueError: the KV cannot be read, or does not fit. The tail is released then.
        """
        kept, store = self._kept[stream.id], self._store
        assert store is not None
        try:
            blocks = [store.get(n) for n in kept.numbers]
            keys, values = (
                [torch.cat(parts, 1) for parts in zip(*side, strict=True)] for side in zip(*blocks, strict=True)
            )
            tail.append(keys, values, kept.positions)
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            tail.release()
            raise ValueError(f"its parked KV did not come back: {error}") from error
        _writing(stream).resume(tail)  # from here on, closing the work releases the tail
        self.forget(stream)
        stream.state = StreamState.THINKING
        self._journal.write(StreamResumed(id=stream.id, tokens=tail.length))

    def forget(self, stream: Stream) -> None:
        """Frees what is stored of a Stream, if anything."""
        kept = self._kept.pop(stream.id, None)
        if kept is None or self._store is None:
            return
        if not self._kept:
            store, self._store = self._store, None
            store.close()
            return
        for number in kept.numbers:
            self._store.forget(number)

    @property
    def _nbytes(self) -> int:
        return sum(tier.bytes for tier in self.tiers.values())


def _writing(stream: Stream) -> Writing:
    """The work of a Stream that writes. Only such a Stream has a tail to park."""
    assert isinstance(stream.work, Writing)
    return stream.work
