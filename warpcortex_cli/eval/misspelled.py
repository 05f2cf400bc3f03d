"""Ways to misspell a word, so that a question shares no word with its note."""

from __future__ import annotations

import random
from collections.abc import Callable
from string import ascii_lowercase


def swapped(word: str) -> str:
    """A word with two adjacent inner letters swapped, the first ones that differ."""
    for i in range(len(word) // 2, len(word) - 1):
        if word[i] != word[i + 1]:
            return f"{word[:i]}{word[i + 1]}{word[i]}{word[i + 2 :]}"
    return f"{word}e"


def dropped(word: str) -> str:
    """A word without its middle letter."""
    middle = len(word) // 2
    return word[:middle] + word[middle + 1 :]


def mistyped(rng: random.Random, word: str, notes: str) -> str:
    """A word with another letter in its second half, not occurring in the notes."""
    while True:
        i = rng.randrange(len(word) // 2, len(word))
        wrong = word[:i] + rng.choice(ascii_lowercase.replace(word[i], "")) + word[i + 1 :]
        if wrong.lower() not in notes.lower():
            return wrong


WORDINGS: dict[str, Callable[[str], str]] = {"said": str, "dropped": dropped, "swapped": swapped}
