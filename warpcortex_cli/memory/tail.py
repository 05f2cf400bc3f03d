"""Tails: the growing keys and values of one agent.

Every tail is a slot of a slab. The River has a slab of its own that grows; Streams take slots out of a pool's
slabs, so that the decode rows of a slab attend in one batched multiplication.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import torch
from torch import Tensor

from warpcortex_cli.memory.room import ROOMS, Room, Stored
from warpcortex_cli.memory.segment import KVLayout, Segment, Turns

FIRST_CAPACITY = 256  # tokens a growing tail begins with
SLOTS = 16  # tails in a slab, unless the pool is told how many agents to expect


class Slab:
    """Room for `slots` tails of `capacity` tokens.

    What lies behind a tail's end is kept finite (zero, or what was written there before): the batched
    attention multiplies it with weights of zero, and zero times NaN is NaN.

    Attributes:
        keys, values: per layer a room [slots, kv_heads, capacity, head_dim].
        positions: [slots, capacity], int64.
        bytes_per_token: of keys and values over all layers, as they are stored.
    """

    def __init__(self, layout: KVLayout, slots: int, capacity: int, stored: Stored = "model") -> None:
        self.layout = layout
        self.slots = slots
        self.capacity = capacity
        self._kind = ROOMS[stored]
        self.bytes_per_token = self._kind.bytes_per_token(layout)
        self.keys = [self._room(capacity) for _ in range(layout.layers)]
        self.values = [self._room(capacity) for _ in range(layout.layers)]
        self.positions = torch.zeros(slots, capacity, dtype=torch.long, device=layout.device)

    def _room(self, capacity: int) -> Room:
        return self._kind(self.layout, self.slots, capacity)

    def _resized(self, room: Room, capacity: int) -> Room:
        resized = self._room(capacity)
        resized[:, :, : self.capacity] = room[:, :, : self.capacity]
        return resized

    @property
    def nbytes(self) -> int:
        """Allocated bytes of keys and values."""
        return self.bytes_per_token * self.slots * self.capacity

    # What a forward made is an inference tensor, and those change only in inference mode.
    @torch.inference_mode()
    def grow(self, capacity: int) -> None:
        """Widens every slot, one layer at a time so that little is held twice; where that fails, none."""
        done: list[tuple[list[Room], int]] = []
        try:
            for buffers in (self.keys, self.values):
                for index, old in enumerate(buffers):
                    buffers[index] = self._resized(old, capacity)
                    done.append((buffers, index))
        except RuntimeError:
            for buffers, index in done:
                buffers[index] = self._resized(buffers[index], self.capacity)
            raise
        positions = torch.zeros(self.slots, capacity, dtype=torch.long, device=self.layout.device)
        positions[:, : self.capacity] = self.positions
        self.positions = positions
        self.capacity = capacity

    @torch.inference_mode()
    def clear(self, slot: int, start: int, end: int) -> None:
        """Zeroes tokens [start, end) of a slot."""
        if end > start:
            for buffer in (*self.keys, *self.values):
                buffer.clear((slot, slice(None), slice(start, end)))


class Tail:
    """The private keys and values of one agent. The model's forward appends to it; `length` are valid."""

    def __init__(self, slab: Slab, slot: int = 0, *, growing: bool = False, pool: TailPool | None = None) -> None:
        self.slab = slab
        self.slot = slot
        self.length = 0
        self._growing = growing
        self._pool = pool
        self._touched = 0  # tokens that were ever written
        self._released = False

    @property
    def capacity(self) -> int:
        """Tokens that fit (a growing tail widens by itself)."""
        return self.slab.capacity

    @property
    def nbytes(self) -> int:
        """Allocated bytes of keys and values."""
        return self.slab.bytes_per_token * self.capacity

    @property
    def used_bytes(self) -> int:
        """Bytes of keys and values of the valid tokens."""
        return self.slab.bytes_per_token * self.length

    @property
    def positions(self) -> Tensor:
        """[length]"""
        return self.slab.positions[self.slot, : self.length]

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, each [kv_heads, length, head_dim]; views where they are not quantized."""
        return self.slab.keys[index][self.slot, :, : self.length], self.slab.values[index][self.slot, :, : self.length]

    def reserve(self, tokens: int) -> None:
        """Makes room for `tokens` more.

        Raises:
            ValueError: the tail was released, or its capacity is fixed and used up.
        """
        if self._released:
            raise ValueError("the tail was released")
        needed = self.length + tokens
        if needed > self.capacity:
            if not self._growing:
                raise ValueError(f"the tail is full: {self.length} + {tokens} tokens do not fit into {self.capacity}")
            self.slab.grow(max(needed, 2 * self.capacity))
        self._touched = max(self._touched, needed)

    @torch.inference_mode()
    def append(self, keys: list[Tensor], values: list[Tensor], positions: Tensor) -> None:
        """Appends tokens whose keys are rotated already.

        Args:
            keys, values: per layer [kv_heads, tokens, head_dim].
            positions: [tokens].

        Raises:
            ValueError: they do not fit.
        """
        tokens = positions.shape[0]
        self.reserve(tokens)
        end = self.length + tokens
        for index, (k, v) in enumerate(zip(keys, values, strict=True)):
            self.slab.keys[index][self.slot, :, self.length : end] = k
            self.slab.values[index][self.slot, :, self.length : end] = v
        self.slab.positions[self.slot, self.length : end] = positions
        self.length = end

    def copy_from(self, source: Tail, indices: Tensor) -> None:
        """Appends the tokens of another tail at `indices` [n], at their own positions.

        Raises:
            ValueError: they do not fit.
            IndexError: an index is not a token of `source`.
        """
        layers = [source.layer(i) for i in range(source.slab.layout.layers)]
        chosen = indices.to(source.positions.device)
        self.append([k[:, chosen] for k, _ in layers], [v[:, chosen] for _, v in layers], source.positions[chosen])

    def truncate(self, length: int) -> None:
        """Forgets all tokens from `length` on.

        Raises:
            ValueError: the tail is shorter than that.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"a tail of {self.length} tokens cannot be cut to {length}")
        self.slab.clear(self.slot, length, self._touched)
        self.length = self._touched = length

    @torch.inference_mode()
    def shift(self, tokens: int, rope: Turns, by: int) -> None:
        """Forgets the first `tokens` tokens and moves the others by `by` positions.

        Raises:
            ValueError: the tail is shorter than that.
        """
        rest = self.freeze(tokens, self.length)
        self.truncate(0)
        if rest.tokens:
            moved = rest.moved(rope, rest.positions + by)
            self.append(list(moved.keys), list(moved.values), moved.positions)

    def view(self, tokens: int) -> TailView:
        """The first `tokens` tokens, to be read by other rows; later ones stay invisible to them.

        Raises:
            ValueError: the tail is shorter than that.
        """
        if not 0 <= tokens <= self.length:
            raise ValueError(f"a tail of {self.length} tokens has no first {tokens}")
        return TailView(self, tokens)

    def freeze(self, start: int, end: int) -> Segment:
        """A copy of tokens [start, end).

        Raises:
            ValueError: the tail has no such tokens.
        """
        if not 0 <= start <= end <= self.length:
            raise ValueError(f"a tail of {self.length} tokens has no tokens {start} to {end}")
        whole = self.segment()
        return Segment(
            keys=tuple(k[:, start:end].clone() for k in whole.keys),
            values=tuple(v[:, start:end].clone() for v in whole.values),
            positions=whole.positions[start:end].clone(),
        )

    def segment(self) -> Segment:
        """All tokens, without a copy: nothing may be written to the tail afterwards."""
        keys, values = zip(*(self.layer(i) for i in range(self.slab.layout.layers)), strict=True)
        return Segment(keys, values, self.positions)

    def release(self) -> None:
        """Gives the room back. Nothing may read the tail afterwards; releasing twice does nothing."""
        if self._released:
            return
        self._released = True
        self.length = 0
        if self._pool is not None:
            self._pool.give_back(self, self._touched)


