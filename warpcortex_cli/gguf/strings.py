"""Arrays of strings in a GGUF file, where each string follows its length of 8 bytes.

A vocabulary and its merges are a hundred thousand strings. Those under 256 bytes are found all at once, by the zeros in
their lengths; a loop in Python would take a fifth of a small model's load time.
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
)  # mean bytes of a string with its length: most arrays are below the first, nearly all below the last


@dataclass(frozen=True)
class Strings:
    """An array of strings as it is in the file, decoded on demand."""

    data: bytes = field(repr=False)
    count: int

    def __len__(self) -> int:
        return self.count

    @cached_property
    def decoded(self) -> list[str]:
        """All strings; bytes that are not UTF-8 are replaced."""
        found = self._split("\0", 0)
        return self._one_by_one() if found is None else found

    def pairs(self) -> list[tuple[str, str]] | None:
        """Each string as two words, if all are two words separated by a space and are found all at once; else None."""
        words = self._split(" ", 1)
        return None if words is None else list(zip(words[::2], words[1::2], strict=True))

    def _split(self, mark: str, within: int) -> list[str] | None:
        """All strings joined by a mark and split at each mark.

        None if not every string contains the mark `within` times, 0 or 1, or they cannot be found all at once.
        """
        held = np.frombuffer(self.data, np.uint8)
        starts = _starts(held, self.count)
        if starts is None:
            return None
        keep = np.ones(len(held), bool)
        for i in range(BEFORE):
            keep[starts + i] = False
        marks = np.flatnonzero(keep & (held == ord(mark)))
        if len(marks) != within * len(starts) or (
            within and not (np.all(starts < marks) and np.all(marks[:-1] < starts[1:]))
        ):
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
    """The size in bytes of an array of `count` strings at offset `at` of a file; None if the file ends within it.

    Args:
        data: the file's bytes, which are sliced.
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
    """The offsets of the lengths of the first `count` strings; None if they cannot be found all at once.

    A byte followed by seven zeros is taken for a length. This holds if each length then leads to the next one.
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
