"""Which sentences a task asks for: by the rare words that they share, and by what the task's queries find in them.

The one scorer of sentences: what the River recalls and what is in a Stream's focus set are chosen here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST = 0.3  # of the best sentence's shared words, for a focus set: what shares less only distracts
_FOUND = 1.0  # the best find counts as one word that no other sentence has
_TELLING = 0.75  # of such a word, as of one in two or three sentences: sharing less may be chance
_COMMON = 0.2  # a word in more than this share of all sentences tells none of them apart
_FEW = 32  # sentences; a word in no more than these is never too common
_SHORTEST = 3  # tokens; a shorter run, such as a line break, belongs to the sentence before it


@dataclass(frozen=True)
class Spans:
    """Sentences by their tokens, each array [S], ascending.

    Attributes:
        starts, ends: the first token, and the one behind the last.
        own: whether the River wrote any of it. Such a sentence is never chosen.
    """

    starts: NDArray[np.intp]
    ends: NDArray[np.intp]
    own: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.starts)


def spans_of(starts: NDArray[np.intp], end: int, own: NDArray[np.bool_], budget: int) -> Spans:
    """Consecutive sentences as spans that can be chosen.

    A run of fewer than `_SHORTEST` tokens joins the sentence before it, if the same agent wrote both. A sentence
    longer than `budget` is cut into equal pieces of at most half of it, so that a text without full stops has parts.

    Args:
        starts: first token of each sentence, [S].
        end: the token behind the last sentence.
        own: for tokens [0, end): whether the River wrote it.
        budget: tokens that may be chosen, at least 1.
    """
    if not len(starts):
        return Spans(starts, starts, np.zeros(0, np.bool_))
    joins = np.diff(starts, append=end) < _SHORTEST
    joins[0] = False
    joins[1:] &= own[starts[1:]] == own[starts[1:] - 1]
    starts = starts[~joins]
    lengths = np.diff(starts, append=end)
    for long in np.flatnonzero(lengths > budget)[::-1].tolist():
        length, start = int(lengths[long]), int(starts[long])
        parts = -(-length // max(1, budget // 2))
        starts = np.insert(starts, long + 1, [start + length * i // parts for i in range(1, parts)])
    first = int(starts[0])
    return Spans(starts, np.append(starts[1:], end), np.logical_or.reduceat(own[first:end], starts - first))


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


def shared_words(words: Iterable[int], places: Callable[[int], NDArray[np.intp]], spans: Spans) -> NDArray[np.float32]:
    """The `rarity` of the words that each span shares with a task, summed over those that tell spans apart, fp32 [S].

    Args:
        words: the task's, as numbers; 0 is none.
        places: the tokens that are part of a word, by its number.
    """
    shared = np.zeros(len(spans), np.float32)
    for word in sorted(set(words) - {0}):  # fp32 sums depend on their order
        at = places(word)
        holding = np.searchsorted(spans.ends, at, side="right")
        within = holding < len(spans)
        within[within] = spans.starts[holding[within]] <= at[within]
        holding = np.unique(holding[within])
        if tells_apart(len(holding), len(spans)):
            shared[holding] += rarity(len(holding), len(spans))
    return shared


def weighed(shared: NDArray[np.float32], found: NDArray[np.float32], least: float = 0.0) -> NDArray[np.float32]:
    """Sentence scores, fp32 [S]; 0: irrelevant.

    The best find counts as much as a word that no other sentence has. So where a name and a thing are shared, they
    decide; where only `of` is, because both are misspelled, what queries find does.

    Args:
        shared: `rarity` of the words that they share with the task, [S].
        found: what the task's queries find in them, at any scale, [S].
        least: if the best sentence shares more than chance would explain, sentences that share less than this part of
            what it shares score 0.
    """
    worth = shared + np.float32(_FOUND) * found / max(float(found.max(initial=0)), 1e-9)
    most = float(shared.max(initial=0))
    if most > _TELLING:
        worth[shared < least * most] = 0
    return worth


def score(
    spans: Spans, shared: NDArray[np.float32], found: NDArray[np.float32] | None, least: float
) -> NDArray[np.float32]:
    """As `weighed`, among the spans that the River did not write: it repeats the words of its own requests."""
    shared = np.where(spans.own, np.float32(0), shared)
    found = np.zeros_like(shared) if found is None else np.where(spans.own, np.float32(0), found)
    return np.where(spans.own, np.float32(0), weighed(shared, found, least))


def choose(spans: Spans, worth: NDArray[np.float32], budget: int) -> list[int]:
    """The tokens of the spans of most worth, whole, the best first until no further one fits.

    Args:
        spans: that may be chosen.
        worth: of each, [S]; what has none is not chosen.
        budget: tokens to choose at most.

    Returns:
        Tokens, ascending.
    """
    lengths = spans.ends - spans.starts
    likely = np.flatnonzero((worth > 0) & ~spans.own & (lengths >= _SHORTEST))
    likely = likely[np.argsort(-worth[likely], kind="stable")]
    found: list[int] = []
    at = 0
    while at < len(likely) and budget > 0:
        fits = lengths[likely[at:]] <= budget
        skipped = int(fits.argmax())
        if not fits[skipped]:
            break
        span = likely[at + skipped]
        found += range(int(spans.starts[span]), int(spans.ends[span]))
        budget -= int(lengths[span])
        at += skipped + 1
    return sorted(found)
