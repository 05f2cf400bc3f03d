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
    assert np.array_equal(found.values().numpy(), want)


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
