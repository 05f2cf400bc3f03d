"""Tails: the growing keys and values of one agent.

Every tail is a slot of a slab. The River has a growing slab of its own. Streams take slots in a pool's slabs, so that
the decode rows of a slab attend in one batched product.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from warpcortex_cli.memory.room import ROOMS, Room, Stored
from warpcortex_cli.memory.segment import KVLayout, Segment, Turns

FIRST_CAPACITY = 256  # tokens: first capacity of a growing tail
SLOTS = 16  # tails in a slab, unless the pool is given another number


class Slab:
    """Room for `slots` tails of `capacity` tokens.

    Numbers behind a tail's end stay finite (zero, or old ones): batched attention multiplies them by zero weights, and
    zero times NaN is NaN.

    Args:
        apart: whether each room has memory of its own, so that a long tail is not held twice while it grows.
            Otherwise they share one block, which is written and cleared at once.

    Attributes:
        rooms: a room [slots, kv_heads, capacity, head_dim] for the keys of each layer, then for the values of each.
        positions: [slots, capacity], int64.
        moves: how often the rooms have moved to other memory.
        bytes_per_token: of keys and values over all layers, as they are stored.
    """

    def __init__(
        self, layout: KVLayout, slots: int, capacity: int, stored: Stored = "model", *, apart: bool = False
    ) -> None:
        self.layout = layout
        self.slots = slots
        self.capacity = capacity
        self._kind = ROOMS[stored]
        self.bytes_per_token = self._kind.bytes_per_token(layout)
        self._each = 1 if apart else 2 * layout.layers
        self._blocks = [self._block(capacity) for _ in range(2 * layout.layers // self._each)]
        self.rooms = self._rooms()
        self.moves = 0
        self.positions = torch.zeros(slots, capacity, dtype=torch.long, device=layout.device)

    @property
    def keys(self) -> Sequence[Room]:
        """Per layer [slots, kv_heads, capacity, head_dim]."""
        return self.rooms[: self.layout.layers]

    @property
    def values(self) -> Sequence[Room]:
        """As `keys`."""
        return self.rooms[self.layout.layers :]

    def layer(self, index: int) -> tuple[Room, Room]:
        """The rooms of a layer's keys and values."""
        return self.rooms[index], self.rooms[self.layout.layers + index]

    def _rooms(self) -> Sequence[Room]:
        return [room for block in self._blocks for room in block.each()]

    def _block(self, capacity: int) -> Room:
        """Memory for some rooms."""
        return self._kind.empty(self.layout, self._each, self.slots, capacity)

    def _resized(self, block: Room, capacity: int) -> Room:
        resized, kept = self._block(capacity), (..., slice(0, min(capacity, self.capacity)), slice(None))
        resized[kept] = block[kept]
        return resized

    @property
    def nbytes(self) -> int:
        """Allocated bytes of keys and values."""
        return self.bytes_per_token * self.slots * self.capacity

    # Tensors made in a forward are inference tensors, which can only be changed in inference mode.
    @torch.inference_mode()
    def grow(self, capacity: int) -> None:
        """Widens every slot, or none if that fails; one block at a time, so that little is held twice."""
        done = 0
        self.rooms = []  # or it would hold the old blocks
        try:
            for index in range(len(self._blocks)):
                self._blocks[index] = self._resized(self._blocks[index], capacity)
                done += 1
        except RuntimeError:
            for index in range(done):
                self._blocks[index] = self._resized(self._blocks[index], self.capacity)
            raise
        finally:
            self.rooms, self.moves = self._rooms(), self.moves + 1
        positions = torch.zeros(self.slots, capacity, dtype=torch.long, device=self.layout.device)
        positions[:, : self.capacity] = self.positions
        self.positions = positions
        self.capacity = capacity

    @torch.inference_mode()
    def clear(self, slot: int, start: int, end: int) -> None:
        """Sets tokens [start, end) of a slot to zero."""
        if end > start:
            for block in self._blocks:
                block.clear((slice(None), slot, slice(None), slice(start, end)))

    def write(self, slot: int, start: int, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Writes tokens, per layer [kv_heads, tokens, head_dim], into a slot from token `start` on."""
        every, span = (*keys, *values), slice(start, start + keys[0].shape[1])
        for number, block in enumerate(self._blocks):
            block.put((slice(None), slot, slice(None), span), every[number * self._each : (number + 1) * self._each])

    def read(self, slot: int, end: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The first `end` tokens of a slot: keys and values, per layer [kv_heads, end, head_dim]; views if they can."""
        every = [part for block in self._blocks for part in block[:, slot, :, :end].unbind(0)]
        return tuple(every[: self.layout.layers]), tuple(every[self.layout.layers :])


class Tail:
    """The private keys and values of one agent. The model's forward appends to it; the first `length` are valid."""

    def __init__(self, slab: Slab, slot: int = 0, *, growing: bool = False, pool: TailPool | None = None) -> None:
        self.slab = slab
        self.slot = slot
        self.length = 0
        self._growing = growing
        self._pool = pool
        self._touched = 0  # tokens written so far, at most
        self._released = False

    @property
    def capacity(self) -> int:
        """Tokens that fit. A growing tail widens by itself."""
        return self.slab.capacity

    @property
    def nbytes(self) -> int:
        """Allocated bytes of keys and values."""
        return self.slab.bytes_per_token * self.capacity

    @property
    def positions(self) -> Tensor:
        """[length]"""
        return self.slab.positions[self.slot, : self.length]

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, each [kv_heads, length, head_dim]; views where they are not quantized."""
        keys, values = self.slab.layer(index)
        return keys[self.slot, :, : self.length], values[self.slot, :, : self.length]

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
    def append(self, keys: Sequence[Tensor], values: Sequence[Tensor], positions: Tensor) -> None:
        """Appends tokens with rotated keys.

        Args:
            keys, values: per layer [kv_heads, tokens, head_dim].
            positions: [tokens].

        Raises:
            ValueError: they do not fit.
        """
        tokens = positions.shape[0]
        self.reserve(tokens)
        end = self.length + tokens
        self.slab.write(self.slot, self.length, keys, values)
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
        """Drops all tokens from number `length` on.

        Raises:
            ValueError: the tail is shorter than that.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"a tail of {self.length} tokens cannot be cut to {length}")
        self.slab.clear(self.slot, length, self._touched)
        self.length = self._touched = length

    @torch.inference_mode()
    def without(self, tokens: int, rope: Turns, by: int) -> Tail:
        """A growing tail that holds all but the first `tokens` tokens, moved by `by` positions.

        This tail is not changed, so its readers can go on.

        Raises:
            ValueError: the tail is shorter than that.
        """
        rest = self.freeze(tokens, self.length)
        other = Tail(Slab(self.slab.layout, 1, self.capacity, apart=True), growing=True)
        if rest.tokens:
            moved = rest.moved(rope, rest.positions + by)
            other.append(moved.keys, moved.values, moved.positions)
        return other

    def view(self, tokens: int) -> TailView:
        """A view of the first `tokens` tokens for other rows. They do not see later ones.

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
        """All tokens, without a copy. The tail must not be written to afterwards."""
        return Segment(*self.slab.read(self.slot, self.length), self.positions)

    def release(self) -> None:
        """Gives its slot back. The tail must not be read afterwards. Releasing twice does nothing."""
        if self._released:
            return
        self._released = True
        self.length = 0
        if self._pool is not None:
            self._pool.give_back(self, self._touched)


@dataclass(frozen=True)
class TailView:
    """`tokens` tokens of a tail, from `start` on. Views of the same tokens are equal, so their readers share work."""

    tail: Tail
    tokens: int
    start: int = 0

    @property
    def layers(self) -> int:
        return self.tail.slab.layout.layers

    @property
    def positions(self) -> Tensor:
        """[tokens]"""
        return self.tail.slab.positions[self.tail.slot, self._span]

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, each [kv_heads, tokens, head_dim]; views where they are not quantized."""
        keys, values = self.tail.slab.layer(index)
        return keys[self.tail.slot, :, self._span], values[self.tail.slot, :, self._span]

    def freeze(self) -> Segment:
        """A copy of these tokens."""
        return self.tail.freeze(self.start, self.start + self.tokens)

    @property
    def _span(self) -> slice:
        return slice(self.start, self.start + self.tokens)


