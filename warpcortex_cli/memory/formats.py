"""Formats of stored blocks: keys and values of some tokens in few bytes.

The keys, or the values, of one head in one layer are a unit [tokens, head_dim] with a format of its own. Quantization
is uniform, in groups along the tokens of a channel or along the channels of a token. KIVI (arXiv 2402.02750) and
KVQuant (arXiv 2401.18079) group keys by channel and values by token, over many tokens and with 16-bit scales. A block
has few tokens, so scales and offsets have 8 bits here; otherwise they would take as much space as the numbers.
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

BlockFormat = Literal["exact", "16", "8", "6/5", "8/4", "4/4", "ladder"]
Axis = Literal["channel", "token"]
KV = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]

_SCALES = torch.exp2(
    torch.arange(256) / 7 - 22
)  # seven to the octave: each covers the one before and an offset's grain
_LARGEST = 8192.0  # a unit with larger numbers, or with NaN, is stored as it is
_FURTHEST = 126  # grains from zero to an offset, in a signed byte
_HEAD = struct.Struct("<IBBHHHH")  # checksum of what follows, version, type, layers, kv_heads, tokens, head_dim
_VERSION = 1
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class _Grid(NamedTuple):
    """Levels `low + scale * (0, 1, ...)` of groups, and the bytes that encode them; uint8 and int8."""

    scales: Tensor
    offsets: Tensor | None
    scale: Tensor
    low: Tensor


@dataclass(frozen=True)
class Format:
    """How a unit is stored.

    Attributes:
        bits: of a number; 16: a 16-bit float; 0: stored as it is.
        symmetric: whether levels lie around zero, so that a group has only a scale; otherwise it also has an offset.
        axis: whether a group runs along the tokens of a channel, or along the channels of a token.
        group: channels in a group of a token, if that divides the head; 0: all.
        first: if groups run along tokens, this many first tokens have scales of their own. The first tokens of a
            context are unlike all others (KVQuant).
    """

    bits: int
    symmetric: bool = False
    axis: Axis = "token"
    group: int = 0
    first: int = 0

    def nbytes(self, units: int, tokens: int, head_dim: int, itemsize: int) -> int:
        """Bytes of `units` units whose numbers had `itemsize` bytes, scales included."""
        if self.bits in (0, 16):
            return units * tokens * head_dim * (self.bits // 8 or itemsize)
        views = self._groups(torch.empty(units, tokens, head_dim, device="meta"))
        return sum(
            (2 - self.symmetric) * v.numel() // v.shape[d] + _packed_bytes(v.numel(), self.bits) for v, d in views
        )

    def encode(self, units: Tensor) -> bytes:
        """Units [n, tokens, head_dim], finite and not beyond `_LARGEST` unless they are stored as they are."""
        if self.bits in (0, 16):
            return _bytes(units if self.bits == 0 else units.to(torch.float16))
        parts = []
        for view, along in self._groups(units.float()):
            grid = self._grid(view.amin(along, keepdim=True), view.amax(along, keepdim=True))
            codes = ((view - grid.low) / grid.scale).round_().clamp_(0, 2**self.bits - 1).to(torch.uint8)
            parts += [
                _bytes(t) for t in (grid.scales, grid.offsets, pack_bits(codes.flatten(), self.bits)) if t is not None
            ]
        return b"".join(parts)

    def decode(self, data: Tensor, units: int, tokens: int, head_dim: int, dtype: torch.dtype) -> Tensor:
        """The inverse of `encode`, [units, tokens, head_dim]. `dtype`: of units that are stored as they are."""
        if self.bits in (0, 16):
            kept = data.clone().view(dtype if self.bits == 0 else torch.float16)  # a copy is aligned
            return kept.view(units, tokens, head_dim)
        out = torch.empty(units, tokens, head_dim)
        place = 0

        def take(count: int) -> Tensor:
            nonlocal place
            place += count
            return data[place - count : place]

        for view, along in self._groups(out):
            shape = [1 if d == along else n for d, n in enumerate(view.shape)]
            scales = take(math.prod(shape)).view(shape)
            offsets = None if self.symmetric else take(math.prod(shape)).view(torch.int8).view(shape)
            codes = unpack_bits(take(_packed_bytes(view.numel(), self.bits)), self.bits, view.numel())
            grid = self._levels(scales, offsets)
            torch.addcmul(grid.low, codes.view(view.shape).float(), grid.scale, out=view)
        return out

    def worst(self, units: Tensor) -> Tensor:
        """The root mean square of half a step over each unit, [n]: a bound of the error. Units as in `encode`."""
        total = torch.zeros(len(units))
        for view, along in self._groups(units):
            step = self._grid(view.amin(along, keepdim=True), view.amax(along, keepdim=True)).scale
            total += step.square().sum((1, 2, 3)) * view.shape[along]
        return (total / units[0].numel()).sqrt() / 2

    def _groups(self, units: Tensor) -> list[tuple[Tensor, int]]:
        """Views [n, tokens, groups, channels] into [n, tokens, head_dim], and the dimension that a group runs along."""
        tokens, dim = units.shape[1:]
        by_token = units.unflatten(2, (-1, self.group if self.group and dim % self.group == 0 else dim))
        if self.axis == "token":
            return [(by_token, 3)]
        if not 0 < self.first < tokens:
            return [(units[:, :, None], 1)]
        return [(by_token[:, : self.first], 3), (units[:, self.first :, None], 1)]

    def _grid(self, least: Tensor, most: Tensor) -> _Grid:
        """The finest levels that cover `least` to `most`."""
        top = 2**self.bits - 1
        if self.symmetric:
            return self._levels(torch.bucketize(2 * torch.maximum(-least, most) / top, _SCALES), None)
        grain = self._grain
        scales = torch.bucketize(torch.maximum((most - least) / top, least.abs() / (_FURTHEST * grain)), _SCALES)
        # Rounding the offset down may push the top level below the maximum; then use the next scale.
        step = _SCALES[scales]
        scales += ((least / (grain * step)).floor() * grain + top) * step < most
        return self._levels(scales, (least / (grain * _SCALES[scales])).floor())

    def _levels(self, scales: Tensor, offsets: Tensor | None) -> _Grid:
        scale = _SCALES[scales.int()]
        if offsets is None:
            return _Grid(scales.to(torch.uint8), None, scale, scale * (0.5 - 2 ** (self.bits - 1)))
        return _Grid(scales.to(torch.uint8), offsets.to(torch.int8), scale, scale * (self._grain * offsets))

    @property
    def _grain(self) -> float:
        """The unit of offsets, in steps: a sixteenth of the levels, so that offsets reach eight ranges from zero. If a
        group lies farther away, its steps grow."""
        return 2.0 ** (self.bits - 4)


_WIDTHS = (8, 6, 5, 4, 3, 2)
_GROUPS: tuple[tuple[Axis, int, int], ...] = (("channel", 0, 0), ("channel", 0, 4), ("token", 0, 0), ("token", 32, 0))
AS_IS, HALF = Format(0), Format(16)
# A format is stored as its index here, so new ones go to the end.
FORMATS: tuple[Format, ...] = (
    AS_IS,
    HALF,
    *(Format(b, s, *groups) for b, s, groups in itertools.product(_WIDTHS, (True, False), _GROUPS)),
)


@dataclass(frozen=True)
class Policy:
    """Which formats a block's units may have. The smallest with a small enough error is taken, else 16 bits.

    Through the softmax an error in a key multiplies weights, while errors in values are averaged. So they have separate
    limits, both for the root mean square of half a step.

    Attributes:
        keys, values: the formats to choose from. A format that few tokens make larger than 16 bits is skipped.
        key_error: limit in nats, of the error times the root mean square of the unit's keys about their mean. That
            stands for the queries, which are not known here; the common mean moves all logits alike.
        value_error: limit of the error relative to the root mean square of the unit's values.
    """

    keys: tuple[Format, ...]
    values: tuple[Format, ...]
    key_error: float = math.inf
    value_error: float = math.inf


def uniform(key_bits: int, value_bits: int) -> Policy:
    """One width for all keys, one for all values; by channel and with an offset, which measured best at any width."""
    return Policy((Format(key_bits, axis="channel"),), (Format(value_bits, axis="channel"),))


def ladder(key_error: float, value_error: float) -> Policy:
    """2 to 8 bits, chosen for each head of a block by its error."""
    rungs = tuple(Format(bits, axis="channel") for bits in _WIDTHS)
    return Policy(rungs, rungs, key_error, value_error)


# `python -m warpcortex_cli.lab.formats` measures them: on pocket uniform widths beat the ladder at equal bytes from
# three bits on.
POLICIES: dict[BlockFormat, Policy] = {
    "exact": Policy((AS_IS,), (AS_IS,)),
    "16": Policy((HALF,), (HALF,)),
    "8": uniform(8, 8),
    "6/5": uniform(6, 5),
    "8/4": uniform(8, 4),
    "4/4": uniform(4, 4),
    "ladder": ladder(0.6, 0.48),
}


def pack_block(keys: Sequence[Tensor], values: Sequence[Tensor], policy: Policy) -> bytes:
    """Packs a block into self-describing bytes.

    Args:
        keys, values: per layer [kv_heads, tokens, head_dim], keys unrotated.

    Raises:
        ValueError: the layers' shapes differ, there are no tokens, or the type is not a model's.
    """
    if len({t.shape for t in (*keys, *values)}) != 1 or len(keys) != len(values) or not keys[0].numel():
        raise ValueError("the layers of a block need keys and values of one shape")
    own = torch.stack([*keys, *values]).cpu()
    if own.dtype not in _DTYPES:
        raise ValueError(f"a block cannot hold numbers of type {own.dtype}")
    units = own.flatten(0, 1)
    chosen = _chosen(own.unflatten(0, (2, -1)), policy)
    parts = [bytes(chosen)]
    for number, at in _places(chosen):
        parts.append(FORMATS[number].encode(units if len(at) == len(chosen) else units[at]))
    body = _HEAD.pack(0, _VERSION, _DTYPES.index(own.dtype), len(keys), *own.shape[1:])[4:] + b"".join(parts)
    return struct.pack("<I", zlib.crc32(body)) + body


def unpack_block(data: bytes, dtype: torch.dtype, device: torch.device) -> KV:
    """Unpacks what `pack_block` made: keys and values, up to the formats' rounding.

    Raises:
        ValueError: these bytes are no such block.
    """
    if len(data) < _HEAD.size or zlib.crc32(memoryview(data)[4:]) != int.from_bytes(data[:4], "little"):
        raise ValueError("the bytes of a block are damaged")
    _, version, kind, layers, heads, tokens, head_dim = _HEAD.unpack_from(data)
    if version != _VERSION or kind >= len(_DTYPES):
        raise ValueError(f"a block of version {version} cannot be read")
    count, own = 2 * layers * heads, _DTYPES[kind]
    chosen = list(data[_HEAD.size : _HEAD.size + count])
    known = tokens and head_dim and 0 < count == len(chosen) and max(chosen) < len(FORMATS)
    if not known or len(data) != _size(chosen, tokens, head_dim, own):
        raise ValueError("the bytes of a block have another length than its formats")
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    out = torch.empty(count, tokens, head_dim, dtype=dtype)
    place = _HEAD.size + count
    for number, at in _places(chosen):
        size = FORMATS[number].nbytes(len(at), tokens, head_dim, own.itemsize)
        out[at] = FORMATS[number].decode(buffer[place : place + size], len(at), tokens, head_dim, own).to(dtype)
        place += size
    whole = out.view(2, layers, heads, tokens, head_dim).to(device)
    return tuple(whole[0]), tuple(whole[1])


def _size(chosen: Sequence[int], tokens: int, head_dim: int, own: torch.dtype) -> int:
    sizes = (FORMATS[n].nbytes(len(at), tokens, head_dim, own.itemsize) for n, at in _places(chosen))
    return _HEAD.size + len(chosen) + sum(sizes)


def _places(chosen: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Each chosen format with its units."""
    return [(n, [i for i, c in enumerate(chosen) if c == n]) for n in sorted(set(chosen))]


