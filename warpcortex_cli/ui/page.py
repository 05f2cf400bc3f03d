"""The page: text that streams into the terminal's own scrollback, with live panels below it.

Rich's `Live` prints only whole lines above its region, but a reply grows by parts of words. So the unfinished row is
the first row of the region, and full rows are written above it without a line break: the terminal wraps the text
itself, and text copied from the scrollback is as it was written.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable
from types import TracebackType

from rich.cells import get_character_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.style import Style

_DIM = Style(dim=True)
_PLAIN = Style()
_EVERY = 0.2  # seconds between redraws of the panels
_TEXT_EVERY = 0.04  # seconds between redraws of an unfinished row: each redraws the whole region


def _agreed(char: str, cells: int) -> bool:
    """Whether all terminals agree on a character's width; for marks, joiners and emoji they differ."""
    kind = unicodedata.category(char)
    return kind[0] in "LNPSZ" if cells == 1 else cells == 2 and kind == "Lo"


class _Raw:
    """Segments for the console, neither wrapped nor cropped."""

    def __init__(self, segments: list[Segment]) -> None:
        self.segments = segments

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.segments


class Page:
    """Writes one reply. A context manager. If the console is not a terminal, writes plain text without panels.

    Args:
        console: to write to.
        panels: draws the panels below the text for a width and a height.
    """

    def __init__(self, console: Console, panels: Callable[[int, int], RenderableType]) -> None:
        self.console = console
        self._panels = panels
        self._row: list[Segment] = []
        self._cells = 0
        self._soft = True  # whether the terminal may wrap the row itself; else a line break is written
        self._open = False  # whether the last line still lacks its line break
        self._below: list[list[Segment]] = []
        self._drawn_at = float("-inf")
        self._stale = False  # whether the unfinished row has text not yet on the screen
        self._shown_at = float("-inf")
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(
                console=console,
                get_renderable=lambda: self,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )

    def __enter__(self) -> Page:
        if self._live:
            self._draw()
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if self._open:
            self._print([*self._take_row(), Segment.line()])

    def write(self, text: str, *, dim: bool = False) -> None:
        """Appends cleaned text (see `ui.safe`)."""
        style = _DIM if dim else _PLAIN
        done: list[Segment] = []
        for char in text.expandtabs(4):
            self._open = char != "\n"
            if char == "\n":
                done += [*self._take_row(), Segment.line()]
                continue
            cells = get_character_cell_size(char)
            if self._live and self._cells + cells > self.console.width:
                soft = self._soft and self._cells == self.console.width
                done += self._take_row()
                if not soft:
                    done.append(Segment.line())
            self._append(char, cells, style)
        if not self._live:
            done += self._take_row()
        if done:
            self._print(done)
        self._stale = self._live is not None and not done
        self.tick()

    def tick(self, *, force: bool = False) -> None:
        """Redraws if the last redraw is old enough, or if forced."""
        if not self._live:
            return
        now = time.monotonic()
        if force or now - self._drawn_at >= _EVERY:
            self._draw()
        elif not self._stale or now - self._shown_at < _TEXT_EVERY:
            return
        self._live.refresh()
        self._stale, self._shown_at = False, now

    def _append(self, char: str, cells: int, style: Style) -> None:
        if self._row and self._row[-1].style is style:
            self._row[-1] = Segment(self._row[-1].text + char, style)
        else:
            self._row.append(Segment(char, style))
        self._cells += cells
        self._soft = self._soft and (char.isascii() or _agreed(char, cells))

    def _take_row(self) -> list[Segment]:
        row, self._row, self._cells, self._soft = self._row, [], 0, True
        return row

    def _print(self, segments: list[Segment]) -> None:
        self.console.print(_Raw(segments), crop=False)
        if not self._live:
            self.console.file.flush()

    def _draw(self) -> None:
        width, height = self.console.size
        lines = self.console.render_lines(self._panels(width, height), self.console.options, pad=False)
        self._below = lines[: max(0, height - 2)]
        self._drawn_at = time.monotonic()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._row
        for line in self._below:
            yield Segment.line()
            yield from line
