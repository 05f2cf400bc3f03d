"""What Streams do, as lines of text: for programs that show a model's reasoning beside its answer."""

from __future__ import annotations

from collections.abc import Callable

from warpcortex_cli.events import Event, RiverText, StreamEnded, StreamSpawned
from warpcortex_cli.ui.safe import clean, one_line


class Telling:
    """Tells events of a reply.

    Args:
        thought: gives a Stream's thought by its number, or "".
    """

    def __init__(self, thought: Callable[[int], str]) -> None:
        self._thought = thought
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
                thought, role = one_line(self._thought(event.id)), self._roles.get(event.id, "")
                return self._line(f"{role} {event.state}: {thought or one_line(event.reason)}")
        return ""

    def _line(self, text: str) -> str:
        before, self._open = "\n" if self._open else "", False
        return f"{before}{text}\n"
