"""Extracts the answer from River text: without requests and thinking, and without the gaps they leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from warpcortex_cli.events import RiverText
from warpcortex_cli.ui.safe import Cleaner

if TYPE_CHECKING:
    from warpcortex_cli.engine.contents import Said

_NO_SPACE_BEFORE = frozenset(".,;:!?)]}")


class Answer:
    """Collects a reply from its `RiverText` events.

    `feed`, and `finish` at the end, return what can be printed now; joined, the pieces are the answer. White space is
    held back until text follows. It is dropped at both ends; where a request or thinking was removed, one space or the
    line break is left.

    Attributes:
        raw: River text as written, with requests and thinking, not cleaned.
        text: the answer so far.
    """

    def __init__(self) -> None:
        self.raw = ""
        self.text = ""
        self._cleaner = Cleaner()
        self._before = ""  # white space not yet printed; in front of the request if there is one
        self._after = ""  # white space after the last request
        self._cut = False  # whether a request was removed from this gap

    def feed(self, event: RiverText) -> str:
        self.raw += event.text
        if event.request or event.thinking:
            if self._cut:
                self._before = _wider(self._before, self._after)
            self._cut, self._after = True, ""
            return ""
        return self._take(self._cleaner.feed(event.text))

    def finish(self) -> str:
        """The text held back, once the reply is over."""
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
        """The white space between the answer so far and `following`."""
        if not self.text:
            return ""
        if not self._cut:
            return self._before
        lines = max(self._before.count("\n"), self._after.count("\n"))
        if lines:
            side = self._after if "\n" in self._after else self._before
            return "\n" * lines + side.rpartition("\n")[2]
        return " " if (self._before or self._after) and following not in _NO_SPACE_BEFORE else ""


class Shown:
    """What a reader saw of each reply: a conversation that comes back from there holds answers, and no requests."""

    def __init__(self) -> None:
        self._replies: dict[tuple[int, str], str] = {}

    def note(self, place: int, answer: str, written: str) -> None:
        """Notes a reply: its place among the turns, what was shown of it, and all that was written."""
        self._replies[place, answer.strip()] = written

    def meant(self, turns: Sequence[Said]) -> list[Said]:
        """The turns, with what was written in the place of what was shown of it."""
        return [
            replace(said, text=self._replies.get((place, said.text.strip()), said.text))
            if said.role == "assistant"
            else said
            for place, said in enumerate(turns)
        ]

    def copy(self) -> Shown:
        other = Shown()
        other._replies = dict(self._replies)
        return other


def _wider(first: str, second: str) -> str:
    """The wider of two gaps."""
    return second if (second.count("\n"), len(second)) > (first.count("\n"), len(first)) else first
