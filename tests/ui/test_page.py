"""The page in an emulated terminal: what is on the screen and in scrollback, what copying gives."""

from __future__ import annotations

import re
from io import StringIO

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, Group
from rich.text import Text

from warpcortex_cli.ui.page import Page


class Terminal(StringIO):
    """A file that is a terminal: rows on the screen and rows that scrolled away."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self.screen = pyte.HistoryScreen(width, height, history=10_000, ratio=0.5)
        self.screen.set_mode(pyte.modes.LNM)  # what a tty's ONLCR does
        self.stream = pyte.Stream(self.screen)

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.stream.feed(text)
        return super().write(text)

    def rows(self) -> list[str]:
        width = self.screen.columns
        gone = ["".join(row[x].data for x in range(width)) for row in self.screen.history.top]
        return [row.rstrip() for row in (*gone, *self.screen.display)]

    def text(self) -> str:
        return "\n".join(self.rows()).rstrip("\n")


def console(file: StringIO, width: int = 20, height: int = 12) -> Console:
    return Console(file=file, width=width, height=height, force_terminal=True, highlight=False, markup=False)


def panels(width: int, height: int) -> Group:
    return Group(Text("PANEL one"), Text("PANEL two"))


def test_text_streams_above_panels_and_panels_leave_no_trace() -> None:
    file = Terminal(20, 12)
    with Page(console(file), panels) as page:
        for word in re.split(" ", "Mara has forty-seven ropes in the old mill.\n\nThat is all of it"):
            page.write(word + " ")
            page.tick(force=True)
            assert file.text().endswith("PANEL one\nPANEL two")
    shown = file.text()
    assert "PANEL" not in shown
    assert shown == "Mara has forty-seven\n ropes in the old mi\nll.\n\nThat is all of it"


def test_scrollback_holds_the_text_once() -> None:
    file = Terminal(20, 8)
    lines = [f"line {n} of the reply" for n in range(40)]
    with Page(console(file, height=8), panels) as page:
        for line in lines:
            page.write(line[:7])
            page.tick(force=True)
            page.write(line[7:] + "\n")
    joined = "".join(row.ljust(20) for row in file.rows())
    assert [f"line {n} of" in joined for n in range(40)] == [True] * 40
    assert joined.count("line 7 of") == 1 and "PANEL" not in joined


def test_rows_wrap_by_themselves_so_that_copying_gives_the_text() -> None:
    file = Terminal(20, 12)
    with Page(console(file), panels) as page:
        page.write("x" * 50)
    body = file.getvalue()
    assert "x" * 50 in body  # the terminal wrapped, not we
    assert file.text() == "\n".join(["x" * 20, "x" * 20, "x" * 10])


def test_emoji_rows_end_with_our_own_break() -> None:
    file = Terminal(20, 12)
    with Page(console(file), panels) as page:
        page.write("🙂" * 15)
    assert "🙂\n" in file.getvalue()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(alphabet=st.sampled_from("ab \n\té漢"), max_size=15), max_size=12))
def test_any_pieces(pieces: list[str]) -> None:
    file = Terminal(20, 12)
    with Page(console(file), panels) as page:
        for piece in pieces:
            page.write(piece, dim=piece.startswith("a"))
            page.tick(force=True)
    want: list[str] = []
    for line in "".join(p.expandtabs(4) for p in pieces).split("\n"):
        want.append("")
        for char in line:
            if sum(2 if c == "漢" else 1 for c in want[-1]) + (2 if char == "漢" else 1) > 20:
                want.append("")
            want[-1] += char
    got = [row.replace("漢 ", "漢") for row in file.rows()]
    assert "\n".join(got).rstrip("\n") == "\n".join(row.rstrip().replace("漢 ", "漢") for row in want).rstrip("\n")


def test_no_terminal_no_panels() -> None:
    file = StringIO()
    with Page(Console(file=file, width=20), panels) as page:
        page.write("a long line that is not wrapped at all")
        page.tick(force=True)
        page.write("\nsecond")
    assert file.getvalue() == "a long line that is not wrapped at all\nsecond\n"


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_a_failure_clears_the_panels(failure: type[BaseException]) -> None:
    file = Terminal(20, 12)
    with pytest.raises(failure), Page(console(file), panels) as page:
        page.write("half")
        raise failure
    assert file.text() == "half"
    assert "\x1b[?25h" in file.getvalue()  # the cursor is back
