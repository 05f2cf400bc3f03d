from __future__ import annotations

import json
import re
from io import StringIO
from itertools import pairwise
from unicodedata import category

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from warpcortex_cli.ui.safe import Cleaner, SafeConsole, clean, one_line, readable, safe_json


def controls(char: str) -> bool:
    """Whether a character does something to a terminal or to the order of what stands beside it."""
    turns = "\u202a" <= char <= "\u202e" or "\u2066" <= char <= "\u2069"
    return turns or (category(char) in ("Cc", "Cs") and char not in "\n\t")


NASTY = [
    ("a\x1b[31mred\x1b[0mb", "aredb"),
    ("\x1b]0;title\x07x", "x"),
    ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
    ("\x1bPq#0;2\x1b\\after", "after"),
    ("\x9b2Jx\x9d0;t\x9cy\x90\x98\x9e\x9fz", "2Jx0;tyz"),
    ("\x1bc\x1b(Bx\x1b7", "x"),
    ("\x1b[1;2", ""),
    ("\x1b[12é", "é"),
    ("a\x07\x08\x00\x7f\x85b", "ab"),
    ("tab\tline\nend", "tab\tline\nend"),
    ("\x1b]never ends\nnext line", "]never ends\nnext line"),
    ("\x1bPnever ends", "Pnever ends"),
    ("\x1b]a\x07\x08b\x1b", "b"),
    ("\x1b[\x1b[31mx", "x"),
    ("\x1b]abc\x1b[31mx", "x"),
    ("\x1b[31\x18x", "x"),
    ("[bold]not markup[/bold]", "[bold]not markup[/bold]"),
    ("\udc9b", "\ufffd"),
    ("a\u202eb\u2066c\u2069", "abc"),
    ("a\r\nb\rc\x0cd\x0be\r\r\nf", "a\nb\nc\nd\ne\n\nf"),
]


@pytest.mark.parametrize(("text", "expected"), NASTY)
def test_sequences_go_as_a_whole(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(("text", "expected"), NASTY)
def test_sequences_split_over_chunks(text: str, expected: str) -> None:
    cleaner = Cleaner()
    assert "".join(cleaner.feed(char) for char in text) + cleaner.finish() == expected


@given(
    st.text(alphabet=st.sampled_from("ab\n\t\r\x0c\x1b[]P\\;m\x07\x9b\x9d\x9c\x18(é0\u202e"), max_size=60),
    st.lists(st.integers(0, 60)),
)
def test_any_split_gives_the_same_and_nothing_unsafe_is_left(text: str, cuts: list[int]) -> None:
    whole = clean(text)
    cleaner, places = Cleaner(), sorted({0, len(text), *(c for c in cuts if c < len(text))})
    assert "".join(cleaner.feed(text[a:b]) for a, b in pairwise(places)) + cleaner.finish() == whole
    assert not any(map(controls, whole))


LINE_ENDS = str.maketrans({"\r": "\n", "\x0b": "\n", "\x0c": "\n"})


@given(st.text(st.characters(exclude_characters="\x1b"), max_size=80))
@example("Anna said \xe2\u20ac\x9d. Mara keeps ropes: 47, brown, in the old mill.")
@example("\x90\x98\x9b\x9d\x9e\x9f" + "x" * 40)
def test_without_esc_nothing_but_control_characters_is_taken(text: str) -> None:
    ends = text.replace("\r\n", "\n").translate(LINE_ENDS)
    visible = "".join("\ufffd" if category(c) == "Cs" else c for c in ends)
    assert clean(text) == "".join(c for c in visible if not controls(c))
    assert readable(text) == "".join(c for c in visible if category(c) != "Cc" or c in "\n\t")


@given(st.text(st.sampled_from("ab\n\x1b[]P\\;m\x07"), max_size=60))
def test_with_esc_only_whole_sequences_are_taken(text: str) -> None:
    """By another way: a regular expression of what terminals take as one sequence."""
    string = r"\x1b[\]P](?:(?!\x1b)[^\n\x07])*(?:\x07|\x1b\\|(?=\x1b[^\\]))"
    sequence = rf"{string}|\x1b\[[ -?]*(?:[@-~]|(?=[^@-~])|$)|\x1b(?![\]P\[])[0-~]"
    assert readable(text) == re.sub(rf"{sequence}|[\x1b\x07]", "", text)


def test_directions_stay_in_what_comes_in() -> None:
    assert readable("\u2067שלום\u2069") == "\u2067שלום\u2069" and clean("\u2067שלום\u2069") == "שלום"


def test_a_console_prints_no_control_of_a_text() -> None:
    nasty = "Mara\x1b]0;owned\x07\x9b31m\u202eropes"
    table = Table(nasty, title=nasty)
    table.add_row(nasty, style="bold")
    for printed in (nasty, Text(nasty, style="red"), table, Panel(nasty)):
        console = SafeConsole(file=StringIO(), force_terminal=True, color_system="standard", width=60, markup=False)
        console.print(printed)
        out = console.file.getvalue()  # type: ignore[attr-defined]
        left = re.sub(r"\x1b\[[0-9;]*m", "", out)
        assert "Mara" in left and "31mropes" in left and not any(map(controls, left))
    with pytest.raises(BrokenPipeError):
        SafeConsole(file=Broken()).print("x")


class Broken(StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_json_holds_what_it_held_and_controls_nothing() -> None:
    value = {"a": "\x1b[31m\x9b\u202e\udc9b é\t\n"}
    document = safe_json(json.dumps(value, ensure_ascii=False, indent=1))
    assert json.loads(document) == value and "é" in document and not any(map(controls, document))


def test_a_sequence_that_never_ends_does_not_hide_the_rest() -> None:
    assert clean("\x1b]" + "x" * 5000).endswith("x" * 3000)


def test_line_ends_and_one_line() -> None:
    assert clean("a\r\nb\rc") == "a\nb\nc"
    assert one_line(" a\n\n b\t\x1b[1mc ") == "a b c"
    assert one_line("x" * 50, 10) == "x" * 9 + "…"
