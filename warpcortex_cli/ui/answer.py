"""The answer out of River text: without requests and thinking, and without the gaps that they leave."""

from __future__ import annotations

from warpcortex_cli.events import RiverText
from warpcortex_cli.ui.safe import Cleaner

_NO_SPACE_BEFORE = frozenset(".,;:!?)]}")


class Answer:
    """Collects a reply from its `RiverText` events.

    `feed` and at last `finish` give the characters that can be printed now, so that the pieces joined are the
    answer. White space is held back until something follows it: at both ends it is dropped, and where a request
    or thinking stood only one space, or the line break that was there, is left.

    Attributes:
        raw: River text as it was written, requests and thinking included and not cleaned.
        text: the answer so far.
    """

    def __init__(self) -> None:
        self.raw = ""
        self.text = ""
        self._cleaner = Cleaner()
        self._before = ""  # white space in front of a request, or just white space
        self._after = ""  # white space behind the last request
        self._cut = False  # whether a request stood in this gap

    def feed(self, event: RiverText) -> str:
        self.raw += event.text
        if event.request or event.thinking:
            if self._cut:
                self._before = _wider(self._before, self._after)
            self._cut, self._after = True, ""
            return ""
        return self._take(self._cleaner.feed(event.text))

    def finish(self) -> str:
        """What was held back, when the reply is over."""
        return self._take(self._cleaner.finish())

    def _take(self, text: str) -> str:
        body = text.lstrip()
        self._wait(text[: len(text) - len(body)])
        if not body:
            return ""
        kept = body.rstrip()
        piece = self._gap(kept[0]) + kept
        self._before, self._after, self._cut = body[len(kept) :], "", False
        self.text += piece
        return piece

    def _wait(self, blank: str) -> None:
        if self._cut:
            self._after += blank
        else:
            self._before += blank

    def _gap(self, following: str) -> str:
        """What stands between the answer so far and the character `following`."""
        if not self.text:
            return ""
        if not self._cut:
            return self._before
        lines = max(self._before.count("\n"), self._after.count("\n"))
        if lines:
            side = self._after if "\n" in self._after else self._before
            return "\n" * lines + side.rpartition("\n")[2]
        return " " if (self._before or self._after) and following not in _NO_SPACE_BEFORE else ""


def _wider(first: str, second: str) -> str:
    """Of two gaps the one that separates more."""
    return second if (second.count("\n"), len(second)) > (first.count("\n"), len(first)) else first
