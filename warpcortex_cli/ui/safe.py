"""Untrusted text, made safe for a terminal.

Models and notes are untrusted. Whatever they contain must not move the cursor, set a title, open a link or show words
in another order than they have. What is taken away is the least that does so: control characters, one by one; what
stands behind ESC, if it is a whole terminal sequence, which nobody would see; and characters that turn the direction
of text. In text that comes in (`readable`) directions stay. Printing is always done without Rich markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# C0 without \t and \n, DEL, C1, and lone surrogates, which no terminal encoding can write.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")  # embeddings, overrides, isolates and their ends
_BLANK = re.compile(r"\s+")

_ESC = "\x1b"
_ST = "\x9c"
_STRING_OPENERS = frozenset("PX^_]")  # behind ESC: DCS, SOS, PM, APC, OSC; they last until ST
_STRING_LIMIT = 1024  # a longer string sequence is taken for text with a stray ESC in front
_BREAKS = frozenset("\r\x0b\x0c")  # to a reader a new line


class Reader:
    """Takes out of text what no reader sees; the text comes in pieces, and a sequence may be split anywhere.

    Only `\\n` and `\\t` are left of the control characters; other line ends become `\\n`. Single characters of C1 open
    nothing: in text they are mostly what is left of a wrong encoding. A string sequence is held back until it ends;
    one that does not end in its line was none, and all of it but ESC is text.
    """

    def __init__(self) -> None:
        self._state = "text"
        self._held: list[str] = []  # of a string sequence
        self._returned = False  # whether the newest character was a carriage return

    def feed(self, text: str) -> str:
        """The harmless part of `text` that can be given now, in linear time."""
        if self._state == "text" and not self._returned and not _UNSAFE.search(text):
            return text
        out: list[str] = []
        at = 0
        if self._returned and text:
            at, self._returned = int(text[0] == "\n"), False
        while at < len(text):
            if self._state == "text":
                found = _UNSAFE.search(text, at)
                out.append(text[at : found.start() if found else len(text)])
                if not found:
                    break
                at = found.start() + 1
                out.append(self._open(text[at - 1]))
                if text[at - 1] == "\r":
                    self._returned = at == len(text)
                    at += text.startswith("\n", at)
            else:
                taken = self._inside(text[at])
                if self._state == "text":
                    out += self._held if not taken else []
                    self._held = []
                at += taken
        return "".join(out)

    def finish(self) -> str:
        """What was held back, when no text will follow."""
        held, self._held = "".join(self._held), []
        self._state, self._returned = "text", False
        return held

    def _open(self, char: str) -> str:
        """Takes an unsafe character met in plain text; returns what stands in its place."""
        if char == _ESC:
            self._state = "escape"
        elif char in _BREAKS:
            return "\n"
        elif "\ud800" <= char <= "\udfff":
            return "\ufffd"
        return ""

    def _inside(self, char: str) -> int:
        """Takes one character of a sequence; returns 1, or 0 when the character belongs to the text again."""
        if char == _ESC:
            if self._state == "string":
                self._state = "string-escape"
            else:
                self._state, self._held = "escape", []
            return 1
        if char in "\x18\x1a":  # CAN and SUB abort any sequence
            self._state = "text"
            return 1
        match self._state:
            case "csi":
                return self._csi(char)
            case "string":
                return self._string(char)
            case "string-escape":
                return self._string_escape(char)
            case _:
                return self._escape(char)

    def _escape(self, char: str) -> int:
        if char == "[":
            self._state = "csi"
        elif char in _STRING_OPENERS:
            self._state, self._held = "string", [char]
        elif "\x20" <= char <= "\x2f":  # an intermediate; the final character follows
            self._state = "escape"
        else:
            self._state = "text"
            return 1 if "\x30" <= char <= "\x7e" else 0
        return 1

    def _csi(self, char: str) -> int:
        if "\x20" <= char <= "\x3f":
            return 1
        self._state = "text"
        return 1 if "\x40" <= char <= "\x7e" else 0

    def _string(self, char: str) -> int:
        if char in ("\x07", _ST):
            self._state = "text"
        elif char == "\n" or char in _BREAKS or len(self._held) > _STRING_LIMIT:
            self._state = "text"
            return 0
        elif not _UNSAFE.match(char):
            self._held.append(char)
        return 1

    def _string_escape(self, char: str) -> int:
        if char == "\\":
            self._state = "text"
            return 1
        self._state, self._held = "escape", []  # ESC ended the string and opens something else
        return self._escape(char)


class Cleaner(Reader):
    """The same for text that goes out: nor are directions left."""

    def feed(self, text: str) -> str:
        return _DIRECTIONS.sub("", super().feed(text))

    def finish(self) -> str:
        return _DIRECTIONS.sub("", super().finish())


def readable(text: str) -> str:
    """All of a text that comes in: every character that a reader sees. Windows and old Mac line ends become `\\n`."""
    reader = Reader()
    return reader.feed(text) + reader.finish()


def clean(text: str) -> str:
    """All of a text that goes out, without terminal control and directions; line ends become `\\n`."""
    return _DIRECTIONS.sub("", readable(text))


def one_line(text: str, limit: int = 200) -> str:
    """A harmless single line of at most `limit` characters, for tables and messages."""
    line = _BLANK.sub(" ", clean(text[: limit * 8])).strip()
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "\u2026"


class SafeConsole(Console):
    """A console whose text never controls the terminal; only Rich's own output does."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            plain = segment.control or not _harmful(segment.text)
            yield segment if plain else Segment(clean(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Leaves it to who called: Rich would end the program here and forget about stderr."""
        raise


def _harmful(text: str) -> bool:
    return bool(_UNSAFE.search(text) or _DIRECTIONS.search(text))


def safe_json(document: str) -> str:
    """JSON in which characters that control a terminal are written as escapes, and stay what they are."""
    return _DIRECTIONS.sub(_escaped, _UNSAFE.sub(_escaped, document))


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
