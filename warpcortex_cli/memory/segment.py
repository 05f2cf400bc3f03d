"""Immutable keys and values that any number of agents read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class KVLayout:
    """The shape of a model's keys and values, the same in every layer."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values of one token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


class Turns(Protocol):
    """What moving needs from a model's rotary embedding. `prism.rope.Rope` is the implementation."""

    def turn(self, keys: Sequence[Tensor], by: Tensor) -> list[Tensor]:
        """Keys of all layers, moved by `by` positions.

        Args:
            keys: per layer [kv_heads, tokens, head_dim], rotated.
            by: [tokens] or [layers, kv_heads, tokens].
        """
        ...


class Readable(Protocol):
    """Keys and values that a row can read: a `Segment`, or part of a tail."""

    @property
    def tokens(self) -> int: ...

    @property
    def layers(self) -> int: ...

    @property
    def positions(self) -> Tensor: ...

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, each [kv_heads, tokens, head_dim]."""
        ...


@dataclass(frozen=True, eq=False)
class Segment:
    """Keys and values of some tokens, immutable. A segment equals only itself.

    Attributes:
        keys: per layer [kv_heads, tokens, head_dim], rotated for `positions`.
        values: per layer [kv_heads, tokens, head_dim].
        positions: [tokens]; or [layers, kv_heads, tokens] if each head has its own tokens, as landmarks do.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    positions: Tensor

    @property
    def tokens(self) -> int:
        return self.keys[0].shape[1]

    @property
    def layers(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, without positions."""
        return sum(t.nbytes for t in (*self.keys, *self.values))

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, each [kv_heads, tokens, head_dim]."""
        return self.keys[index], self.values[index]

    def moved(self, rope: Turns, positions: Tensor) -> Segment:
        """The same tokens at other positions. Values are shared with this segment.

        Args:
            rope: the rotary embedding of the model that made the keys.
            positions: the new ones, broadcastable to this segment's.
        """
        keys = rope.turn(self.keys, positions - self.positions)
        return Segment(tuple(keys), self.values, positions.expand_as(self.positions).clone())


def join(segments: Sequence[Segment]) -> Segment:
    """One segment with the tokens of all, in order, so that its reader multiplies once a layer.

    Raises:
        ValueError: there are no segments, or positions have different shapes.
    """
    if not segments:
        raise ValueError("there is no segment to join")
    if len({s.positions.dim() for s in segments}) > 1:
        raise ValueError("segments with positions per head do not join others")
    layers = range(len(segments[0].keys))
    return Segment(
        keys=tuple(torch.cat([s.keys[i] for s in segments], 1) for i in layers),
        values=tuple(torch.cat([s.values[i] for s in segments], 1) for i in layers),
        positions=torch.cat([s.positions for s in segments], -1),
    )
