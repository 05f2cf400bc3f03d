"""One reply of the River in an interactive terminal: streamed text, live panels, a summary line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console

from warpcortex_cli.events import Event, RiverFinished, RiverPrefilled, RiverStarted, RiverText, StreamSpawned
from warpcortex_cli.ui.page import Page
from warpcortex_cli.ui.panels import Scene, Usage, live_panels, summary
from warpcortex_cli.ui.safe import Cleaner
from warpcortex_cli.ui.terminal import interrupts, quiet_input

if TYPE_CHECKING:
    from warpcortex_cli.engine.session import Session

Probe = Callable[[], Usage | None]


class Reply:
    """Shows the events of one reply on a page. Requests and thinking are dim; white space at both ends is dropped."""

    def __init__(self, session: Session, console: Console, probe: Probe, injecting: bool) -> None:
        self._session = session
        self._probe = probe
        self._injecting = injecting
        self._first: int | None = None
        self._read = self._to_read = 0
        self._cleaner = Cleaner()
        self._blank: str | None = None  # white space held back until a word follows; None before the first word
        self._page = Page(console, lambda width, height: live_panels(self.scene(), width, height))
        self.finished: RiverFinished | None = None

    def scene(self) -> Scene:
        """The current state, with the Streams of this reply only."""
        view = self._session.snapshot()
        streams = [s for s in view.streams if self._first is not None and s.id >= self._first]
        return Scene(view, streams, self._probe(), self._injecting, self._read, self._to_read)

    def run(self, text: str) -> None:
        """Sends a user turn and shows its events until the reply is over."""
        with self._page as page:
            for event in self._session.send(text):
                self._take(event, page)
                page.tick()

    def _take(self, event: Event, page: Page) -> None:
        match event:
            case RiverStarted():
                self._to_read = event.prompt_tokens
            case RiverPrefilled():
                self._read, self._to_read = event.done, event.total
            case RiverText():
                self._write(self._cleaner.feed(event.text), page, dim=event.request or event.thinking)
            case StreamSpawned():
                self._first = event.id if self._first is None else self._first
            case RiverFinished():
                self._write(self._cleaner.finish(), page)
                self.finished = event

    def _write(self, text: str, page: Page, *, dim: bool = False) -> None:
        body = text.strip()
        if not body:
            self._blank = None if self._blank is None else self._blank + text
            return
        start = text.index(body)
        blank = "" if self._blank is None else self._blank + text[:start]
        self._blank = text[start + len(body) :]
        if blank:
            page.write(blank)
        page.write(body, dim=dim)


def show_reply(session: Session, text: str, console: Console, probe: Probe, injecting: bool) -> None:
    """Runs a turn in the terminal; Ctrl-C ends the reply and nothing else.

    Raises:
        WarpError: the turn was refused, or it failed while running.
    """
    reply = Reply(session, console, probe, injecting)
    with quiet_input(), interrupts(session.interrupt):
        reply.run(text)
    if reply.finished and console.is_terminal:
        done = reply.finished
        console.print(summary(reply.scene(), done.reason, done.seconds, done.tokens, console.width))
