"""Blocks move between tiers as they are used, and are the same in each."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from warpcortex_cli.memory.formats import POLICIES, pack_block
from warpcortex_cli.memory.log import DamagedError, RecordLog
from warpcortex_cli.memory.segment import KVLayout
from warpcortex_cli.memory.store import BLOCK, BlockStore

LAYOUT = KVLayout(2, 2, 8, torch.float32, torch.device("cpu"))


def block(number: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    keys = [torch.full((2, BLOCK, 8), number + layer / 10) for layer in range(2)]
    return keys, [-k for k in keys]


SIZE = len(pack_block(*block(0), POLICIES["exact"]))


@pytest.fixture
def store() -> Iterator[BlockStore]:
    made = BlockStore(LAYOUT, "exact", 3 * SIZE, hot_blocks=2)
    yield made
    made.close()


def is_whole(store: BlockStore, number: int) -> bool:
    keys, values = store.get(number)
    pairs = zip((*keys, *values), (t for part in block(number) for t in part), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_what_was_not_used_goes_down_and_what_is_asked_for_comes_up(store: BlockStore) -> None:
    for number in range(8):
        store.put(number, *block(number))
    tiers = store.tiers()
    assert {name: tier.blocks for name, tier in tiers.items()} == {"hot": 0, "warm": 3, "cold": 5}
    assert tiers["warm"].bytes == 3 * SIZE and tiers["cold"].bytes == 5 * SIZE
    assert is_whole(store, 0) and store.tiers()["hot"].blocks == 1
    assert all(is_whole(store, n) for n in range(8)) and store.tiers()["hot"].blocks == 2


@given(st.lists(st.tuples(st.sampled_from(["put", "get", "cut"]), st.integers(0, 9)), max_size=40))
@settings(deadline=None, max_examples=40)
def test_it_gives_back_what_it_was_given(actions: list[tuple[str, int]]) -> None:
    store, held = BlockStore(LAYOUT, "exact", 2 * SIZE, hot_blocks=1), set()
    for action, number in actions:
        if action == "put":
            store.put(number, *block(number))
            held.add(number)
        elif action == "cut":
            store.truncate(number)
            held = {n for n in held if n < number}
        elif number in held:
            assert is_whole(store, number)
        else:
            with pytest.raises(KeyError):
                store.get(number)
        assert len(store) == len(held) and sum(t.blocks for t in store.tiers().values()) == len(held)
    store.close()


def test_a_file_of_its_own_is_gone_when_it_is_closed(store: BlockStore) -> None:
    for number in range(6):
        store.put(number, *block(number))
    assert store._folder is not None
    folder = Path(store._folder.name)
    assert folder.exists() and (os.name == "nt" or not any(folder.iterdir()))  # nothing is left if it is killed
    store.close()
    assert not folder.exists()


def test_it_moves_into_a_log_that_it_is_given(store: BlockStore, tmp_path: Path) -> None:
    for number in range(6):
        store.put(number, *block(number))
    with RecordLog(tmp_path / "log") as log:
        store.use(log, 7)
        assert all(is_whole(store, n) for n in range(6)) and any(r.kind == 7 for r in log.records)


def test_a_full_disk_keeps_blocks_in_memory(store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordLog, "append", full)
    for number in range(6):
        store.put(number, *block(number))
    assert "No space left" in store.failure and all(is_whole(store, n) for n in range(6))


def test_damage_is_noticed(tmp_path: Path) -> None:
    with RecordLog(tmp_path / "log") as log:
        store = BlockStore(LAYOUT, "exact", 0, hot_blocks=1)
        store.use(log, 7)
        for number in range(2):
            store.put(number, *block(number))
        data = bytearray((tmp_path / "log").read_bytes())
        data[log.records[0].offset + 9] ^= 1
        (tmp_path / "log").write_bytes(data)
        with pytest.raises(DamagedError):
            store.get(0)
