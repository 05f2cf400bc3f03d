"""Turning tokens into text while they come, and finding where sentences end."""

from __future__ import annotations

from warpcortex_cli.prism.prism import Prism

_REPLACEMENT = "\ufffd"


class TextBuilder:
    """The text of a growing list of tokens. A character whose bytes are not all there yet is held back.

    Only the tokens since the last safe point are decoded again, so that a long reply costs linear time.
    """

    def __init__(self, prism: Prism) -> None:
        self._prism = prism
        self.ids: list[int] = []
        self.text = ""
        self._from = 0  # tokens before this one are decoded for good,
        self._read = 0  # those before this one are shown; some overlap gives the decoder its context

    def add(self, token: int) -> str:
        """Appends a token and returns the new characters, which may be none."""
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
        """The characters still held back, when no token will follow."""
        known = self._prism.decode(self.ids[self._from : self._read])
        new = self._prism.decode(self.ids[self._from :])[len(known) :]
        self._from = self._read = len(self.ids)
        self.text += new
        return new


class Sentences:
    """The tokens so far, and each one's sentence, which ends with a line, a full stop or a special token."""

    def __init__(self, prism: Prism) -> None:
        self._prism = prism
        self._ends: dict[int, bool] = {}
        self.ids: list[int] = []
        self.numbers: list[int] = []
        self._current = 0

    def extend(self, ids: list[int]) -> None:
        self.ids += ids
        for token in ids:
            self.numbers.append(self._current)
            if self._is_end(token):
                self._current += 1

    def truncate(self, length: int) -> None:
        del self.ids[length:], self.numbers[length:]
        self._current = self.numbers[-1] + 1 if self.numbers else 0

    def _is_end(self, token: int) -> bool:
        if token not in self._ends:
            piece = self._prism.decode([token])
            closes = "\n" in piece or piece.rstrip().endswith((".", "!", "?", ";"))
            self._ends[token] = closes or token in self._prism.tokenizer.all_special_ids
        return self._ends[token]