class TailPool:
    """Tails of one fixed capacity, for Streams that come and go.

    Slabs are added when all slots are taken, and dropped when unused. The lowest free slot is taken first, so that
    slots in use lie close together.

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
        self._used: dict[tuple[Slab, int], int] = {}  # tokens written so far in each free slot

    @property
    def nbytes(self) -> int:
        """Allocated bytes of keys and values, free slots included."""
        return sum(slab.nbytes for slab in self._free)

    def take(self) -> Tail:
        """An empty tail. If no slot is free it allocates, and may run out of memory.

        The slot is zeroed here, as it may hold NaN, and not in `give_back`, which must not fail.
        """
        slab = next((slab for slab, free in self._free.items() if free), None)
        if slab is None:
            slab = Slab(self.layout, self.slots, self.capacity, self.stored)
            self._free[slab] = list(range(self.slots))
        slot = self._free[slab][0]
        slab.clear(slot, 0, self._used.get((slab, slot), 0))
        self._used.pop((slab, slot), None)
        heapq.heappop(self._free[slab])
        self.taken += 1
        return Tail(slab, slot, pool=self)

    def give_back(self, tail: Tail, touched: int) -> None:
        """Takes a slot back (called by `Tail.release`)."""
        slab = tail.slab
        heapq.heappush(self._free[slab], tail.slot)
        self.taken -= 1
        self._used[slab, tail.slot] = touched
        if len(self._free[slab]) == self.slots:
            del self._free[slab]
            for slot in range(self.slots):
                self._used.pop((slab, slot), None)
