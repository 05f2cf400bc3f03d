"""Arrays of strings in a GGUF file: each lies behind its length, which takes 8 bytes.

A vocabulary and its merges are a hundred thousand of them. Strings of fewer than 256 bytes are found by the zeros in
their lengths, all at once; a loop over them in Python would take a fifth of the time that a small model takes to load.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LENGTH = struct.Struct("<Q").unpack_from
BEFORE = 8  # bytes of a length
_EACH = (
    32,
    128,
)  # bytes of a string with its length: most arrays' are below the first number, nearly all below the last


@dataclass(frozen=True)
class Strings:
    """An array of strings as it lies in the file; it is decoded when it is asked for."""

    data: bytes = field(repr=False)
    count: int

    def __len__(self) -> int:
        return self.count

    @cached_property
    def decoded(self) -> list[str]:
        """All of them; what is not UTF-8 is replaced."""
        found = self._split("\0", 0)
        return self._one_by_one() if found is None else found

    def pairs(self) -> list[tuple[str, str]] | None:
        """The words of each, if each is two words with a blank between, and that can be told at once; else None."""
        words = self._split(" ", 1)
        return None if words is None else list(zip(words[::2], words[1::2], strict=True))

    def _split(self, mark: str, within: int) -> list[str] | None:
        """The text of all strings with a mark between, split at all marks.

        None if not each string holds the mark `within` times, or that cannot be told at once.
        """
        held = np.frombuffer(self.data, np.uint8)
        starts = _starts(held, self.count)
        if starts is None:
            return None
        keep = np.ones(len(held), bool)
        for i in range(BEFORE):
            keep[starts + i] = False
        if np.any(np.add.reduceat(keep & (held == ord(mark)), starts, dtype=np.int64) != within):
            return None
        text = held.copy()
        text[starts], keep[starts] = ord(mark), True
        try:
            return text[keep].tobytes().decode()[1:].split(mark)
        except UnicodeDecodeError:
            return None

    def _one_by_one(self) -> list[str]:
        found, at = [], 0
        for _ in range(self.count):
            (size,) = _LENGTH(self.data, at)
            at += BEFORE
            found.append(self.data[at : at + size].decode("utf-8", "replace"))
            at += size
        return found


def extent(data: Any, at: int, count: int) -> int | None:
    """Bytes of an array of `count` strings that begins at a place of a file; None if the file ends before.

    Args:
        data: the file's bytes, of which parts are taken.
    """
    if not count:
        return 0
    for each in _EACH:
        window = np.frombuffer(data[at : at + each * count], np.uint8)
        starts = _starts(window, count)
        if starts is not None:
            return int(starts[-1]) + BEFORE + int(window[starts[-1]])
    end, place = len(data) - BEFORE, at
    for _ in range(count):
        if place > end:
            return None
        place += BEFORE + _LENGTH(data, place)[0]
    return place - at if place <= len(data) else None


def _starts(data: NDArray[np.uint8], count: int) -> NDArray[np.int64] | None:
    """Where the lengths of the first `count` strings begin; None if that cannot be told at once.

    Seven zeros behind a byte are taken for a length. If each length then leads to the next one, that is what they are.
    """
    if len(data) < BEFORE:
        return None
    zero = data == 0
    within = len(data) - BEFORE + 1
    found = zero[1 : 1 + within].copy()
    for i in range(2, BEFORE):
        found &= zero[i : i + within]
    starts = np.flatnonzero(found)[:count]
    if len(starts) < count or starts[0] != 0:
        return None
    ends = starts + BEFORE + data[starts]
    return starts if np.array_equal(starts[1:], ends[:-1]) and ends[-1] <= len(data) else None
