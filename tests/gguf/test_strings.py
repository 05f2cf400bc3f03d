"""Arrays of strings of a GGUF file, found at once or one by one."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from warpcortex_cli.gguf.strings import Strings, extent


def written(strings: list[bytes]) -> bytes:
    return b"".join(struct.pack("<Q", len(s)) + s for s in strings)


ANY = st.binary(max_size=300) | st.text(max_size=12).map(str.encode) | st.sampled_from([b"", bytes(9), b"\0", b" "])


@given(st.lists(ANY, max_size=12), st.binary(max_size=9), st.binary(max_size=9))
@example([b"a", b"bc", b"d e"], b"", b"")
@example([bytes(1), b"x"], b"", bytes(8))
@example([b"ab", b"\xe2\x82", b"\xac"], b"", b"")
def test_they_are_what_was_written(strings: list[bytes], before: bytes, behind: bytes) -> None:
    data = before + written(strings) + behind
    nbytes = extent(data, len(before), len(strings))
    assert nbytes == len(written(strings))
    held = Strings(data[len(before) : len(before) + nbytes], len(strings))
    texts = [s.decode("utf-8", "replace") for s in strings]
    assert held.decoded == texts
    pairs = held.pairs()
    if pairs is not None:
        assert [" ".join(pair) for pair in pairs] == texts


def test_pairs_of_words() -> None:
    usual = [b"a b", "\u0120 \u00e9".encode(), b"cd ef"] * 50
    assert Strings(written(usual), 150).pairs() == [("a", "b"), ("\u0120", "\u00e9"), ("cd", "ef")] * 50
    for strange in ([b"a b", b"c"], [b"a b c", b"d"], [b"\xff a"], [b"a b", bytes(8)]):
        assert Strings(written(strange), len(strange)).pairs() is None


@pytest.mark.parametrize("size", [3, 255, 256, 1 << 20, 1 << 60, (1 << 64) - 1])
def test_an_array_that_ends_behind_the_file_has_no_extent(size: int) -> None:
    data = written([b"abc"] * 40) + struct.pack("<Q", size) + b"ab"
    assert extent(data, 0, 41) is None
    assert extent(data, 0, 40) == 40 * 11
    assert extent(data[:5], 0, 1) is None
