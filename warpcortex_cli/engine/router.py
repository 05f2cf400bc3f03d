"""The Router: finds requests such as `[MATH: 47 + 86]` in River text while it is being written.

A request fires at the first character that completes it, so the same text gives the same matches however
it is cut into pieces. Cost is linear in the text, also when it is hostile: patterns run in google-re2, and a
request is at most `WINDOW` characters long, so that no character is looked at more than `WINDOW` times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from warpcortex_cli.pattern import compile_re2, parse
from warpcortex_cli.profile import Role

WINDOW = 400
_SLICE = 256  # characters taken at once: re2's binding encodes its whole input at every call


@dataclass(frozen=True)
class Match:
    """A request. `start` and `end` count characters since the last reset; a group that took no part is ""."""

    role: Role
    groups: dict[str, str]
    start: int
    end: int


class Router:
    """Finds the requests of `roles`, leftmost first, without overlap, each once.

    When several roles match at the same character, the request that begins first wins, then the first role.

    Raises:
        PatternError: a trigger is not valid; those of a loaded profile have been checked.
    """

    def __init__(self, roles: Sequence[Role]) -> None:
        patterns = [parse(role.trigger) for role in roles]
        self._roles = [(role, compile_re2(f"(?:{role.trigger})\\z")) for role in roles]
        self._begins: Any = None
        if patterns:
            prefixes = "|".join(f"(?:{p.prefixes})" for p in patterns)
            self._begins = compile_re2(prefixes)
            self._may_become = compile_re2(f"(?:{prefixes})\\z")
            self._complete = compile_re2(f"(?:{'|'.join(f'(?:{p.whole})' for p in patterns)})\\z")
        self.reset()

    def reset(self) -> None:
        """Forgets all text; offsets begin at 0 again."""
        # One character before the oldest that may still be part of a request is kept, for `^` and `\b`.
        self._text = ""
        self._base = 0  # offset of the first character of _text
        self._end = 0  # characters of _text that were looked at
        self._open: int | None = None  # where in _text the oldest half-written request begins

    def feed(self, text: str) -> list[Match]:
        """Takes the next piece of text; returns the requests that it completed."""
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
        """Offset from which the text could still become a request, or None: hold back what follows it."""
        return None if self._open is None else self._base + self._open

    def _advance(self, matches: list[Match]) -> bool:
        """Takes the next character, or jumps to the next one that may begin a request; False at the end."""
        if self._end == len(self._text):
            return False
        if self._open is None:
            begin = self._begins.search(self._text, self._end)
            if begin is None:
                self._end = len(self._text)
                return False
            self._open = self._end = begin.start()
        self._end += 1
        seen = self._text[: self._end]
        alive = self._may_become.search(seen, max(self._open, self._end - WINDOW))
        self._open = alive.start() if alive else None
        if self._open is not None:
            match = self._completed(seen, self._open)
            if match:
                matches.append(match)
                self._open = None
        return True

    def _completed(self, seen: str, start: int) -> Match | None:
        if not self._complete.search(seen, start):
            return None
        found = [(role, m) for role, p in self._roles if (m := p.search(seen, start)) and m.start() < m.end()]
        if not found:
            return None
        role, match = min(found, key=lambda f: f[1].start())
        groups = {name: value or "" for name, value in match.groupdict().items()}
        return Match(role, groups, self._base + match.start(), self._base + match.end())

    def _trim(self) -> None:
        keep = max(0, (self._end if self._open is None else self._open) - 1)
        self._text = self._text[keep:]
        self._base += keep
        self._end -= keep
        if self._open is not None:
            self._open -= keep
