"""Blocks of KV that left the working set, in three tiers.

Hot blocks are unpacked on the device, warm ones are packed in memory, cold ones are records in a file. When a tier is
over budget, its least recently used block moves down; a block that is used moves up. A block stays in the file once it
is written, so moving it down again costs nothing. If the file has a budget too, blocks evicted from it become bare:
only their tokens are kept, from which they can be recomputed.

The store alone writes to its file. Where that is a session's file, records of other kinds come through `save` and
`rewrite`, so nobody else has to know where blocks are.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from torch import Tensor

from warpcortex_cli.memory.formats import POLICIES, BlockFormat, pack_block, unpack_block
from warpcortex_cli.memory.log import DamagedError, Record, RecordLog
from warpcortex_cli.memory.scratch import ScratchLog
from warpcortex_cli.memory.segment import KVLayout
from warpcortex_cli.memory.shelf import Shelf

BLOCK = 32  # tokens
EARLIER = "an earlier run stored them"
Entry = tuple[int, int, bytes]  # kind, key and payload of a record
Plain = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]  # keys, unrotated, and values: per layer [kv_heads, tokens, d]


class BareError(KeyError):
    """The block was evicted: only its tokens are kept."""


@dataclass(frozen=True)
class Budgets:
    """Bytes that each tier may hold. Hot and warm hold at least one block. `cold`: None is no bound, 0 is no disk."""

    hot: int
    warm: int
    cold: int | None = None


@dataclass(frozen=True)
class Tier:
    """How much a tier holds: blocks, and bytes as stored."""

    blocks: int
    bytes: int

    def __add__(self, other: Tier) -> Tier:
        return Tier(self.blocks + other.blocks, self.bytes + other.bytes)

    def __sub__(self, other: Tier) -> Tier:
        return Tier(self.blocks - other.blocks, self.bytes - other.bytes)


class BlockStore:
    """Numbered blocks of unrotated keys and values. Each is warm, cold or bare, and may also be hot.

    Args:
        layout: shape and type of unpacked blocks.
        stored: the format of warm and cold blocks.
        budgets: of the tiers.

    Attributes:
        stored: the format of blocks that are put in from now on.
        failure: why the cold tier is no longer written; empty if it is. Blocks then stay warm beyond the budget.
    """

    def __init__(self, layout: KVLayout, stored: BlockFormat, budgets: Budgets) -> None:
        self._layout = layout
        self.stored = stored
        self._budgets = budgets
        self._hot: Shelf[Plain] = Shelf(_plain_bytes)
        self._warm: Shelf[bytes] = Shelf(len)
        self._cold: Shelf[Record] = Shelf(_record_bytes)
        self._copies: Shelf[Record] = Shelf(_record_bytes)  # records of blocks that are also warm
        self._bare: set[int] = set()
        self._recorded_bare: set[int] = set()  # bare blocks whose last record in the log is empty
        self._dead: set[Record] = set()  # records that nobody needs any more
        self._log: RecordLog | None = None
        self._kind = 0
        self._tidies = True
        self._formats: dict[int, BlockFormat] = {}  # of blocks that this process put in
        self._counts: Counter[str] = Counter()
        self.failure = ""

    def change(self, stored: BlockFormat, budgets: Budgets) -> None:
        """Sets the budgets, and the format of blocks put in from now on. Stored blocks keep theirs."""
        self.stored, self._budgets = stored, budgets
        self._settle()
        self._cap()

    # -- in and out ---------------------------------------------------------------------------------------------

    def put(self, number: int, keys: list[Tensor], values: list[Tensor]) -> None:
        """Adds a block, or replaces the one of this number."""
        self.forget(number)
        self._warm.put(number, pack_block(keys, values, POLICIES[self.stored]))
        self._note(number, self.stored)
        self._settle()

    def get(self, number: int) -> Plain:
        """A block's keys and values.

        Raises:
            BareError: only its tokens are kept.
            KeyError: there is no block of this number.
            DamagedError: its record is damaged.
        """
        if number not in self._hot:
            packed = self.packed(number)
            try:
                self._hot.put(number, unpack_block(packed, self._layout.dtype, self._layout.device))
            except ValueError as error:
                raise DamagedError(str(error)) from error
            if record := self._cold.pop(number):
                self._copies.put(number, record)
                self._warm.put(number, packed)
                self._settle()
        for shelf in (self._hot, self._warm, self._copies, self._cold):
            shelf.touch(number)
        self._cap()
        return self._hot[number]

    def _cap(self) -> None:
        """Drops unpacked blocks beyond their budget."""
        while self._hot.nbytes > self._budgets.hot and len(self._hot) > 1:
            self._hot.pop(self._hot.oldest())

    def packed(self, number: int) -> bytes:
        """A block as it is stored. Raises as `get` does."""
        if number in self._warm:
            return self._warm[number]
        if number in self._bare:
            raise BareError(number)
        if self._log is None:
            raise KeyError(number)
        return self._log.read(self._cold[number])

    def copy_from(self, other: BlockStore) -> None:
        """Takes a copy of another store's blocks, as they are stored, into this empty one.

        Raises:
            DamagedError: a record of the other is damaged.
        """
        for number in sorted({*other._warm, *other._cold}):
            self._warm.put(number, other.packed(number))
            self._note(number, other._formats.get(number))
            self._settle()
        for number in other._bare:
            self._lay_bare(number)

    def forget(self, number: int) -> None:
        """Drops a block and its record."""
        self._hot.pop(number)
        self._warm.pop(number)
        self._drop(self._copies, number)
        self._drop(self._cold, number)
        self._bare.discard(number)
        self._recorded_bare.discard(number)
        self._note(number, None)

    def _note(self, number: int, stored: BlockFormat | None) -> None:
        """Counts a block under its format; None: it is no longer stored."""
        before = self._formats.pop(number, None)
        if before is not None:
            self._counts[before] -= 1
        if stored is not None:
            self._formats[number] = stored
            self._counts[stored] += 1

    def _lay_bare(self, number: int) -> None:
        """Evicts a block: only its tokens remain."""
        self._bare.add(number)
        self._note(number, None)

    def truncate(self, blocks: int) -> None:
        """Drops all blocks from number `blocks` on."""
        for number in [n for n in chain(self._warm, self._cold, self._bare) if n >= blocks]:
            self.forget(number)

    # -- budgets ------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Moves blocks down until every tier is within its budget."""
        while self._warm.nbytes > self._budgets.warm and len(self._warm) > 1 and self._cool(self._warm.oldest()):
            pass
        self._shed()

    def _cool(self, number: int) -> bool:
        """Moves a warm block to the cold tier. False if the file could not be written."""
        record, packed = self._copies.pop(number), self._warm[number]
        if record is None and not self._has_room(len(packed)):
            self._lay_bare(number)
        else:
            try:
                self._cold.put(number, record or self._file().append(self._kind, number, packed))
            except OSError as error:
                self.failure = (
                    f"older context cannot be written to disk ({error.strerror or error}); it is kept in memory."
                )
                return False
            if record is None:
                self._recorded_bare.discard(number)
        self._warm.pop(number)
        return True

    def _has_room(self, size: int) -> bool:
        """Whether the cold tier can hold this many bytes when it holds nothing else."""
        return self._budgets.cold is None or size <= self._budgets.cold

    def _shed(self) -> None:
        """Evicts the least recently used cold blocks, then file copies of warm ones, until the file fits its budget."""
        while (self._cold or self._copies) and not self._has_room(self._cold.nbytes + self._copies.nbytes):
            if self._cold:
                self._lay_bare(self._cold.oldest())
                self._drop(self._cold, self._cold.oldest())
            else:
                self._drop(self._copies, self._copies.oldest())

    def _drop(self, shelf: Shelf[Record], number: int) -> None:
        if record := shelf.pop(number):
            self._dead.add(record)

    def left_out(self) -> set[int]:
        """Blocks that do not go to disk: bare ones, and those that do not fit its budget."""
        out, size = set(self._bare), 0
        if self._has_room(self._warm.nbytes + self._cold.nbytes):
            return out
        for shelf in (self._warm, self._cold):
            for number in reversed(shelf):
                size += shelf.size(number)
                if not self._has_room(size):
                    out.add(number)
        return out

    # -- the file -----------------------------------------------------------------------------------------------

    def use(self, log: RecordLog, kind: int) -> None:
        """Makes a log the cold tier, and moves blocks of the previous file there."""
        if self._log is log:
            return
        own, mine = self._cold, self._log
        self._cold, self._copies, self._recorded_bare, self._dead = (
            Shelf(_record_bytes),
            Shelf(_record_bytes),
            set(),
            set(),
        )
        self._log, self._kind, self._tidies = log, kind, True
        for number in own:
            if mine is not None:
                with contextlib.suppress(DamagedError):  # then there is no such block any more
                    self._warm.put(number, mine.read(own[number]), oldest=True)
                    self._settle()
        if isinstance(mine, ScratchLog):
            mine.close()

    def save(self, others: Iterable[Entry]) -> None:
        """Appends the blocks that are not in the log yet, then records of other kinds, and syncs: all or nothing.

        Raises:
            OSError: it could not be written. The log holds what it held before.
        """
        log = self._file()
        count = len(log.records)
        try:
            for number, packed in self._unwritten():
                log.append(self._kind, number, packed)
            for entry in others:
                log.append(*entry)
            log.commit()
        except OSError:
            with contextlib.suppress(OSError):  # readers stop at the last whole state anyway
                log.forget_from(count)
            raise
        self.take_up({r.key: r for r in log.records[count:] if r.kind == self._kind})

    def rewrite(self, blocks: Iterable[tuple[int, bytes]], others: Iterable[Entry]) -> None:
        """Replaces the log by all blocks and by records of other kinds: all or nothing.

        Args:
            blocks: every block, packed; those that are empty become bare.

        Raises:
            OSError: it could not be written; everything is what it was.
        """
        log = self._file()
        log.rewrite(chain(((self._kind, number, packed) for number, packed in blocks), others))
        self._moved({r.key: r for r in log.records if r.kind == self._kind})

    def take_up(self, records: dict[int, Record]) -> None:
        """Notes blocks that are in the log. An empty record marks a bare block."""
        for number, record in records.items():
            self._drop(self._cold, number)
            self._drop(self._copies, number)
            self._bare.discard(number)
            self._recorded_bare.discard(number)
            if not record.length:
                self._recorded_bare.add(number)
                if number not in self._warm:
                    self._lay_bare(number)
            elif number in self._warm:
                self._copies.put(number, record)
            else:
                self._cold.put(number, record)
        self._shed()

    def _moved(self, records: dict[int, Record]) -> None:
        """Notes where the blocks are after the log was rewritten."""
        kept = {n: records[n] for n in self._cold if n in records and records[n].length}
        for number, record in kept.items():  # in order of use
            self._cold.swap(number, record)
        self.take_up({n: r for n, r in records.items() if n not in kept})
        self._dead.clear()

    def _unwritten(self) -> Iterator[tuple[int, bytes]]:
        """What the log lacks, in order: blocks, and empty payloads for blocks that do not go to disk."""
        out = self.left_out()
        for number in sorted({*self._warm, *out}):
            held = number in self._copies or number in self._cold
            if number in out:
                if held or number not in self._recorded_bare:
                    yield number, b""
            elif not held:
                yield number, self._warm[number]

    def tidy(self) -> None:
        """Rewrites the file if much of it is dead. Its records move."""
        if self._log is None or not self._tidies:
            return
        if not self._log.worth_rewriting(sum(record.length for record in self._dead)):
            return
        before = self._log.records
        try:
            self._log.thin(self._dead)
        except OSError:  # then the file stays as large as it is
            self._tidies = False
            return
        self._dead.clear()
        for old, new in zip(before, self._log.records, strict=True):
            for shelf in (self._cold, self._copies):
                if old.kind == self._kind and old.key in shelf and shelf[old.key] == old:
                    shelf.swap(old.key, new)

    def _file(self) -> RecordLog:
        if self._log is None:
            self._log = ScratchLog()
        return self._log

    def close(self) -> None:
        """Closes the store's own scratch file, which removes it."""
        if isinstance(self._log, ScratchLog):
            self._log.close()

    # -- looking ------------------------------------------------------------------------------------------------

    def tiers(self) -> dict[str, Tier]:
        """Hot, warm and cold. A block counts in its highest tier. Only hot blocks, which are few, are walked."""
        hot, warm, cold = (Tier(len(shelf), shelf.nbytes) for shelf in (self._hot, self._warm, self._cold))
        for number in self._hot:
            if number in self._warm:
                warm -= Tier(1, self._warm.size(number))
            elif number in self._cold:
                cold -= Tier(1, self._cold.size(number))
        return {"hot": hot, "warm": warm, "cold": cold}

    def formats(self) -> dict[str, int]:
        """How many blocks are stored in which format, without bare ones."""
        earlier = len(self._warm) + len(self._cold) - self._counts.total()
        return {kind: n for kind, n in sorted([*self._counts.items(), (EARLIER, earlier)]) if n}

    @property
    def bare(self) -> int:
        """How many blocks have only their tokens left."""
        return len(self._bare) - sum(number in self._bare for number in self._hot)

    def __len__(self) -> int:
        return len(self._warm) + len(self._cold) + len(self._bare)


def _record_bytes(record: Record) -> int:
    return record.length


def _plain_bytes(block: Plain) -> int:
    return sum(tensor.nbytes for part in block for tensor in part)
