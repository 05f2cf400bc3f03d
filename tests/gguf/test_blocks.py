"""Blocks of ggml's types against the gguf package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from tests.gguf.files import random_blocks
from warpcortex_cli.errors import ModelError
from warpcortex_cli.gguf import blocks
from warpcortex_cli.gguf.blocks import PLAIN, grouped, unpacked
from warpcortex_cli.gguf.grouped import Grouped
from warpcortex_cli.gguf.header import TYPES
from warpcortex_cli.gguf.layout import FileRows
from warpcortex_cli.gguf.served import KEPT, UNPACKED
from warpcortex_cli.prism import native
from warpcortex_cli.prism.packing import BLOCKS, Packing

needs_kernels = pytest.mark.skipif(not native.usable(), reason="there is no compiler")
LEVELS = {
    "Q8_0": (0, 255, 8),
    "Q4_0": (0, 15, 4),
    "Q4_1": (0, 15, 4),
    "Q5_0": (0, 31, 5),
    "Q5_1": (0, 31, 5),
    "Q4_K": (0, 15, 4),
    "Q5_K": (0, 31, 5),
    "Q6_K": (0, 63, 6),
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


def in_file(path: Path, parts: Sequence[np.ndarray], heads: int = 0, before: int = 7) -> list[FileRows]:
    """Rows of blocks, written one part after the other."""
    found = []
    with path.open("wb") as file:
        for part in parts:
            file.write(bytes(before))
            found.append(FileRows(path, file.tell(), len(part), heads))
            file.write(part.tobytes())
    return found


def packed(kind: str, rows: Sequence[FileRows], inputs: int) -> tuple[torch.Tensor, int]:
    def refuse() -> None:
        raise ModelError("not finite", "")

    packing = Packing()
    found = packing.add(kind, rows, inputs, refuse)
    packing.finish()
    return found


@needs_kernels
@pytest.mark.parametrize("kind", sorted(BLOCKS.keys() - PLAIN.keys()))
@pytest.mark.parametrize("half", [None, 0x0001, 0x8003, 0x7BFF, 0x7C00, 0xFC00, 0x7E01], ids=str)
def test_blocks_are_packed_as_their_levels_are(kind: str, half: int | None, tmp_path: Path) -> None:
    """To the byte, also where fp16 holds a scale badly; where one is no finite number, they are refused."""
    size, values, _ = BLOCKS[kind]
    assert (values, size) == next(entry[1:] for entry in TYPES.values() if entry[0] == kind)
    for at in (0, 2) if kind in ("Q4_1", "Q5_1", "Q4_K", "Q5_K") else (208,) if kind == "Q6_K" else (0,):
        raw = random_blocks(kind, 33, 768)
        if half is not None:
            raw[21, size + at : size + at + 2] = np.array([half], np.uint16).view(np.uint8)
        levels = grouped(torch.from_numpy(raw), kind)
        assert levels is not None
        finite = all(x is None or bool(x.isfinite().all()) for x in (levels.scales, levels.minima))
        assert finite == (half is None or half & 0x7C00 != 0x7C00)
        want = native.pack_grouped(levels)
        for parts in ([raw], [raw[:16], raw[16:]], [raw[:7], raw[7:20], raw[20:]]):  # alone, in whole panels, not
            rows = in_file(tmp_path / "blocks", parts)
            if not finite:
                with pytest.raises(ModelError, match="not finite"):
                    packed(kind, rows, 768)
                continue
            found, format = packed(kind, rows, 768)
            assert format == want[1] and torch.equal(found, want[0])


@needs_kernels
@pytest.mark.parametrize(("kind", "endless"), [("F16", 0x7C00), ("F16", 0xFE00), ("BF16", 0xFF80), ("BF16", 0x7FC0)])
def test_plain_numbers_are_packed_as_they_are(kind: str, endless: int, tmp_path: Path) -> None:
    """Every finite number of 16 bits, the smallest and the largest too; where one is not finite, they are refused."""
    every = np.arange(1 << 16, dtype=np.uint16)
    finite = every[np.isfinite(unpacked(torch.from_numpy(every.view(np.uint8)), kind, torch.float32).numpy())]
    raw = np.resize(finite, (40 * 64, 32)).view(np.uint8)
    found, format = packed(kind, in_file(tmp_path / "plain", [raw]), 32)
    want = unpacked(torch.from_numpy(raw), kind, torch.float32)
    assert torch.equal(native.unpack(found, format, torch.arange(len(raw)), 32), want)
    assert torch.equal(native.pack(want, format), found)
    raw[77, 10:12] = np.array([endless], np.uint16).view(np.uint8)
    with pytest.raises(ModelError, match="not finite"):
        packed(kind, in_file(tmp_path / "endless", [raw]), 32)


@needs_kernels
@pytest.mark.parametrize("heads, each", [(3, 6), (2, 64), (1, 4096), (5, 16)])
def test_rows_of_heads_whose_halves_take_turns(heads: int, each: int, tmp_path: Path) -> None:
    """In files of any size: what is read at once ends within a head, or holds many of them."""
    raw = random_blocks("Q4_1", heads * each, 256)
    order = torch.arange(heads * each).view(heads, each // 2, 2).transpose(1, 2).reshape(-1)
    want = grouped(torch.from_numpy(raw)[order], "Q4_1")
    assert want is not None
    plain = random_blocks("Q4_1", 20, 256, seed=6)
    behind = grouped(torch.from_numpy(plain), "Q4_1")
    assert behind is not None
    both = Grouped.concatenated([Grouped(x.levels, x.scales, x.minima, x.bits) for x in (want, behind)])
    rows = in_file(tmp_path / "turns", [raw], heads) + in_file(tmp_path / "plain", [plain])
    assert torch.equal(packed("Q4_1", rows, 256)[0], native.pack_grouped(both)[0])


@needs_kernels
def test_many_matrices_are_packed_at_once(tmp_path: Path) -> None:
    packing, wanted = Packing(), []
    for number, kind in enumerate([*BLOCKS] * 3):
        raw = random_blocks(kind, 40 + number, 512, seed=number)
        rows = in_file(tmp_path / str(number), [raw])
        wanted.append((packing.add(kind, rows, 512, lambda: None), packed(kind, rows, 512)))
    packing.finish()
    for mine, alone in wanted:
        assert mine[1] == alone[1] and torch.equal(mine[0], alone[0])


@needs_kernels
def test_a_file_that_became_shorter_or_went_away_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    rows = in_file(path, [random_blocks("Q8_0", 64, 256)])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"model\.gguf cannot be read: it ends too early"):
        packed("Q8_0", rows, 256)
    path.unlink()
    with pytest.raises(ModelError, match=r"model\.gguf cannot be read: No such file"):
        packed("Q8_0", rows, 256)


@needs_kernels
def test_blocks_of_another_size_are_refused(tmp_path: Path) -> None:
    for inputs, count, heads in ((65, 4, 0), (33, 4, 0), (64, 6, 2)):
        with pytest.raises(ValueError):
            Packing().add("Q4_1", [FileRows(tmp_path, 0, count, heads)], inputs, lambda: None)
