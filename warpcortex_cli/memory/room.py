"""Storage for a slab's keys and values: in the model's own type, or in int8 with scales."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from math import prod
from typing import Any, Literal, Self

import torch
from torch import Tensor

from warpcortex_cli.memory.segment import KVLayout

Stored = Literal["model", "int8"]
_LEVELS = 127
_SCALE = torch.float16  # one for each token and KV head
_PAGES = 1 << 18  # bytes from which a room is mapped on pages of its own
# Linux refuses a mapping larger than all of its memory unless it is told that most of it may stay unwritten.
_UNRESERVED = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE, which Python names from 3.13 on


def blank(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros. On a CPU they take memory only where they are written, page by page, and all of it returns to the system.

    So an agent costs what it uses of its room, and leaves no holes in the heap.

    Raises:
        RuntimeError: there is no memory.
    """
    nbytes = prod(shape) * dtype.itemsize
    if device.type != "cpu" or nbytes < _PAGES:
        return torch.zeros(shape, dtype=dtype, device=device)
    ours = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _UNRESERVED} if hasattr(mmap, "MAP_PRIVATE") else {}
    try:
        pages = mmap.mmap(-1, nbytes, **ours)
    except OSError as error:
        raise RuntimeError(f"not enough memory for {nbytes} bytes of keys or values: {error}") from error
    return torch.frombuffer(pages, dtype=dtype).view(shape)


class Room:
    """[slots, kv_heads, capacity, head_dim] in the model's type. An `index` is what a tensor is indexed with."""

    def __init__(self, layout: KVLayout, data: Tensor) -> None:
        self.layout = layout
        self.data = data

    @classmethod
    def empty(cls, layout: KVLayout, count: int, slots: int, capacity: int) -> Self:
        """`count` rooms in one, [count, slots, ...].

        Raises:
            RuntimeError: there is not enough memory.
        """
        shape = count, slots, layout.kv_heads, capacity, layout.head_dim
        return cls(layout, blank(shape, layout.dtype, layout.device))

    def each(self) -> Sequence[Self]:
        """The rooms in this one, as views."""
        return [type(self)(self.layout, data) for data in self.data.unbind(0)]

    def __getitem__(self, index: Any) -> Tensor:
        """The numbers at an index, in the model's type; a view if the index allows it."""
        return self.data[index]

    def __setitem__(self, index: Any, new: Tensor) -> None:
        self.data[index] = new

    def put(self, index: Any, new: Sequence[Tensor]) -> None:
        """Writes one tensor to each of the rooms in this one."""
        for part, one in zip(self.data[index].unbind(0), new, strict=True):
            part.copy_(one)

    def clear(self, index: Any) -> None:
        self.data[index] = 0

    def rows(self, slots: Tensor, extent: int) -> Tensor:
        """The first `extent` tokens of some slots, [n, kv_heads, extent, head_dim]."""
        return self.data[:, :, :extent].index_select(0, slots)

    @staticmethod
    def bytes_per_token(layout: KVLayout) -> int:
        """Bytes of keys and values of one token over all layers."""
        return layout.bytes_per_token


class Int8Room(Room):
    """The same in int8, with a scale for each token and KV head; half of bf16's bytes.

    Reading makes a copy in the model's type, which lives as long as one layer's attention.
    """

    def __init__(self, layout: KVLayout, data: Tensor, scale: Tensor) -> None:
        super().__init__(layout, data)
        self.scale = scale

    @classmethod
    def empty(cls, layout: KVLayout, count: int, slots: int, capacity: int) -> Self:
        shape = count, slots, layout.kv_heads, capacity
        data = blank((*shape, layout.head_dim), torch.int8, layout.device)
        return cls(layout, data, blank((*shape, 1), _SCALE, layout.device))

    def each(self) -> Sequence[Self]:
        pairs = zip(self.data.unbind(0), self.scale.unbind(0), strict=True)
        return [type(self)(self.layout, data, scale) for data, scale in pairs]

    def __getitem__(self, index: Any) -> Tensor:
        return self._plain(self.data[index], self.scale[index])

    def __setitem__(self, index: Any, new: Tensor) -> None:
        wide = new.float()
        # Finite even if the row is broken: its slot is read together with others.
        most = min(torch.finfo(self.layout.dtype).max, torch.finfo(_SCALE).max) / (_LEVELS + 1)
        scale = (wide.abs().amax(-1, keepdim=True) / _LEVELS).nan_to_num(0.0).clamp_max(most).to(_SCALE)
        self.scale[index] = scale
        self.data[index] = (wide / scale.float().clamp_min(1e-7)).nan_to_num(0.0).round_().clamp_(-127, 127).char()

    def put(self, index: Any, new: Sequence[Tensor]) -> None:
        for room, one in zip(self.each(), new, strict=True):  # one at a time, because intermediate results are wide
            room[index[1:]] = one

    def clear(self, index: Any) -> None:
        self.data[index] = 0
        self.scale[index] = 0

    def rows(self, slots: Tensor, extent: int) -> Tensor:
        data, scale = (t[:, :, :extent].index_select(0, slots) for t in (self.data, self.scale))
        return self._plain(data, scale)

    def _plain(self, data: Tensor, scale: Tensor) -> Tensor:
        return data.to(self.layout.dtype) * scale.to(self.layout.dtype)

    @staticmethod
    def bytes_per_token(layout: KVLayout) -> int:
        return 2 * layout.layers * layout.kv_heads * (layout.head_dim + _SCALE.itemsize)


ROOMS: dict[Stored, type[Room]] = {"model": Room, "int8": Int8Room}
