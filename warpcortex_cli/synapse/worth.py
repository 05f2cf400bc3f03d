"""Scores sentences for a task: by the rare words that they share, and by what the task's queries find in them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_FOUND = 1.0  # what the best find is worth, in words that no other sentence has
_TELLING = 0.75  # of such a word, as of one in two or three sentences: sharing less may be chance
_COMMON = 0.2  # a word in more than this share of all sentences tells none of them apart
_FEW = 32  # sentences; a word in no more than these is never too common


def tells_apart(holding: int, sentences: int) -> bool:
    """Whether a word that `holding` sentences contain helps to tell them apart."""
    return 0 < holding <= max(_FEW, _COMMON * sentences)


def rarity(holding: int, sentences: int) -> float:
    """The weight of a word that `holding` sentences contain; 1 if only one does.

    The inverse document frequency of BM25 (Robertson & Zaragoza 2009).
    """

    def idf(holding: int) -> float:
        return math.log(1 + (sentences - holding + 0.5) / (holding + 0.5))

    return idf(holding) / idf(1)


def weighed(shared: NDArray[np.float32], found: NDArray[np.float32], least: float = 0.0) -> NDArray[np.float32]:
    """Sentence scores, fp32 [S]; 0: irrelevant.

    The best find is worth as much as a word that no other sentence has. So a name and a thing that are shared decide,
    and where only `of` is, because both are misspelled, what queries find does.

    Args:
        shared: `rarity` of the words that they share with the task, [S].
        found: what the task's queries find in them, at any scale, [S].
        least: where the best one shares more than chance would have it, those that share less than this part of what
            it does are worth nothing.
    """
    worth = shared + np.float32(_FOUND) * found / max(float(found.max(initial=0)), 1e-9)
    most = float(shared.max(initial=0))
    if most > _TELLING:
        worth[shared < least * most] = 0
    return worth
