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
from warpcortex_cli.memory.log import DamagedError, Record, RecordLog
from warpcortex_cli.memory.scratch import ScratchLog
from warpcortex_cli.memory.segment import KVLayout
from warpcortex_cli.memory.store import BLOCK, BareError, BlockStore, Budgets, Tier

LAYOUT = KVLayout(2, 2, 8, torch.float32, torch.device("cpu"))


def block(number: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    keys = [torch.full((2, BLOCK, 8), number + layer / 10) for layer in range(2)]
    return keys, [-k for k in keys]


SIZE = len(pack_block(*block(0), POLICIES["exact"]))
PLAIN = BLOCK * LAYOUT.bytes_per_token


@pytest.fixture
def store() -> Iterator[BlockStore]:
    made = BlockStore(LAYOUT, "exact", Budgets(2 * PLAIN, 3 * SIZE))
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
def test_blocks_are_read_as_they_were_put(actions: list[tuple[str, int]]) -> None:
    store, held = BlockStore(LAYOUT, "exact", Budgets(PLAIN, 2 * SIZE)), set()
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
    cold = [store._cold[n].length for n in store._cold if n not in store._hot]
    warm = [len(store._warm[n]) for n in store._warm if n not in store._hot]
    hot = [sum(t.nbytes for part in store._hot[n] for t in part) for n in store._hot]
    return {name: Tier(len(t), sum(t)) for name, t in (("hot", hot), ("warm", warm), ("cold", cold))}


def on_disk(store: BlockStore) -> int:
    return store._cold.nbytes + store._copies.nbytes


def contents(log: RecordLog) -> dict[int, Record]:
    """As the archive finds them when it opens the file."""
    return {record.key: record for record in log.records}


OFTEN, SELDOM = ["put", "get"], ["cut", "forget", "save", "rewrite", "use", "full", "space", "reopen"]
MOVES = st.tuples(st.sampled_from(OFTEN * 5 + SELDOM), st.integers(0, 6))
PACKED = len(pack_block(*block(0), POLICIES["exact"]))
WORTH = 3 * PACKED


@given(st.integers(1, 2), st.integers(0, 2), st.sampled_from([0, 1, 2, 4, None]), st.lists(MOVES, min_size=20))
@settings(deadline=None, max_examples=150)
def test_no_tier_grows_over_its_budget_and_no_block_is_lost(
    hot: int, warm: int, cold: int | None, actions: list[tuple[str, int]]
) -> None:
    """`warm` and `cold` in blocks. Counts are those of a walk, too."""
    budgets = Budgets(hot * PLAIN, warm * PACKED, None if cold is None else cold * PACKED)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("warpcortex_cli.memory.log.WORTH_REWRITING", WORTH)
        log, append, held, full = RecordLog(Path(folder) / "log"), RecordLog._write, set[int](), False
        store = BlockStore(LAYOUT, "exact", budgets)
        for action, number in actions:
            if action == "put":
                store.put(number, *block(number))
                held.add(number)
            elif action == "get" and number in held:
                try:
                    assert is_whole(store, number)
                except BareError:
                    assert cold is not None
                    store.put(number, *block(number))  # as the past does, from its tokens
                    assert is_whole(store, number)
            elif action == "cut":
                store.truncate(number)
                held = {n for n in held if n < number}
            elif action == "forget":
                store.forget(number)
                held.discard(number)
            elif action == "use":
                store.use(log, 7)
            elif action == "save" and not full:  # as the archive does at a turn's end
                store.use(log, 7)
                store.save(())
            elif action == "rewrite" and store._log is log and not full:
                left_out = store.left_out()
                store.rewrite([(n, b"" if n in left_out else store.packed(n)) for n in sorted(held)], ())
                assert log.nbytes <= on_disk(store) + 32 * len(held)
            elif action == "reopen" and not full:
                store.use(log, 7)
                store.save(())
                found = {n: r for n, r in contents(log).items() if n in held}
                assert found.keys() == held  # nothing that the log holds of a block is older than what it is now
                store = BlockStore(LAYOUT, "exact", budgets)
                store.use(log, 7)
                store.take_up(found)
            elif action in ("full", "space"):
                full = action == "full"
                patch.setattr(RecordLog, "_write", no_space if full else append)
            store.tidy()
            tiers = store.tiers()
            assert tiers == walked(store)
            assert len(store) == len(held) == sum(t.blocks for t in tiers.values()) + store.bare
            assert store._hot.nbytes <= hot * PLAIN
            assert store._warm.nbytes <= max(warm, 1) * PACKED or store.failure
            assert cold is None or on_disk(store) <= cold * PACKED
            if isinstance(store._log, ScratchLog) and store._tidies:
                assert store._log.nbytes <= 2 * on_disk(store) + WORTH + 64 * len(store._log.records)
        patch.setattr(RecordLog, "_write", append)
        store.close()
        log.close()


def test_what_falls_out_of_the_file_leaves_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks go through a small file in one turn; what a kill then leaves is whole, or known to be bare."""
    monkeypatch.setattr("warpcortex_cli.memory.log.WORTH_REWRITING", WORTH)
    with RecordLog(tmp_path / "log") as log:
        store = BlockStore(LAYOUT, "exact", Budgets(PLAIN, 0, 4 * PACKED))
        store.use(log, 7)
        sizes = []
        for number in range(100):
            store.put(number, *block(number))
            store.tidy()
            sizes.append((tmp_path / "log").stat().st_size)
        assert max(sizes) < 12 * PACKED and store.tiers()["cold"].blocks == 4 and store.bare == 95
        assert all(store.packed(n) == pack_block(*block(n), POLICIES["exact"]) for n in range(95, 100))
        with RecordLog(tmp_path / "log", readonly=True) as killed:
            assert contents(killed).keys() >= set(range(95))
            assert all(len(killed.read(r)) in (0, PACKED) for r in killed.records)


def test_a_block_that_was_bare_on_disk_and_came_back_is_said_to_be_bare_again(tmp_path: Path) -> None:
    with RecordLog(tmp_path / "log") as log:
        store = BlockStore(LAYOUT, "exact", Budgets(PLAIN, 3 * PACKED, 2 * PACKED))
        store.use(log, 7)

        def save() -> dict[int, int]:
            before = len(log.records)
            store.save(())
            return {record.key: record.length for record in log.records[before:]}

        for number in range(3):
            store.put(number, *block(number))
        assert save() == {0: 0, 1: PACKED, 2: PACKED}  # there is room for two
        store.put(3, *block(3))  # the oldest goes to disk, and from there again, for the others are there
        assert store.bare == 1
        assert save()[0] == 0


def test_what_was_used_last_stays_on_disk(tmp_path: Path) -> None:
    store = BlockStore(LAYOUT, "exact", Budgets(PLAIN, 0, 3 * PACKED))
    for number in range(4):
        store.put(number, *block(number))
    assert is_whole(store, 0)  # was used longest ago, and now last
    for number in range(4, 6):
        store.put(number, *block(number))
    with pytest.raises(BareError):
        store.get(1)
    assert is_whole(store, 0)
    store.close()


def test_a_store_without_a_disk_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordLog, "append", no_space)
    store = BlockStore(LAYOUT, "exact", Budgets(PLAIN, 2 * PACKED, 0))
    for number in range(6):
        store.put(number, *block(number))
    assert not store.failure and store._log is None and store.bare == 4 and is_whole(store, 5)


def test_counting_does_not_walk_the_store(store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        store.put(number, *block(number))
    before = store.tiers()

    class Unwalked(dict[int, object]):
        def __iter__(self) -> Iterator[int]:
            raise AssertionError("the cold tier was walked")

        items = values = keys = __iter__  # type: ignore[assignment]

    monkeypatch.setattr(store._cold, "_items", Unwalked(store._cold._items))
    assert store.tiers() == before and len(store) == 20


def test_a_file_of_its_own_is_gone_when_it_is_closed(store: BlockStore) -> None:
    for number in range(6):
        store.put(number, *block(number))
    assert isinstance(store._log, ScratchLog)
    folder = Path(store._log.folder.name)
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
        store = BlockStore(LAYOUT, "exact", Budgets(PLAIN, 0))
        store.use(log, 7)
        for number in range(2):
            store.put(number, *block(number))
        data = bytearray((tmp_path / "log").read_bytes())
        data[log.records[0].offset + 9] ^= 1
        (tmp_path / "log").write_bytes(data)
        with pytest.raises(DamagedError):
            store.get(0)