def _chosen(own: Tensor, policy: Policy) -> list[int]:
    """Formats of all units of [2, layers, kv_heads, tokens, head_dim]."""
    plain = own.float().abs().amax((3, 4)) <= _LARGEST  # False for NaN
    wide = torch.where(plain[..., None, None], own.float(), 0.0)
    chosen = torch.full(own.shape[:3], FORMATS.index(HALF))
    for side, (formats, bound) in enumerate(((policy.keys, policy.key_error), (policy.values, policy.value_error))):
        rungs = _by_size(formats, *own.shape[3:])
        if math.isinf(bound):
            chosen[side] = next(iter(rungs), FORMATS.index(HALF))
            continue
        units = wide[side]
        about = units - units.mean(2, keepdim=True) if side == 0 else units
        size = about.square().mean((2, 3)).sqrt()
        room = bound / size if side == 0 else bound * size
        for number in reversed(rungs):
            chosen[side][FORMATS[number].worst(units.flatten(0, 1)).view_as(room) <= room] = number
    if own.dtype.itemsize == 2:
        chosen[chosen == FORMATS.index(HALF)] = FORMATS.index(AS_IS)
    chosen[~plain] = FORMATS.index(AS_IS)
    return [int(n) for n in chosen.flatten()]


@cache
def _by_size(formats: tuple[Format, ...], tokens: int, head_dim: int) -> list[int]:
    """Indices of the formats, the smallest first, without those that few tokens make larger than 16 bits."""
    sizes = {FORMATS.index(f): f.nbytes(1, tokens, head_dim, 2) for f in formats}
    whole = HALF.nbytes(1, tokens, head_dim, 2)
    return sorted((n for n, size in sizes.items() if size < whole or FORMATS[n].bits in (0, 16)), key=sizes.__getitem__)


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes [n] below 2**bits as bytes [ceil(n / 8) * bits]: eight codes lie in `bits` bytes."""
    if bits == 8:
        return codes
    padded = torch.nn.functional.pad(codes, (0, -len(codes) % 8)).view(-1, 8).long()
    words = (padded << _shifts(bits)).sum(1, keepdim=True)
    return words.view(torch.uint8)[:, :bits].flatten()


def unpack_bits(data: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of what `pack_bits` made, uint8."""
    if bits == 8:
        return data
    words = torch.nn.functional.pad(data.view(-1, bits), (0, 8 - bits)).contiguous().view(torch.int64)
    return ((words >> _shifts(bits)) & (2**bits - 1)).to(torch.uint8).flatten()[:count]


@cache
def _shifts(bits: int) -> Tensor:
    return torch.arange(8) * bits


def _packed_bytes(count: int, bits: int) -> int:
    return count if bits == 8 else -(-count // 8) * bits


def _bytes(numbers: Tensor) -> bytes:
    return numbers.contiguous().view(torch.uint8).numpy().tobytes()
