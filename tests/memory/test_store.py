"""Blocks move between tiers as they are used, and are the same in each."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from warpcortex_cli.memory.formats import POLICIES, pack_block
from warpcortex_cli.memory.log import DamagedError, RecordLog
from warpcortex_cli.memory.segment import KVLayout
from warpcortex_cli.memory.store import BLOCK, BlockStore, Tier

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


def no_space(*args: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


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


def walked(store: BlockStore) -> dict[str, Tier]:
    """Tiers as counted block by block."""
    cold = [r.length for n, r in store._cold.items() if n not in store._warm and n not in store._hot]
    warm = [len(p) for n, p in store._warm.items() if n not in store._hot]
    hot = [sum(t.nbytes for t in (*keys, *values)) for keys, values in store._hot.values()]
    return {name: Tier(len(t), sum(t)) for name, t in (("hot", hot), ("warm", warm), ("cold", cold))}


OFTEN, SELDOM = ["put", "get"], ["cut", "forget", "save", "rewrite", "use", "full", "space"]
MOVES = st.tuples(st.sampled_from(OFTEN * 5 + SELDOM), st.integers(0, 4))


@given(st.integers(0, 2), st.lists(MOVES, min_size=20, max_size=60))
@settings(deadline=None, max_examples=100)
def test_counts_of_tiers_are_those_of_a_walk(warm: int, actions: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        log, append = RecordLog(Path(folder) / "log"), RecordLog.append
        store = BlockStore(LAYOUT, "8", warm * len(pack_block(*block(0), POLICIES["8"])), hot_blocks=2)
        for action, number in actions:
            if action == "put":
                store.put(number, *block(number))
            elif action == "get" and (number in store._warm or number in store._cold):
                store.get(number)
            elif action == "cut":
                store.truncate(number)
            elif action == "forget":
                store.forget(number)
            elif action == "use":
                store.use(log, 7)
            elif action == "save":  # as the archive does at a turn's end
                store.use(log, 7)
                if RecordLog.append is append:
                    store.written({n: log.append(7, n, packed) for n, packed in list(store.unwritten())})
            elif action == "rewrite" and store._log is log and RecordLog.append is append:
                kept = [(7, n, store.packed(n)) for n in sorted({*store._warm, *store._cold})]
                log.rewrite(kept)
                store.moved({r.key: r for r in log.records})
            elif action == "full":
                patch.setattr(RecordLog, "append", no_space)
            elif action == "space":
                patch.setattr(RecordLog, "append", append)
            assert store.tiers() == walked(store)
            assert len(store) == len({*store._warm, *store._cold}) == sum(t.blocks for t in store.tiers().values())
        patch.setattr(RecordLog, "append", append)
        store.close()
        log.close()


def test_counting_does_not_walk_the_store(store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        store.put(number, *block(number))
    before = store.tiers()

    class Unwalked(dict[int, object]):
        def __iter__(self) -> Iterator[int]:
            raise AssertionError("the cold tier was walked")

        items = values = keys = __iter__  # type: ignore[assignment]

    monkeypatch.setattr(store, "_cold", Unwalked(store._cold))
    assert store.tiers() == before and len(store) == 20


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
    monkeypatch.setattr(RecordLog, "append", no_space)
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
