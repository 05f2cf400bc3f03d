"""Rooms: no memory for them; and quantized ones: half the bytes, a small error that stays where it was made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from warpcortex_cli.memory.room import Int8Room, Room
from warpcortex_cli.memory.segment import KVLayout
from warpcortex_cli.memory.tail import TailPool
from warpcortex_cli.probes.memory import available_memory

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=64, dtype=torch.bfloat16, device=torch.device("cpu"))


def overcommits() -> bool:
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip() in ("0", "1")
    except OSError:
        return False


@given(size=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_what_is_read_is_what_was_written_but_for_half_a_level(size: float, seed: int) -> None:
    layout = KVLayout(2, 2, 64, torch.float32, torch.device("cpu"))
    room = Int8Room.empty(layout, 1, slots=3, capacity=5).each()[0]
    new = size * torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(seed))
    room[1, :, 1:5] = new
    read = room[1, :, 1:5]
    level = new.abs().amax(-1, keepdim=True) / 127
    assert ((read - new).abs() <= 0.6 * level + 1e-3 * new.abs()).all()
    assert torch.equal(room.rows(torch.tensor([1]), 5)[0, :, 1:5], read)
    assert not room[0].any() and not room[2].any() and not room[1, :, 0].any()
    room.clear((1, slice(None), slice(0, 5)))
    assert not room[1].any()


def test_a_room_for_which_there_is_no_memory_is_refused_as_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int, **__: int) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", refuse)
    with pytest.raises(RuntimeError, match="not enough memory for 524288 bytes"):
        Room.empty(LAYOUT, 1, slots=16, capacity=128)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_broken_row_stays_finite_in_its_room(dtype: torch.dtype) -> None:
    room = Int8Room.empty(replace(LAYOUT, dtype=dtype), 1, slots=1, capacity=2).each()[0]
    room[0, :, 0:1] = torch.tensor([float("nan"), float("inf")], dtype=dtype).repeat(2, 1, 32)
    assert torch.isfinite(room[0]).all()


def test_int8_takes_about_half_of_the_bytes_of_bf16() -> None:
    plain, int8 = (TailPool(LAYOUT, 64, stored=stored).take() for stored in ("model", "int8"))
    assert 0.5 <= int8.nbytes / plain.nbytes < 0.52
    room = int8.slab.keys[0]
    assert isinstance(room, Int8Room)
    stored = sum(r.data.nbytes + r.scale.nbytes for r in int8.slab.rooms)  # type: ignore[attr-defined]
    assert stored == int8.slab.nbytes == 16 * int8.nbytes


@pytest.mark.skipif(not overcommits(), reason="the system promises no more memory than it has")
def test_a_room_may_be_larger_than_all_memory_as_long_as_it_is_not_written() -> None:
    """A profile may allow long tails to many Streams; most of it is never used."""
    slots = 2 * available_memory() // (8192 * LAYOUT.bytes_per_token)
    room = Room.empty(LAYOUT, 2 * LAYOUT.layers, slots + 1, 8192)
    room.data[0, slots, 0, 0] = 1
    assert not room.data[-1, 0, 0, 0].any()
