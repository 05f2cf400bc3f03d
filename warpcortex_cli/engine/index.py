"""The index of the River's words: where each occurs, so that sentences are found quickly however long the River is.

It has two users: the River recalls what has left its tail, and a Stream's focus set is chosen.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from warpcortex_cli.synapse.worth import Spans, score, shared_words, spans_of, tells_apart

if TYPE_CHECKING:
    from warpcortex_cli.engine.text import Sentences


class SentenceIndex:
    """The tokens of each word. It follows `sentences`: new tokens are added when it is next asked."""

    def __init__(self, sentences: Sentences) -> None:
        self.sentences = sentences
        self._places: dict[int, array[int]] = {}  # word -> its tokens, ascending
        self._indexed = 0  # tokens

    def truncate(self, length: int) -> None:
        """Forgets all tokens from number `length` on. Call it before they are gone."""
        for word in set(self.sentences.words.numbers[length : self._indexed]):
            places = self._places.get(word, array("i"))
            while places and places[-1] >= length:
                places.pop()
        self._indexed = min(self._indexed, length)

    def spans(self, among: range, budget: int) -> Spans:
        """The sentences that lie wholly within some tokens, for choosing `budget` tokens of them: see `spans_of`."""
        sentences = self.sentences
        starts = np.array(sentences.starts, np.intp)
        ends = np.append(starts[1:], len(sentences.ids))[: len(starts)]
        inside = (starts >= among.start) & (ends <= among.stop)
        end = int(ends[inside][-1]) if inside.any() else 0
        own = np.frombuffer(bytes(sentences.own[:end]), np.bool_)
        return spans_of(starts[inside], end, own, max(1, budget))

    def worth(
        self, spans: Spans, words: Iterable[int], found: NDArray[np.float32] | None, least: float
    ) -> NDArray[np.float32]:
        """What each span is worth to a task, fp32 [S]; 0: nothing. See `score`.

        Args:
            spans: as from `spans`.
            words: the task's, as numbers.
            found: what its queries find in each span, the higher the better, [S]; None: there are none.
            least: as in `weighed`.
        """
        return score(spans, shared_words(words, self._tokens_of, spans), found, least)

    def tells_apart(self, word: int) -> bool:
        """Whether a word is in few enough sentences to tell them apart."""
        starts = np.array(self.sentences.starts)
        holding = np.unique(np.searchsorted(starts, self._tokens_of(word), side="right"))
        return word != 0 and tells_apart(len(holding), len(starts))

    def _tokens_of(self, word: int) -> NDArray[np.intp]:
        """The tokens that are part of a word, ascending."""
        self._follow()
        numbers = self.sentences.words.numbers
        newest = [i for i in range(self._indexed, len(numbers)) if numbers[i] == word]
        return np.concatenate([np.array(self._places.get(word, ()), np.intp), np.array(newest, np.intp)])

    def _follow(self) -> None:
        """Adds tokens since the last time, but not the last sentence: its words may still grow."""
        sentences = self.sentences
        numbers = sentences.words.numbers
        finished = sentences.starts[-1] if len(sentences.starts) else 0
        for token in range(self._indexed, finished):
            self._places.setdefault(numbers[token], array("i")).append(token)
            self._indexed = token + 1


def in_blocks(scores: NDArray[np.float32], spans: Spans, block: int) -> NDArray[np.float32]:
    """The best score of the blocks that hold each span, fp32 [S]; 0 for a span that is not in them to its end.

    Args:
        scores: of each block of `block` tokens, [blocks].
    """
    first, last = spans.starts // block, (spans.ends - 1) // block
    stored = last < len(scores)
    found = np.zeros(len(spans), np.float32)
    if stored.any():
        first, last = first[stored], last[stored]
        found[stored] = scores[first]
        for further in range(1, int((last - first).max()) + 1):
            found[stored] = np.maximum(found[stored], scores[np.minimum(first + further, last)])
    return found
