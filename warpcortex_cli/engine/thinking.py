"""Finds where in a reply the model thinks, while the reply is being written."""

from __future__ import annotations

from itertools import pairwise

from warpcortex_cli.engine.text import begun
from warpcortex_cli.prism.chat_format import Thinking


class Thoughtful:
    """The stretches of a growing text between thinking tags, the tags included.

    Args:
        tags: the model's. If the model is not known to use them, they count only at the beginning of a reply, so that
            an answer about such tags is shown.
        opened: whether the text begins within such a stretch.

    Attributes:
        borders: where thinking begins and ends, in turn; the first is 0 if the text begins with thinking.
        settled: how many of the first characters are decided.
    """

    def __init__(self, tags: Thinking, opened: bool) -> None:
        self._tags = tags
        self.borders: list[int] = [0] if opened else []
        self.settled = 0

    @property
    def inside(self) -> bool:
        return len(self.borders) % 2 == 1

    def look(self, text: str) -> None:
        """Looks at the whole text so far."""
        while True:
            tag = self._tags.closing if self.inside else self._tags.opening
            found = self._next(text, tag)
            if found is None:
                break
            self.settled = found + len(tag)
            self.borders.append(self.settled if self.inside else found)
        self.settled = len(text) - (begun(text[self.settled :], tag) if self._counts(text) else 0)

    def _next(self, text: str, tag: str) -> int | None:
        found = text.find(tag, self.settled)
        return found if found >= 0 and (self._counts(text[:found])) else None

    def _counts(self, before: str) -> bool:
        """Whether a tag after this text counts."""
        return self.inside or self._tags.known or not before.strip() or self._tags.opening.startswith(before.strip())

    def cut(self, start: int, end: int) -> list[tuple[int, int, bool]]:
        """Cuts a stretch of the text into parts, each with whether it is thinking."""
        inner = [b for b in self.borders if start < b < end]
        parts = pairwise([start, *inner, end])
        return [(a, b, sum(border <= a for border in self.borders) % 2 == 1) for a, b in parts]

    def shown(self, text: str) -> str:
        """A finished text without its thinking."""
        self.look(text)
        return "".join(text[a:b] for a, b, thinks in self.cut(0, len(text)) if not thinks and a < b)
