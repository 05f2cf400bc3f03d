"""Weights of ggml's types: exactly, as levels in groups with their scales, or as plain numbers.

A type with levels of at most 8 bits is one function here, equal to `gguf.quants.dequantize` to the bit. Other types are
dequantized by that.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from warpcortex_cli.gguf.grouped import Grouped

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_AT_ONCE = 1 << 18  # values unpacked in fp32 at a time


def grouped(data: Tensor, kind: str) -> Grouped | None:
    """Levels, scales and minima of rows of blocks, uint8 [rows, bytes]; None for a type not in `_KINDS`."""
    read = _KINDS.get(kind)
    return None if read is None else read(data)


def unpacked(data: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    """Rows of blocks, uint8 [rows, bytes], dequantized: [rows, columns].

    `kind` is one of `served.KEPT` or `served.UNPACKED`.
    """
    if kind in PLAIN:
        return data.view(PLAIN[kind]).to(dtype)
    read = _KINDS.get(kind)
    out: Tensor | None = None
    step = max(1, _AT_ONCE // (2 * data.shape[1]))  # in the types of `KEPT` a byte holds at most two values
    for start in range(0, len(data), step):
        part = data[start : start + step]
        values = _dequantized(part, kind) if read is None else read(part).weights()
        if out is None:
            out = torch.empty(len(data), values.shape[1], dtype=dtype)
        out[start : start + step] = values
    assert out is not None  # no tensor of a file is empty
    return out


def _dequantized(data: Tensor, kind: str) -> Tensor:
    from gguf import GGMLQuantizationType, quants

    return torch.from_numpy(quants.dequantize(data.contiguous().numpy(), GGMLQuantizationType[kind]))


# -- types ---------------------------------------------------------------------------------------------------
#
# Layouts: ggml-common.h and dequantize_row_* of ggml-quants.c. `blocks` is uint8 [rows, blocks, bytes of a block].


def _half(blocks: Tensor, at: int) -> Tensor:
    """The fp16 number at byte `at` of each block, fp32 [rows, blocks]."""
    return blocks[..., at : at + 2].contiguous().view(torch.float16)[..., 0].float()


def _nibbles(packed: Tensor) -> Tensor:
    """The low halves of bytes, then the high ones: [..., n] -> [..., 2 n]."""
    return torch.cat((packed & 15, packed >> 4), -1)


def _bits(packed: Tensor) -> Tensor:
    """Single bits, the lowest of the first byte first: [..., n] -> [..., 8 n]."""
    return (packed[..., None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten(-2)


def _rows(levels: Tensor) -> Tensor:
    """uint8 [rows, columns]"""
    return levels.reshape(levels.shape[0], -1)


def _q8_0(data: Tensor) -> Grouped:
    blocks = data.view(len(data), -1, 34)
    return Grouped(_rows(blocks[..., 2:] + 128), _half(blocks, 0), None, 8)


def _q4_0(data: Tensor) -> Grouped:
    blocks = data.view(len(data), -1, 18)
    return Grouped(_rows(_nibbles(blocks[..., 2:])), _half(blocks, 0), None, 4)


def _q4_1(data: Tensor) -> Grouped:
    blocks = data.view(len(data), -1, 20)
    return Grouped(_rows(_nibbles(blocks[..., 4:])), _half(blocks, 0), _half(blocks, 2), 4)


def _q5_0(data: Tensor) -> Grouped:
    blocks = data.view(len(data), -1, 22)
    levels = _nibbles(blocks[..., 6:]) | _bits(blocks[..., 2:6]) << 4
    return Grouped(_rows(levels), _half(blocks, 0), None, 5)


def _q5_1(data: Tensor) -> Grouped:
    blocks = data.view(len(data), -1, 24)
    levels = _nibbles(blocks[..., 8:]) | _bits(blocks[..., 4:8]) << 4
    return Grouped(_rows(levels), _half(blocks, 0), _half(blocks, 2), 5)


def _k_scales(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minima of the 8 groups of Q4_K and Q5_K, fp32 [rows, 8 blocks]: 6 bits each in 12 bytes."""
    low, high, rest = blocks[..., 4:16].split(4, -1)
    scales = torch.cat((low & 63, rest & 15 | low >> 6 << 4), -1)
    minima = torch.cat((high & 63, rest >> 4 | high >> 6 << 4), -1)
    scale, least = _half(blocks, 0)[..., None] * scales, _half(blocks, 2)[..., None] * minima
    return scale.flatten(1), least.flatten(1).neg_()


def _q4_k(data: Tensor) -> Grouped:
    blocks = data.view(len(data), -1, 144)
    levels = _nibbles(blocks[..., 16:].unflatten(-1, (4, 32)))
    return Grouped(_rows(levels), *_k_scales(blocks), 4)


def _q5_k(data: Tensor) -> Grouped:
    blocks = data.view(len(data), -1, 176)
    levels = _nibbles(blocks[..., 48:].unflatten(-1, (4, 32))).unflatten(-1, (2, 32)).flatten(-3, -2)
    high = blocks[..., None, 16:48] >> torch.arange(8, dtype=torch.uint8)[:, None] & 1
    return Grouped(_rows(levels | high << 4), *_k_scales(blocks), 5)


def _q6_k(data: Tensor) -> Grouped:
    blocks = data.view(len(data), -1, 210)
    low = _nibbles(blocks[..., :128].unflatten(-1, (2, 64))).unflatten(-1, (4, 32))
    high = blocks[..., 128:192].unflatten(-1, (2, 1, 32)) >> torch.tensor([[0], [2], [4], [6]], dtype=torch.uint8) & 3
    scales = _half(blocks, 208)[..., None] * blocks[..., 192:208].view(torch.int8)
    return Grouped(_rows(low | high << 4), scales.flatten(1), None, 6, size=16)


_KINDS: dict[str, Callable[[Tensor], Grouped]] = {
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
