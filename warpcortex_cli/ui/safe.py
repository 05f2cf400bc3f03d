"""Untrusted text, made safe for a terminal.

Models and notes are untrusted. Their text must not move the cursor, set a title, open a link or reorder words on the
screen. So as little as possible is removed: control characters; whole terminal sequences after ESC, which are
invisible anyway; and characters that change the direction of text. Incoming text (`readable`) keeps the latter.
Printing never uses Rich markup.
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
_STRING_OPENERS = frozenset("PX^_]")  # after ESC: DCS, SOS, PM, APC, OSC; they end with ST
_STRING_LIMIT = 1024  # a longer string sequence counts as text after a stray ESC
_BREAKS = frozenset("\r\x0b\x0c")  # shown as a new line


class Reader:
    """Removes what is invisible from text that comes in pieces; a sequence may be split anywhere.

    Of the control characters only `\\n` and `\\t` stay; other line ends become `\\n`. C1 characters start no sequence:
    in text they mostly come from a wrong encoding. A string sequence is held back until it ends; if it does not end on
    its line, it is text, except for ESC.
    """

    def __init__(self) -> None:
        self._state = "text"
        self._held: list[str] = []  # the current string sequence
        self._returned = False  # whether the newest character was a carriage return

    def feed(self, text: str) -> str:
        """The cleaned text available so far, in linear time."""
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
        """The text held back, once no text follows."""
        held, self._held = "".join(self._held), []
        self._state, self._returned = "text", False
        return held

    def _open(self, char: str) -> str:
        """Handles an unsafe character in plain text; returns its replacement."""
        if char == _ESC:
            self._state = "escape"
        elif char in _BREAKS:
            return "\n"
        elif "\ud800" <= char <= "\udfff":
            return "\ufffd"
        return ""

    def _inside(self, char: str) -> int:
        """Handles one character of a sequence; returns 1, or 0 if the character is text again."""
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
    """The same for outgoing text: also removes direction characters."""

    def feed(self, text: str) -> str:
        return _DIRECTIONS.sub("", super().feed(text))

    def finish(self) -> str:
        return _DIRECTIONS.sub("", super().finish())


def readable(text: str) -> str:
    """Incoming text with only its visible characters. Windows and old Mac line ends become `\\n`."""
    reader = Reader()
    return reader.feed(text) + reader.finish()


def clean(text: str) -> str:
    """Outgoing text without terminal control and direction characters; line ends become `\\n`."""
    return _DIRECTIONS.sub("", readable(text))


def one_line(text: str, limit: int = 200) -> str:
    """Cleaned text as one line of at most `limit` characters, for tables and messages."""
    line = _BLANK.sub(" ", clean(text[: limit * 8])).strip()
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "\u2026"


class SafeConsole(Console):
    """A console whose text cannot control the terminal; only Rich's own output can."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            plain = segment.control or not _harmful(segment.text)
            yield segment if plain else Segment(clean(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Raises: Rich would exit here and lose what stderr still holds."""
        raise


def _harmful(text: str) -> bool:
    return bool(_UNSAFE.search(text) or _DIRECTIONS.search(text))


def safe_json(document: str) -> str:
    """The same JSON with characters that could control a terminal escaped."""
    return _DIRECTIONS.sub(_escaped, _UNSAFE.sub(_escaped, document))


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
