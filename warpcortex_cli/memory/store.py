"""Blocks of KV that left the working set, in three tiers.

Hot blocks are unpacked on the device, warm ones packed in memory, cold ones records of a file. What was not used for
the longest time moves down when its tier is over its budget; what is asked for moves up. A block that was written to
the file stays there, so that moving down a second time costs nothing.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from warpcortex_cli.memory.formats import POLICIES, BlockFormat, pack_block, unpack_block
from warpcortex_cli.memory.log import DamagedError, Record, RecordLog
from warpcortex_cli.memory.segment import KVLayout

BLOCK = 32  # tokens
Plain = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]  # keys, unrotated, and values: per layer [kv_heads, tokens, d]


@dataclass(frozen=True)
class Tier:
    """How much is in one: blocks, and bytes as they are stored."""

    blocks: int
    bytes: int

    def __add__(self, other: Tier) -> Tier:
        return Tier(self.blocks + other.blocks, self.bytes + other.bytes)

    def __sub__(self, other: Tier) -> Tier:
        return Tier(self.blocks - other.blocks, self.bytes - other.bytes)


class BlockStore:
    """Numbered blocks of keys, unrotated, and values.

    Args:
        layout: shape and type of what comes out.
        stored: the format of warm and cold blocks.
        warm_bytes: of packed blocks in memory.
        hot_blocks: unpacked ones that are kept.

    Attributes:
        failure: why the cold tier is not written any more; empty while it is. Blocks then stay warm beyond the budget.
    """

    def __init__(self, layout: KVLayout, stored: BlockFormat, warm_bytes: int, hot_blocks: int) -> None:
        self._layout = layout
        self._policy = POLICIES[stored]
        self._warm_bytes, self._hot_blocks = warm_bytes, hot_blocks
        self._hot: OrderedDict[int, Plain] = OrderedDict()
        self._warm: OrderedDict[int, bytes] = OrderedDict()
        self._in_memory = 0  # bytes of warm blocks
        self._cold: dict[int, Record] = {}  # also of blocks that are warm besides
        self._below = Tier(0, 0)  # those that are not: counted as they move, for panels ask several times a second
        self._log: RecordLog | None = None
        self._kind = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.failure = ""

    # -- in and out ---------------------------------------------------------------------------------------------

    def put(self, number: int, keys: list[Tensor], values: list[Tensor]) -> None:
        """Takes a block in, in the place of an older one of this number."""
        self.forget(number)
        self._keep_warm(number, pack_block(keys, values, self._policy))

    def get(self, number: int) -> Plain:
        """A block's keys and values.

        Raises:
            KeyError: there is none of this number.
            DamagedError: its record is damaged.
        """
        if number not in self._hot:
            packed = self.packed(number)
            try:
                self._hot[number] = unpack_block(packed, self._layout.dtype, self._layout.device)
            except ValueError as error:
                raise DamagedError(str(error)) from error
            if number not in self._warm:
                self._keep_warm(number, packed)
        self._hot.move_to_end(number)
        while len(self._hot) > self._hot_blocks:
            self._hot.popitem(last=False)
        return self._hot[number]

    def packed(self, number: int) -> bytes:
        """A block as it is stored. Raises as `get` does."""
        if number in self._warm:
            self._warm.move_to_end(number)
            return self._warm[number]
        if self._log is None:
            raise KeyError(number)
        return self._log.read(self._cold[number])

    def forget(self, number: int) -> None:
        """Drops a block; of its record nothing is known any more."""
        self._hot.pop(number, None)
        self._drop_cold(number)
        self._drop_warm(number)

    def truncate(self, blocks: int) -> None:
        """Drops all blocks from number `blocks` on."""
        for number in [n for n in {*self._warm, *self._cold} if n >= blocks]:
            self.forget(number)

    def _keep_warm(self, number: int, packed: bytes) -> None:
        self._drop_warm(number)
        if number in self._cold:
            self._below -= _tier_of(self._cold[number])
        self._warm[number] = packed
        self._in_memory += len(packed)
        while self._in_memory > self._warm_bytes and len(self._warm) > 1 and self._cool(next(iter(self._warm))):
            pass

    def _cool(self, number: int) -> bool:
        """Moves a warm block down. False where the file does not take it."""
        if number not in self._cold:
            try:
                self._set_cold(number, self._file().append(self._kind, number, self._warm[number]))
            except OSError as error:
                self.failure = (
                    f"older context cannot be written to disk ({error.strerror or error}); it is kept in memory."
                )
                return False
        self._drop_warm(number)
        return True

    def _drop_warm(self, number: int) -> None:
        if number in self._warm:
            self._in_memory -= len(self._warm.pop(number))
            if number in self._cold:
                self._below += _tier_of(self._cold[number])

    def _set_cold(self, number: int, record: Record) -> None:
        self._drop_cold(number)
        self._cold[number] = record
        if number not in self._warm:
            self._below += _tier_of(record)

    def _drop_cold(self, number: int) -> None:
        record = self._cold.pop(number, None)
        if record is not None and number not in self._warm:
            self._below -= _tier_of(record)

    # -- the file -----------------------------------------------------------------------------------------------

    def use(self, log: RecordLog, kind: int) -> None:
        """Makes a log the cold tier; what is in a file of the store's own moves there."""
        if self._log is log:
            return
        own, mine = self._cold, self._log
        self._cold, self._below = {}, Tier(0, 0)
        self._log, self._kind = log, kind
        for number, record in own.items():
            if number not in self._warm and mine is not None:
                self._keep_warm(number, mine.read(record))
        self._drop_own(mine)

    def written(self, records: dict[int, Record]) -> None:
        """Blocks that are in the log now."""
        for number, record in records.items():
            self._set_cold(number, record)

    def moved(self, records: dict[int, Record]) -> None:
        """The log was written anew: its blocks are now in these records."""
        self._cold, self._below = {}, Tier(0, 0)
        self.written(records)

    def unwritten(self) -> Iterator[tuple[int, bytes]]:
        """Blocks that are in no record yet, in order."""
        for number in sorted(n for n in self._warm if n not in self._cold):
            yield number, self._warm[number]

    def _file(self) -> RecordLog:
        if self._log is None:  # nobody keeps this conversation: its file goes when it does
            self._folder = tempfile.TemporaryDirectory(prefix="warpcortex-", ignore_cleanup_errors=True)
            self._log = RecordLog(Path(self._folder.name) / "blocks")
            with contextlib.suppress(OSError):  # open, it needs no name; a killed process then leaves nothing behind
                self._log.path.unlink()
        return self._log

    def _drop_own(self, log: RecordLog | None) -> None:
        if self._folder is not None and log is not None:
            log.close()
            with contextlib.suppress(OSError):
                self._folder.cleanup()
            self._folder = None

    def close(self) -> None:
        """Closes and removes a file of its own."""
        self._drop_own(self._log)

    # -- looking ------------------------------------------------------------------------------------------------

    def tiers(self) -> dict[str, Tier]:
        """Hot, warm and cold; a block counts in the highest tier that holds it. Only hot ones are walked: a few."""
        hot, warm, cold = Tier(0, 0), Tier(len(self._warm), self._in_memory), self._below
        for number, (keys, values) in self._hot.items():
            hot += Tier(1, sum(t.nbytes for t in (*keys, *values)))
            if number in self._warm:
                warm -= Tier(1, len(self._warm[number]))
            elif number in self._cold:
                cold -= _tier_of(self._cold[number])
        return {"hot": hot, "warm": warm, "cold": cold}

    def __len__(self) -> int:
        return len(self._warm) + self._below.blocks


def _tier_of(record: Record) -> Tier:
    return Tier(1, record.length)
