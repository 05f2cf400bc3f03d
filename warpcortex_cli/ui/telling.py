"""What Streams do, as lines of text: for programs that show a model's reasoning beside its answer."""

from __future__ import annotations

from warpcortex_cli.events import Event, RiverText, StreamEnded, StreamSpawned
from warpcortex_cli.ui.safe import clean, one_line


class Telling:
    """Tells the events of a reply: the model's own thinking, each request, and what became of it."""

    def __init__(self) -> None:
        self._roles: dict[int, str] = {}
        self._open = False  # whether the model's own thinking has not ended its line

    def feed(self, event: Event) -> str:
        """The text that an event adds, often none."""
        match event:
            case RiverText(thinking=True):
                self._open = not event.text.endswith("\n")
                return clean(event.text)
            case StreamSpawned():
                self._roles[event.id] = event.role
                return self._line(f"{event.role}: {one_line(event.task)}")
            case StreamEnded():
                role = self._roles.get(event.id, "")
                return self._line(f"{role} {event.state}: {one_line(event.thought or event.reason)}")
        return ""

    def _line(self, text: str) -> str:
        before, self._open = "\n" if self._open else "", False
        return f"{before}{text}\n"
