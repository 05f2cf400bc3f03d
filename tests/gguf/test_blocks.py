"""Blocks of ggml's types against the gguf package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from tests.gguf.files import random_blocks
from warpcortex_cli.gguf import blocks
from warpcortex_cli.gguf.blocks import grouped, unpacked
from warpcortex_cli.gguf.header import TYPES
from warpcortex_cli.gguf.served import KEPT, UNPACKED
from warpcortex_cli.prism import native

LEVELS = {
    "Q8_0": (0, 255, 8),
    "Q4_0": (0, 15, 4),
    "Q4_1": (0, 15, 4),
    "Q5_0": (112, 143, 8),
    "Q5_1": (0, 31, 8),
    "Q4_K": (0, 15, 4),
    "Q5_K": (0, 31, 8),
    "Q6_K": (96, 159, 8),
}


@pytest.mark.parametrize("kind", LEVELS)
def test_levels_and_scales_are_the_numbers_of_the_gguf_package(kind: str) -> None:
    raw = random_blocks(kind, 33, 768)
    want = quants.dequantize(raw, GGMLQuantizationType[kind])
    found = grouped(torch.from_numpy(raw), kind)
    assert found is not None
    assert found.size == (16 if kind == "Q6_K" else 32)
    assert found.levels.dtype is torch.uint8
    assert (int(found.levels.min()), int(found.levels.max()), found.bits) == LEVELS[kind], "all levels are met"
    assert (found.minima is None) == (kind in ("Q8_0", "Q4_0", "Q5_0", "Q6_K"))
    assert np.array_equal(found.weights().numpy(), want)


@pytest.mark.parametrize("kind", [*LEVELS, "Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS"])
@pytest.mark.parametrize("at_once", [1, 1000, 1 << 22])
def test_unpacking_by_parts(kind: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_AT_ONCE", at_once)
    raw = random_blocks(kind, 7, 512)
    want = torch.from_numpy(quants.dequantize(raw, GGMLQuantizationType[kind]))
    for dtype in (torch.float32, torch.bfloat16):
        found = unpacked(torch.from_numpy(raw), kind, dtype)
        assert found.dtype is dtype
        assert torch.equal(found, want.to(dtype))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_plain_numbers(kind: str) -> None:
    values = np.random.default_rng(3).normal(size=(5, 24)).astype(np.float32)
    raw = quants.quantize(values, GGMLQuantizationType[kind]).view(np.uint8).reshape(5, -1)
    want = torch.from_numpy(quants.dequantize(raw, GGMLQuantizationType[kind]))
    assert torch.equal(unpacked(torch.from_numpy(raw), kind, torch.float32), want)
    assert grouped(torch.from_numpy(raw), kind) is None


def test_the_tables_are_those_of_the_gguf_package() -> None:
    sizes = {int(kind): (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {number: entry for number, entry in TYPES.items() if sizes.get(number) != entry} == {}
    assert set(UNPACKED) <= {kind.name for kind in quants._type_traits}
    assert not set(KEPT) & set(UNPACKED)


@pytest.mark.skipif(not native.usable(), reason="there is no compiler")
@pytest.mark.parametrize("kind", native.BLOCKS)
@pytest.mark.parametrize("half", [None, 0x0001, 0x8003, 0x7BFF, 0x7C00, 0xFC00, 0x7E01], ids=str)
def test_blocks_are_packed_as_their_levels_are(kind: str, half: int | None) -> None:
    """To the byte, also where fp16 holds a scale badly; where one is no finite number, nothing is."""
    size, values, _ = native.BLOCKS[kind]
    assert (values, size) == next(entry[1:] for entry in TYPES.values() if entry[0] == kind)
    for at in (0, 2) if kind in ("Q4_1", "Q5_1", "Q4_K", "Q5_K") else (0,):
        raw = random_blocks(kind, 33, 768)
        if half is not None:
            raw[21, size + at : size + at + 2] = np.array([half], np.uint16).view(np.uint8)
        data = torch.from_numpy(raw)
        levels = grouped(data, kind)
        assert levels is not None
        finite = all(x is None or bool(x.isfinite().all()) for x in (levels.scales, levels.minima))
        assert finite == (half is None or half & 0x7C00 != 0x7C00)
        want = native.pack_grouped(levels)
        for parts in ([data], [data[:16], data[16:]], [data[:7], data[7:20], data[20:]]):  # alone, in whole panels, not
            found = native.pack_blocks(kind, parts, 768)
            assert (found is not None) == finite
            if found is not None:
                assert found[1] == want[1] and torch.equal(found[0], want[0])


@pytest.mark.skipif(not native.usable(), reason="there is no compiler")
def test_blocks_of_another_size_are_refused() -> None:
    rows = torch.from_numpy(random_blocks("Q4_1", 4, 64))
    for inputs, part in ((96, rows), (65, rows), (64, rows[:, :-1]), (64, rows.int())):
        with pytest.raises(ValueError):
            native.pack_blocks("Q4_1", [part], inputs)
