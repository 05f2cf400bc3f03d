"""How far a swarm is: a live panel on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from warpcortex_cli.ui.panels import FULL_HEIGHT, FULL_WIDTH, STYLES, interesting, streams_table

if TYPE_CHECKING:
    from warpcortex_cli.engine.view import StreamView

_EVERY = 0.25  # seconds between redraws,
_OFTEN = 10.0  # and between lines where no panel can be drawn
_SPAN = 60.0  # seconds over which the speed is taken
_ROWS = 8


class Pace:
    """Thoughts a second over the last minute, and the time left."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, done: int) -> None:
        self.done = done
        self._seen.append((now, done))
        while now - self._seen[0][0] > _SPAN:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """Thoughts a second; 0 as long as it is not known."""
        if not self._seen or self._seen[-1][0] <= self._seen[0][0]:
            return 0.0
        (then, before), (now, done) = self._seen[0], self._seen[-1]
        return (done - before) / (now - then)

    @property
    def left(self) -> float | None:
        """Seconds until all are done, or None if not known."""
        return (self.total - self.done) / self.rate if self.rate else None

    def __str__(self) -> str:
        text = f"{self.done:,} of {self.total:,} thoughts"
        if self.rate:
            text += f", {self.rate:.3g} a second, {duration(self.left or 0.0)} left"
        return text


def duration(seconds: float) -> str:
    """`42 s`, `3 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


class SwarmPanel:
    """Shows a swarm while it runs. A context manager; `show` is called after each step.

    Args:
        awake: the Streams at work, for the panel.
        states: how many ended in which state.
    """

    def __init__(
        self,
        console: Console,
        pace: Pace,
        awake: Callable[[], Sequence[StreamView]],
        states: Mapping[str, int],
    ) -> None:
        self._console, self._pace, self._awake, self._states = console, pace, awake, states
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._shown = time.monotonic()

    def __enter__(self) -> SwarmPanel:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, done: int) -> None:
        """Takes note of how many thoughts there are, and draws if it is time."""
        now = time.monotonic()
        if now - self._shown < (_EVERY if self._live is not None else _OFTEN):
            return
        self._shown = now
        self._pace.note(now, done)
        if self._live is not None:
            self._live.update(self.panel(self._console.width, self._console.height), refresh=True)
        else:
            self._console.print(Text(str(self._pace), style="dim"), soft_wrap=True)

    def panel(self, width: int, height: int) -> RenderableType:
        """What is on the screen: never more lines than `height` - 1."""
        line = Table.grid(padding=(0, 1))
        line.add_row(ProgressBar(self._pace.total, self._pace.done, width=max(8, width // 5)), Text(str(self._pace)))
        if width < FULL_WIDTH or height < FULL_HEIGHT:
            return line
        shown, more = interesting(self._awake(), _ROWS)
        ended = Counter(self._states)
        said = ", ".join(f"{ended[state]:,} {state}" for state in STYLES if ended[state])
        return Group(line, streams_table(shown, more, said))
