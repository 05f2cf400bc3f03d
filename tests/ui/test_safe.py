from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpcortex_cli.ui.safe import Cleaner, clean, one_line

NASTY = [
    ("a\x1b[31mred\x1b[0mb", "aredb"),
    ("\x1b]0;title\x07x", "x"),
    ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
    ("\x1bPq#0;2\x1b\\after", "after"),
    ("\x9b2Jx\x9d0;t\x9cy", "xy"),
    ("\x1bc\x1b(Bx\x1b7", "x"),
    ("\x1b[1;2", ""),
    ("\x1b[12é", "é"),
    ("a\x07\x08\x00\x7f\x85b", "ab"),
    ("tab\tline\nend", "tab\tline\nend"),
    ("\x1b]never ends\nnext line", "\nnext line"),
    ("\x1b[\x1b[31mx", "x"),
    ("\x1b]abc\x1b[31mx", "x"),
    ("\x1b[31\x18x", "x"),
    ("[bold]not markup[/bold]", "[bold]not markup[/bold]"),
    ("\udc9b", "\ufffd"),
]


@pytest.mark.parametrize(("text", "expected"), NASTY)
def test_sequences_go_as_a_whole(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(("text", "expected"), NASTY)
def test_sequences_split_over_chunks(text: str, expected: str) -> None:
    cleaner = Cleaner()
    assert "".join(cleaner.feed(char) for char in text) == expected


@given(
    st.text(alphabet=st.sampled_from("ab\n\t\r\x1b[]P\\;m\x07\x9b\x9d\x9c\x18(é0"), max_size=60),
    st.lists(st.integers(0, 60)),
)
def test_any_split_gives_the_same_and_nothing_unsafe_is_left(text: str, cuts: list[int]) -> None:
    whole = Cleaner().feed(text)
    cleaner, places = Cleaner(), sorted({0, len(text), *(c for c in cuts if c < len(text))})
    assert "".join(cleaner.feed(text[a:b]) for a, b in pairwise(places)) == whole
    assert not any((c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" for c in whole)


def test_a_sequence_that_never_ends_does_not_hide_the_rest() -> None:
    assert clean("\x1b]" + "x" * 5000).endswith("x" * 3000)


def test_line_ends_and_one_line() -> None:
    assert clean("a\r\nb\rc") == "a\nb\nc"
    assert one_line(" a\n\n b\t\x1b[1mc ") == "a b c"
    assert one_line("x" * 50, 10) == "x" * 9 + "…"
