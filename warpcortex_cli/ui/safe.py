"""Text that others wrote, made harmless for a terminal.

Models and notes are untrusted. Whatever they contain must not move the cursor, set a title, or open a link:
control characters go, and with them the whole escape sequence that they open. Printing is always done without
Rich markup.
"""

from __future__ import annotations

import re

# C0 without \t and \n, DEL, C1, and lone surrogates, which no terminal encoding can write.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_BLANK = re.compile(r"\s+")

_ESC = "\x1b"
_CSI, _OSC, _ST = "\x9b", "\x9d", "\x9c"
_STRINGS = frozenset("\x90\x98\x9e\x9f" + _OSC)  # DCS, SOS, PM, APC, OSC: they last until ST
_STRING_OPENERS = frozenset("PX^_]")  # the same, as the character behind ESC
_STRING_LIMIT = 1024  # a longer string sequence is taken for text with a stray opener in front


class Cleaner:
    """Removes terminal control from text that comes in pieces; a sequence may be split anywhere.

    Only `\\n` and `\\t` are left of the control characters. A sequence that never ends hides at most the
    rest of its line. Nothing is held back, so there is nothing to flush at the end.
    """

    def __init__(self) -> None:
        self._state = "text"
        self._length = 0

    def feed(self, text: str) -> str:
        """The harmless part of `text`, in linear time."""
        if self._state == "text" and not _UNSAFE.search(text):
            return text
        out: list[str] = []
        at = 0
        while at < len(text):
            if self._state == "text":
                found = _UNSAFE.search(text, at)
                out.append(text[at : found.start() if found else len(text)])
                if not found:
                    break
                at = found.start() + 1
                out.append(self._open(text[at - 1]))
            else:
                at += self._inside(text[at])
        return "".join(out)

    def _open(self, char: str) -> str:
        """Takes an unsafe character met in plain text; returns what stands in its place."""
        if char == _ESC:
            self._state = "escape"
        elif char == _CSI:
            self._state = "csi"
        elif char in _STRINGS:
            self._state, self._length = "string", 0
        elif "\ud800" <= char <= "\udfff":
            return "\ufffd"
        return ""

    def _inside(self, char: str) -> int:
        """Takes one character of a sequence; returns 1, or 0 when the character belongs to the text again."""
        if char == _ESC:
            self._state = "string-escape" if self._state == "string" else "escape"
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
            self._state, self._length = "string", 0
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
        self._length += 1
        if char in ("\x07", _ST):
            self._state = "text"
        elif char == "\n" or self._length > _STRING_LIMIT:
            self._state = "text"
            return 0
        return 1

    def _string_escape(self, char: str) -> int:
        if char == "\\":
            self._state = "text"
            return 1
        self._state = "escape"  # ESC ended the string and opens something else
        return self._escape(char)


def clean(text: str) -> str:
    """All of a text without terminal control; Windows and old Mac line ends become `\\n`."""
    return Cleaner().feed(text.replace("\r\n", "\n").replace("\r", "\n"))


def one_line(text: str, limit: int = 200) -> str:
    """A harmless single line of at most `limit` characters, for tables and messages."""
    line = _BLANK.sub(" ", clean(text[: limit * 8])).strip()
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "\u2026"
