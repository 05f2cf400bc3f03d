"""Turns tokens into text as they arrive, and finds where words and sentences end."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warpcortex_cli.prism.prism import Prism

_REPLACEMENT = "\ufffd"
_SPACES = "\u2581\u0120\u010a "  # how tokenizers write a space or a line break before a word
_LONGEST_WORD = 24  # tokens; a longer one is cut, or a text without spaces would cost quadratic time
_LEAST_PAGE = 1000  # characters; a shorter text before the last line is part of the question
_LONGEST_SENTENCE = 256  # tokens; a longer one is cut, so that a text without full stops has parts


class TextBuilder:
    """The text of a growing list of tokens. A character whose bytes are not complete yet is held back.

    Only the tokens since the last safe point are decoded again, so a long reply costs linear time.

    `DecodeStream` of tokenizers 0.23 cannot be used here: it waits for a whole character however many invalid bytes
    come first, decodes all of them in each step, and cannot return what is left at the end of a reply.
    """

    def __init__(self, prism: Prism) -> None:
        self._prism = prism
        self.ids: list[int] = []
        self.text = ""
        self._from = 0  # tokens before this one are decoded for good;
        self._read = 0  # tokens before this one are shown; the overlap gives the decoder its context

    def add(self, token: int) -> str:
        """Appends a token and returns the new characters, which may be none."""
        if token in self._prism.chat.tags:  # decoding would drop it
            new = self.finish() + self._prism.chat.tags[token]
            self.ids.append(token)
            self._from = self._read = len(self.ids)
            self.text += self._prism.chat.tags[token]
            return new
        self.ids.append(token)
        known = self._prism.decode(self.ids[self._from : self._read])
        whole = self._prism.decode(self.ids[self._from :])
        if whole.endswith(_REPLACEMENT) and len(self.ids) - self._read < 8:
            return ""
        self._from, self._read = self._read, len(self.ids)
        new = whole[len(known) :]
        self.text += new
        return new

    def finish(self) -> str:
        """The characters still held back; call it when no token will follow."""
        known = self._prism.decode(self.ids[self._from : self._read])
        new = self._prism.decode(self.ids[self._from :])[len(known) :]
        self._from = self._read = len(self.ids)
        self.text += new
        return new


def begun(text: str, whole: str) -> int:
    """How many characters at the end of a text may be the beginning of `whole`."""
    return next((n for n in range(min(len(whole) - 1, len(text)), 0, -1) if text.endswith(whole[:n])), 0)


def page_of(text: str) -> int:
    """Where the question begins in a user's words: behind the last blank line or line break of a long text; else 0."""
    end = len(text.rstrip())
    for between in ("\n\n", "\n"):
        cut = text.rfind(between, 0, end) + len(between)
        if cut - len(between) >= _LEAST_PAGE:
            return cut
    return 0


class Words:
    """The word that each token belongs to, as a number. Equal words have equal numbers; case and a final s are ignored.

    A token without letters and digits belongs to no word: 0.
    """

    def __init__(self, prism: Prism) -> None:
        self._prism = prism
        self._pieces: dict[int, str] = {}
        self.numbers = array("q")
        self._start = 0  # of the newest word, in tokens
        self._text = ""

    def extend(self, ids: Iterable[int]) -> None:
        for token in ids:
            piece = self._piece(token)
            bare = piece.lstrip(_SPACES)
            goes_on = bare == piece and self._text[-1:].isalnum() and bare[:1].isalnum()
            goes_on = goes_on and len(self.numbers) - self._start < _LONGEST_WORD
            self._text = self._text + bare.lower() if goes_on else bare.lower()
            if not goes_on:
                self._start = len(self.numbers)
            whole = len(self.numbers) - self._start + 1
            self.numbers[self._start :] = array("q", [_number(self._text)] * whole)

    def truncate(self, length: int) -> None:
        del self.numbers[length:]
        self._text = ""

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = self._prism.tokenizer.convert_ids_to_tokens(token) or ""
        return self._pieces[token]


@lru_cache(1 << 14)
def _number(word: str) -> int:
    """The number of a word, mostly the same for its plural: "One rope costs 3 coins" is about ropes.

    It is the same in every process, which Python's `hash` of a text is not.
    """
    if not any(c.isalnum() for c in word):
        return 0
    stem = word.removesuffix("s") if len(word) > 3 else word
    return int.from_bytes(blake2b(stem.encode("utf-8", "replace"), digest_size=8).digest(), "little", signed=True)


def words_of(prism: Prism, ids: Iterable[int]) -> list[int]:
    """The numbers of the words of these tokens."""
    words = Words(prism)
    words.extend(ids)
    return words.numbers.tolist()


class Sentences:
    """The tokens so far, their words and sentences. A sentence ends at a line's end, a full stop or a special token.

    Attributes:
        ids: the tokens.
        numbers: of each token, the number of its sentence.
        own: of each token, whether the River wrote it.
        starts: the first token of each sentence.
    """

    def __init__(self, prism: Prism) -> None:
        self._prism = prism
        self._ends: dict[int, bool] = {}
        self.words = Words(prism)
        self.ids = array("i")
        self.numbers = array("i")
        self.own = bytearray()
        self.starts = array("i")
        self._open = False  # whether the newest sentence is unfinished

    def extend(self, ids: Iterable[int], own: bool = False) -> None:
        for token in ids:
            if not self._open:
                self.starts.append(len(self.ids))
            self.ids.append(token)
            self.own.append(own)
            self.numbers.append(len(self.starts) - 1)
            self._open = not self._is_end(token) and len(self.ids) - self.starts[-1] < _LONGEST_SENTENCE
        self.words.extend(self.ids[len(self.words.numbers) :])

    @property
    def newest_own(self) -> int:
        """How many of the newest tokens the River wrote itself."""
        return len(self.own) - len(self.own.rstrip(b"\1"))

    def claim(self, tokens: int) -> None:
        """Marks the newest tokens as the River's own, though they were read."""
        self.wrote(len(self.own) - tokens, len(self.own))

    def wrote(self, first: int, last: int) -> None:
        """Marks the tokens [first, last) as the River's own."""
        self.own[first:last] = bytes([True]) * (last - first)

    def truncate(self, length: int) -> None:
        del self.ids[length:], self.numbers[length:], self.own[length:]
        self.words.truncate(length)
        del self.starts[self.numbers[-1] + 1 if self.numbers else 0 :]
        self._open = bool(self.ids) and not self._is_end(self.ids[-1])
        self._open = self._open and len(self.ids) - self.starts[-1] < _LONGEST_SENTENCE

    def lines(self, tokens: Iterable[int]) -> list[str]:
        """The text of some tokens, by index: a line for each sentence, in order, without special tokens."""
        special = set(self._prism.tokenizer.all_special_ids)
        found: dict[int, list[int]] = {}
        for index in sorted(tokens):
            if self.ids[index] not in special:
                found.setdefault(self.numbers[index], []).append(self.ids[index])
        texts = (" ".join(self._prism.decode(ids).split()) for ids in found.values())
        return [text for text in texts if text]

    def _is_end(self, token: int) -> bool:
        if token not in self._ends:
            piece = self._prism.decode([token])
            closes = "\n" in piece or piece.rstrip().endswith((".", "!", "?", ";"))
            self._ends[token] = closes or token in self._prism.tokenizer.all_special_ids
        return self._ends[token]
