"""The Router: finds requests such as `[MATH: 47 + 86]`, or `47 + 86 =`, in River text while it is being written.

A request fires at the first character that completes it, so the same text gives the same matches however it is
cut into pieces. The cost is linear in the text, even for hostile text: patterns run in google-re2, each starting
place is discarded once, and a request is at most `WINDOW` characters long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from warpcortex_cli.pattern import WINDOW, compile_re2, parse, together
from warpcortex_cli.profile import Role

_SLICE = 256  # characters at a time: re2's binding encodes its whole input in every call


@dataclass(frozen=True)
class Match:
    """A request. `start` and `end` count characters since the last reset; a group that did not match is ""."""

    role: Role
    groups: dict[str, str]
    start: int
    end: int

    @property
    def task(self) -> str:
        return self.groups["task"]


class Router:
    """Finds the requests of `roles`, leftmost first, without overlap, each once.

    A half-written request owns the text from its beginning until it is complete or cannot become one.
    When several roles match at the same character, the first one in the profile wins. If a role's trigger is a
    `visible` part of the answer, no text is held back for it.

    Raises:
        PatternError: a trigger is not valid. Triggers of a loaded profile have been checked.
    """

    def __init__(self, roles: Sequence[Role]) -> None:
        roles = [role for role in roles if role.starts == "trigger"]
        patterns = [parse(role.trigger) for role in roles]
        hidden = [p for role, p in zip(roles, patterns, strict=True) if not role.visible]
        self._roles = [(role, compile_re2(role.trigger)) for role in roles]
        self._begins: Any = None
        self._hidden = together(hidden) if hidden else None
        if patterns:
            found = together(patterns)
            self._begins, self._may_become, self._complete = found.first, found.prefixes, found.whole
        self.reset()

    def reset(self) -> None:
        """Forgets all text; offsets start at 0 again."""
        # One character before the oldest that may still be part of a request is kept, for `^` and `\b`.
        self._text = ""
        self._base = 0  # offset of the first character of _text
        self._end = 0  # characters of _text that were looked at
        self._open: int | None = None  # where in _text the oldest half-written request begins

    def feed(self, text: str) -> list[Match]:
        """Takes the next piece of text and returns the requests that it completed."""
        if self._begins is None:
            self._base += len(text)
            return []
        text = text.encode("utf-8", "replace").decode()  # lone surrogates cannot be encoded
        matches: list[Match] = []
        for i in range(0, len(text), _SLICE):
            self._text += text[i : i + _SLICE]
            while self._advance(matches):
                pass
            self._trim()
        return matches

    def pending_from(self) -> int | None:
        """The offset from which the text could still become a hidden request, and must be held back; or None."""
        place, hidden = self._open, self._hidden
        if hidden is None:
            return None
        while place is not None and not hidden.prefixes.fullmatch(self._text, place):
            place = self._next_begin(place + 1)
        return None if place is None else self._base + place

    def unfinished_from(self, cut: bool) -> int | None:
        """The offset at which an unfinished request begins at the end of the text, or None.

        Args:
            cut: the text was cut off, so whatever could have become a request counts as one. In a reply that ended by
                itself it counts only if its task had begun: a bracket at the end is text.
        """
        place, hidden = self._open, self._hidden
        if hidden is None:
            return None
        while place is not None and not (hidden.opening if cut else hidden.begun).fullmatch(self._text, place):
            place = self._next_begin(place + 1)
        return None if place is None else self._base + place

    def _advance(self, matches: list[Match]) -> bool:
        """Takes the next character, or skips to the next one that may begin a request. False at the end."""
        if self._open is None:
            self._open = self._next_begin(self._end)
            if self._open is not None:
                self._end = self._open
        if self._open is None or self._end == len(self._text):
            self._end = len(self._text)
            return False
        self._end += 1
        seen = self._text[: self._end]
        while self._open is not None and not self._alive(seen, self._open):
            # A beginning that failed cannot match later, so each place is discarded once.
            begin = self._next_begin(self._open + 1)
            self._open = begin if begin is not None and begin < self._end else None
        if self._open is not None:
            match = self._completed(seen, self._open)
            if match:
                matches.append(match)
                self._open = None
        return True

    def _next_begin(self, start: int) -> int | None:
        found = self._begins.search(self._text, start)
        return found.start() if found else None

    def _alive(self, seen: str, start: int) -> bool:
        return len(seen) - start <= WINDOW and self._may_become.fullmatch(seen, start) is not None

    def _completed(self, seen: str, start: int) -> Match | None:
        if not self._complete.fullmatch(seen, start):
            return None
        for role, pattern in self._roles:
            match = pattern.fullmatch(seen, start)
            if match:
                groups = {name: value or "" for name, value in match.groupdict().items()}
                return Match(role, groups, self._base + match.start(), self._base + match.end())
        return None

    def _trim(self) -> None:
        keep = max(0, (self._end if self._open is None else self._open) - 1)
        self._text = self._text[keep:]
        self._base += keep
        self._end -= keep
        if self._open is not None:
            self._open -= keep