@dataclass(frozen=True)
class TailView:
    """`tokens` tokens of a tail, from `start` on. Views of the same ones are equal, so readers share work."""

    tail: Tail
    tokens: int
    start: int = 0

    @property
    def positions(self) -> Tensor:
        """[tokens]"""
        return self.tail.slab.positions[self.tail.slot, self._span]

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, each [kv_heads, tokens, head_dim]; views where they are not quantized."""
        slab, slot = self.tail.slab, self.tail.slot
        return slab.keys[index][slot, :, self._span], slab.values[index][slot, :, self._span]

    @property
    def _span(self) -> slice:
        return slice(self.start, self.start + self.tokens)


class TailPool:
    """Tails of one fixed capacity, for Streams that come and go.

    Slabs are added when all slots are taken and dropped when nobody uses them; the lowest free slot is taken first,
    so that those in use lie close together.

    Args:
        layout: the model's KV shape.
        capacity: tokens in each tail.
        slots: tails in each slab.
        stored: how keys and values are kept.
    """

    def __init__(self, layout: KVLayout, capacity: int, slots: int = SLOTS, stored: Stored = "model") -> None:
        self.layout = layout
        self.capacity = capacity
        self.slots = slots
        self.stored = stored
        self.taken = 0
        self._free: dict[Slab, list[int]] = {}

    @property
    def nbytes(self) -> int:
        """Allocated bytes of keys and values, free slots included."""
        return sum(slab.nbytes for slab in self._free)

    def take(self) -> Tail:
        """An empty tail. Allocates when no slot is free, and may run out of memory then."""
        slab = next((slab for slab, free in self._free.items() if free), None)
        if slab is None:
            slab = Slab(self.layout, self.slots, self.capacity, self.stored)
            self._free[slab] = list(range(self.slots))
        self.taken += 1
        return Tail(slab, heapq.heappop(self._free[slab]), pool=self)

    def give_back(self, tail: Tail, touched: int) -> None:
        """Takes a slot back (called by `Tail.release`). Where its slab stays, it is zeroed: it may hold NaN."""
        slab = tail.slab
        heapq.heappush(self._free[slab], tail.slot)
        self.taken -= 1
        if len(self._free[slab]) == self.slots:
            del self._free[slab]
        else:
            slab.clear(tail.slot, 0, touched)
