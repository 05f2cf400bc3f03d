"""Blocks in few bytes: an error of half a step at most, and a broken head stays alone."""

from __future__ import annotations

import struct
import zlib
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from warpcortex_cli.memory.formats import (
    AS_IS,
    FORMATS,
    HALF,
    POLICIES,
    BlockFormat,
    Format,
    Policy,
    ladder,
    pack_bits,
    pack_block,
    uniform,
    unpack_bits,
    unpack_block,
)
from warpcortex_cli.profile import MemorySettings

CPU = torch.device("cpu")
QUANTIZED = [f for f in FORMATS if 0 < f.bits < 16]
HEADER = 14


def block(
    tokens: int = 32, layers: int = 3, heads: int = 2, dim: int = 64, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], list[Tensor]]:
    """Keys with channels far from zero, and values with some tokens larger than others."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(layers, heads, *shape, generator=generator)

    keys = normal(tokens, dim) * normal(1, dim) + 3 * normal(1, dim)
    return list(keys.to(dtype)), list((normal(tokens, dim) * normal(tokens, 1)).to(dtype))


def formats_of(data: bytes) -> list[Format]:
    """The format of each unit of a packed block: keys of all layers and heads, then values."""
    layers, heads = struct.unpack_from("<HH", data, 6)
    return [FORMATS[n] for n in data[HEADER : HEADER + 2 * layers * heads]]


def steps(units: Tensor, fmt: Format) -> Tensor:
    """The step that each number [n, tokens, dim] would have, if scales were stored exactly."""
    along = 1 if fmt.axis == "channel" else 2
    views = units.split([fmt.first, units.shape[1] - fmt.first], 1) if fmt.first and along == 1 else (units,)
    out = []
    for number, view in enumerate(views):
        wide = view.unflatten(2, (-1, fmt.group)) if fmt.group else view[:, :, None]
        dim = 3 if along == 2 or (len(views) == 2 and number == 0) else 1
        low, high = wide.amin(dim, keepdim=True), wide.amax(dim, keepdim=True)
        span = 2 * torch.maximum(high, -low) if fmt.symmetric else high - low
        step = span / (2**fmt.bits - 1)
        if not fmt.symmetric:  # an offset has 8 bits, in sixteenths of the levels
            step = torch.maximum(step, low.abs() / (126 * 2 ** (fmt.bits - 4)))
        out.append(step.expand_as(wide).reshape(view.shape))
    return torch.cat(out, 1)


@pytest.mark.parametrize("fmt", QUANTIZED, ids=str)
def test_no_error_is_larger_than_half_a_step(fmt: Format) -> None:
    """Rounding a scale up and an offset down to 8 bits each widens a step by a quarter at most."""
    units = torch.stack(block()[0]).flatten(0, 1)
    kept = fmt.decode(torch.frombuffer(bytearray(fmt.encode(units)), dtype=torch.uint8), *units.shape, torch.float32)
    error = (kept - units).abs()
    assert (error <= 0.5 * 1.25 * steps(units, fmt) + 1e-5).all()
    assert (error.square().mean((1, 2)).sqrt() <= fmt.worst(units) + 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(QUANTIZED),
    st.sampled_from([1, 3, 5, 31, 32]),
    st.sampled_from([8, 24, 64]),
    st.floats(1e-3, 1e3),
    st.floats(-1e3, 1e3),
    st.integers(0, 99),
)
def test_worst_is_the_worst(fmt: Format, tokens: int, dim: int, size: float, offset: float, seed: int) -> None:
    units = offset + size * torch.randn(3, tokens, dim, generator=torch.Generator().manual_seed(seed))
    data = fmt.encode(units)
    assert len(data) == fmt.nbytes(3, tokens, dim, 4)
    kept = fmt.decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), 3, tokens, dim, torch.float32)
    rounding = 4e-7 * (abs(offset) + 5 * size)  # of float32
    assert ((kept - units).square().mean((1, 2)).sqrt() <= fmt.worst(units) * (1 + 1e-4) + rounding).all()


@given(st.sampled_from([2, 3, 4, 5, 6, 8]), st.data())
def test_packing_bits_loses_nothing(bits: int, data: st.DataObject) -> None:
    codes = torch.tensor(data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=70)), dtype=torch.uint8)
    packed = pack_bits(codes, bits)
    assert len(packed) in (len(codes), -(-len(codes) // 8) * bits)
    assert torch.equal(unpack_bits(packed, bits, len(codes)), codes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("tokens", [1, 7, 32])
def test_exact_is_exact(dtype: torch.dtype, tokens: int) -> None:
    keys, values = block(tokens, dtype=dtype)
    keys[1][0, 0, 0] = float("nan")
    back = unpack_block(pack_block(keys, values, POLICIES["exact"]), dtype, CPU)
    for ours, theirs in zip((*back[0], *back[1]), (*keys, *values), strict=True):
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


def test_a_profile_may_name_every_format() -> None:
    named = get_args(MemorySettings.model_fields["stored"].annotation)
    assert set(named) == set(get_args(BlockFormat)) == set(POLICIES)


@pytest.mark.parametrize("name", get_args(BlockFormat))
@pytest.mark.parametrize("tokens", [1, 5, 32])
def test_every_policy_gives_the_block_back(name: BlockFormat, tokens: int) -> None:
    keys, values = block(tokens)
    data = pack_block(keys, values, POLICIES[name])
    own, theirs = unpack_block(data, torch.bfloat16, CPU)
    assert len(own) == len(theirs) == 3 and own[0].shape == keys[0].shape and own[0].dtype == torch.bfloat16
    most = {"exact": 0.01, "16": 0.01, "8": 0.02, "6/5": 0.1, "8/4": 0.2, "4/4": 0.2, "ladder": 0.5}[name]
    for ours, exact in zip((*own, *theirs), (*keys, *values), strict=True):
        assert (ours.float() - exact).norm() < most * exact.norm()
    plain = 2 * 3 * 2 * tokens * 64 * (4 if name == "exact" else 2)
    assert len(data) <= plain + HEADER + 4 + 12  # a few tokens never get larger than in 16 bits
    assert name in ("exact", "16") or tokens < 32 or len(data) < 0.6 * plain


@pytest.mark.parametrize("name", get_args(BlockFormat))
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -1e30])
def test_a_broken_head_spreads_to_no_other(name: BlockFormat, broken: float) -> None:
    keys, values = block()
    clean = unpack_block(pack_block(keys, values, POLICIES[name]), torch.float32, CPU)
    keys[1][0, 3, 7] = values[2][1, 0, 0] = broken
    back = unpack_block(pack_block(keys, values, POLICIES[name]), torch.float32, CPU)
    for side, (layer, head) in enumerate(((1, 0), (2, 1))):
        for i in range(3):
            for h in range(2):
                if (i, h) != (layer, head):
                    assert torch.equal(back[side][i][h], clean[side][i][h])
    assert torch.equal(back[0][1][0].nan_to_num(5.0), keys[1][0].nan_to_num(5.0))  # kept as it is


@pytest.mark.parametrize("bits", [8, 6, 5, 4, 3, 2])
@pytest.mark.parametrize("tokens", [32, 31])
def test_sizes_are_what_the_formula_says(bits: int, tokens: int) -> None:
    data = pack_block(*block(tokens), uniform(bits, bits))
    units, numbers = 12, tokens * 64
    expected = units * (numbers * bits / 8 + 2 * 64) + 12 + HEADER  # a scale and an offset for each channel
    assert abs(len(data) / expected - 1) < 0.02


@settings(max_examples=30, deadline=None)
@given(st.floats(0.003, 3), st.floats(0.003, 1), st.sampled_from([2, 9, 32]), st.integers(0, 99))
def test_the_ladder_keeps_its_bounds_or_16_bits(key_error: float, value_error: float, tokens: int, seed: int) -> None:
    keys, values = (torch.stack(side) for side in block(tokens, seed=seed))
    data = pack_block(list(keys), list(values), ladder(key_error, value_error))
    back = [torch.stack(side) for side in unpack_block(data, torch.float32, CPU)]
    errors = [(b - x).square().mean((2, 3)).sqrt().flatten() for b, x in zip(back, (keys, values), strict=True)]
    spread = (keys - keys.mean(2, keepdim=True)).square().mean((2, 3)).sqrt().flatten()
    size = values.square().mean((2, 3)).sqrt().flatten()
    kept = [*(errors[0] * spread <= key_error + 1e-4), *(errors[1] <= value_error * size + 1e-4)]
    assert all(ok or fmt in (HALF, AS_IS) for ok, fmt in zip(kept, formats_of(data), strict=True))


def test_a_looser_ladder_takes_fewer_bytes_and_each_head_its_own_format() -> None:
    keys, values = block()
    keys[0][1] *= 30
    sizes = [len(pack_block(keys, values, ladder(0.3 * x, x))) for x in (1e-6, 0.03, 0.1, 0.3, 1.0)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 3 * sizes[-1]
    used = formats_of(pack_block(keys, values, ladder(0.3, 0.3)))
    assert used[1].bits > used[0].bits  # the larger keys


def test_16_bits_of_a_16_bit_model_are_its_own() -> None:
    keys, values = block(dtype=torch.bfloat16)
    back = unpack_block(pack_block(keys, values, POLICIES["16"]), torch.bfloat16, CPU)
    assert torch.equal(torch.stack(back[0]), torch.stack(keys))


@pytest.mark.parametrize("name", get_args(BlockFormat))
def test_damage_is_noticed(name: BlockFormat) -> None:
    data = pack_block(*block(5, layers=1, heads=1, dim=8), POLICIES[name])
    for end in range(len(data)):
        with pytest.raises(ValueError, match="block"):
            unpack_block(data[:end], torch.float32, CPU)
    for place in range(0, len(data), 3):
        bad = bytearray(data)
        bad[place] ^= 0x40
        with pytest.raises(ValueError, match="block"):
            unpack_block(bytes(bad), torch.float32, CPU)
    with pytest.raises(ValueError, match="block"):
        unpack_block(data + b"\0", torch.float32, CPU)


@pytest.mark.parametrize(("place", "value"), [(4, 9), (5, 9), (6, 0), (8, 200), (10, 0), (12, 0), (13, 9), (14, 255)])
def test_a_header_that_says_something_else_is_noticed(place: int, value: int) -> None:
    bad = bytearray(pack_block(*block(5, layers=1, heads=1, dim=8), POLICIES["8"]))
    bad[place] = value
    bad[:4] = zlib.crc32(bytes(bad[4:])).to_bytes(4, "little")
    with pytest.raises(ValueError, match="block"):
        unpack_block(bytes(bad), torch.float32, CPU)


def test_what_is_no_block_is_refused() -> None:
    keys, values = block(4)
    empty = torch.zeros(2, 0, 8)
    for bad in (([], []), (keys, values[:2]), ([keys[0][:, :2], *keys[1:]], values), ([empty], [empty])):
        with pytest.raises(ValueError, match="block"):
            pack_block(*bad, POLICIES["8"])
    with pytest.raises(ValueError, match="type"):
        pack_block([k.int() for k in keys], [v.int() for v in values], POLICIES["8"])


def test_every_name_has_a_policy_and_formats_that_can_be_written() -> None:
    assert set(POLICIES) == set(get_args(BlockFormat))
    assert len(FORMATS) == len(set(FORMATS)) < 256
    known = [f for p in POLICIES.values() for f in (*p.keys, *p.values)]
    assert set(known) <= set(FORMATS) and isinstance(POLICIES["ladder"], Policy)
