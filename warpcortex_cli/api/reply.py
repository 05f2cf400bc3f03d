"""A whole reply as one value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.jupyter import JupyterMixin
from rich.text import Text

from warpcortex_cli.events import Event, RiverFinished, RiverText, StreamSpawned
from warpcortex_cli.ui.answer import Answer
from warpcortex_cli.ui.panels import streams_table

if TYPE_CHECKING:
    from warpcortex_cli.engine.view import StreamView


@dataclass
class Reply(JupyterMixin):
    """What was answered, and by what.

    Attributes:
        text: the answer, without requests and thinking, as plain text.
        raw: River text as it was written.
        finish_reason: "stop", "length", "loop" or "interrupted".
        tokens: how many tokens the River wrote.
        seconds: how long it took.
        streams: the Streams of this reply.
        events: everything that happened, in order.
    """

    text: str = ""
    raw: str = ""
    finish_reason: str = ""
    tokens: int = 0
    seconds: float = 0.0
    streams: list[StreamView] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    _answer: Answer = field(default_factory=Answer, repr=False)

    def take(self, event: Event) -> None:
        """Takes an event of the reply."""
        self.events.append(event)
        if isinstance(event, RiverText):
            self._answer.feed(event)
        elif isinstance(event, RiverFinished):
            self.finish_reason, self.tokens, self.seconds = event.reason, event.tokens, event.seconds

    def finished(self, streams: list[StreamView]) -> Self:
        """Takes, of all Streams, those that were started in it, once it is over."""
        self._answer.finish()
        self.text, self.raw = self._answer.text, self._answer.raw
        mine = {event.id for event in self.events if isinstance(event, StreamSpawned)}
        self.streams = [stream for stream in streams if stream.id in mine]
        return self

    def __str__(self) -> str:
        return self.text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.text)
        if self.streams:
            yield streams_table(self.streams)
