"""LoRA adapters in the layout of the kernels, and the tokens of a step that have each.

A and B are rounded to bfloat16, about as exact as packed weights are. `kernels/lora.h` has the layout.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

LINEARS = ("qkv", "output", "gate_up", "down")  # products of a layer
_LANES, _RANKS, _MODULES = 16, 4, 3  # as in `kernels/`


class _Module(ctypes.Structure):
    """As in `kernels/`."""

    _fields_ = (("up", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("first", "panels", "from", "rank")))


class _Lora(ctypes.Structure):
    """As in `kernels/`."""

    _fields_ = (
        ("down", ctypes.c_void_p),
        ("ranks", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("modules", _Module * _MODULES),
    )


class _Layer(ctypes.Structure):
    """As in `kernels/`."""

    _fields_ = tuple((name, _Lora) for name in LINEARS)


class _Tokens(ctypes.Structure):
    """As in `kernels/`."""

    _fields_ = (("layers", ctypes.c_void_p), ("tokens", ctypes.c_void_p), ("count", ctypes.c_int64))


class _Adapted(ctypes.Structure):
    """As in `kernels/`."""

    _fields_ = (("of", ctypes.c_void_p), ("count", ctypes.c_int64), ("ranks", ctypes.c_int64))


@dataclass(frozen=True)
class Pair:
    """What an adapter adds to one linear layer: x @ down @ up.

    Attributes:
        down: A [inputs, rank].
        up: B with its scale [rank, outputs].
    """

    down: Tensor
    up: Tensor

    @property
    def nbytes(self) -> int:
        return self.down.nbytes + self.up.nbytes


class Place(NamedTuple):
    """Where a linear layer is among those that the kernels compute as one product.

    Attributes:
        layer: the number of the decoder layer.
        linear: one of `LINEARS`.
        first: its first output in that product.
    """

    layer: int
    linear: str
    first: int


class LowRank:
    """An adapter for layers that run as kernels.

    Args:
        pairs: what it adds to each linear layer, of matching sizes.
        layers: the number of the model's decoder layers.

    Attributes:
        layers: as given.
        ranks: the largest joint rank of a product, which sizes the buffers.
    """

    def __init__(self, pairs: Mapping[Place, Pair], layers: int) -> None:
        self.layers = layers
        self.ranks = self.nbytes = 0
        self._held: list[Tensor] = []
        self._given = (_Layer * self.layers)()
        together: dict[tuple[int, str], list[tuple[int, Pair]]] = {}
        for place, pair in sorted(pairs.items()):
            together.setdefault(place[:2], []).append((place.first, pair))
        for (layer, linear), modules in together.items():
            self._put(getattr(self._given[layer], linear), modules)

    @property
    def address(self) -> int:
        """The address of its layers, valid as long as this object lives."""
        return ctypes.addressof(self._given)

    def _put(self, given: Any, modules: list[tuple[int, Pair]]) -> None:
        inputs, parts = len(modules[0][1].down), list[Tensor]()
        for number, (first, pair) in enumerate(modules):
            lead, rank = first % _LANES, -(-pair.up.shape[0] // _RANKS) * _RANKS
            outputs = lead + pair.up.shape[1]
            panels = -(-outputs // _LANES)
            up = pad(pair.up, (lead, panels * _LANES - outputs, 0, rank - len(pair.up)))
            up = self._kept(up.view(rank, panels, _LANES).transpose(0, 1))
            given.modules[number] = _Module(
                up.data_ptr(), first // _LANES, panels, sum(p.shape[1] for p in parts), rank
            )
            parts.append(pad(pair.down, (0, rank - pair.down.shape[1])))
        down = torch.cat(parts, 1)
        down = pad(down, (0, -down.shape[1] % _LANES, 0, -inputs % _LANES))
        given.ranks, given.count = down.shape[1], len(modules)
        given.down = self._kept(down.unflatten(1, (-1, _LANES)).transpose(0, 1)).data_ptr()
        self.ranks = max(self.ranks, down.shape[1])

    def _kept(self, x: Tensor) -> Tensor:
        held = x.to(torch.bfloat16, memory_format=torch.contiguous_format).contiguous()
        self._held.append(held)
        self.nbytes += held.nbytes
        return held


class Adapted:
    """The tokens of a step that have adapters.

    Args:
        given: each adapter with the indices of its packed tokens, ascending.
    """

    def __init__(self, given: Sequence[tuple[LowRank, Sequence[int]]]) -> None:
        places = [torch.tensor(tokens, dtype=torch.long) for _, tokens in given]
        self.end = max(int(tokens[-1]) for tokens in places) + 1
        self.layers = min(adapter.layers for adapter, _ in given)
        pairs = zip(given, places, strict=True)
        of = (_Tokens * len(given))(*(_Tokens(a.address, at.data_ptr(), len(at)) for (a, _), at in pairs))
        self._held = given, places, of
        self._given = _Adapted(ctypes.addressof(of), len(given), max(adapter.ranks for adapter, _ in given))

    def address(self, rows: int, layers: int) -> int:
        """The address for the kernels, valid as long as this object lives.

        Args:
            rows: tokens of the step.
            layers: the number of the last layer, plus 1.

        Raises:
            ValueError: the adapters have fewer layers, or tokens beyond the step's.
        """
        if rows < self.end or layers > self.layers:
            raise ValueError(f"adapters of {self.layers} layers do not fit {layers}, or {self.end} tokens not {rows}")
        return ctypes.addressof(self._given)
