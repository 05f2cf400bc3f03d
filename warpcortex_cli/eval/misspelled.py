"""Ways to misspell a word, so that a question shares no word with the note that it asks for."""

from __future__ import annotations

from collections.abc import Callable


def swapped(word: str) -> str:
    """A word with two letters in its middle swapped, the first ones that differ."""
    for i in range(len(word) // 2, len(word) - 1):
        if word[i] != word[i + 1]:
            return f"{word[:i]}{word[i + 1]}{word[i]}{word[i + 2 :]}"
    return f"{word}e"


def dropped(word: str) -> str:
    """A word without the letter in its middle."""
    middle = len(word) // 2
    return word[:middle] + word[middle + 1 :]


WORDINGS: dict[str, Callable[[str], str]] = {"said": str, "dropped": dropped, "swapped": swapped}
