"""The index of the River's sentences: which of them share a task's rare words, and which its queries look for.

One index has two users: the River recalls by it what has left its tail, and a Stream's focus set is found by it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from warpcortex_cli.synapse.worth import rarity, tells_apart, weighed

if TYPE_CHECKING:
    from warpcortex_cli.engine.text import Sentences

_SHORTEST = 3  # tokens of a sentence: a line break is none
_REST = 32  # tokens; what is left of a budget below that is not worth looking further


class SentenceIndex:
    """Sentences by their words. It follows `Sentences`: what is new, or was taken back, is noticed when it is asked."""

    def __init__(self, sentences: Sentences) -> None:
        self._sentences = sentences
        self._holding: dict[int, array[int]] = {}  # word -> sentences, ascending, each once
        self._indexed = 0  # sentences

    def truncate(self, sentences: int) -> None:
        """Forgets all sentences from the given one on. Called before their tokens are gone."""
        if sentences >= self._indexed:
            return
        first = self._sentences.starts[sentences]
        for word in set(self._sentences.words.numbers[first:]):
            holding = self._holding.get(word, array("i"))
            while holding and holding[-1] >= sentences:
                holding.pop()
        self._indexed = sentences

    def worth(
        self, words: Iterable[int], prints: NDArray[np.float32] | None, block: int, least: float
    ) -> NDArray[np.float32]:
        """What each finished sentence is worth, fp32 [sentences]; 0: nothing.

        As `weighed` says; what is found in a sentence is the score of the blocks that hold it.

        Args:
            words: the task's, as numbers.
            prints: score of each block of `block` tokens, the higher the better, [blocks]; None: not asked.
            block: tokens in a block.
            least: as in `weighed`.
        """
        self._follow()
        count = self._indexed
        shared = np.zeros(count, np.float32)
        for word in sorted(set(words)):  # fp32 sums depend on their order
            if self.tells_apart(word):
                holding = np.array(self._holding[word])
                shared[holding] += rarity(len(holding), count)
        found = np.zeros(count, np.float32)
        if prints is not None and len(prints):
            starts = np.array(self._sentences.starts[: count + 1])
            ends = np.append(starts[1:], len(self._sentences.ids))[:count]
            first, last = starts[:count] // block, (ends - 1) // block
            stored = last < len(prints)
            found[stored] = np.maximum(prints[first[stored]], prints[last[stored]])
        return weighed(shared, found, least)

    def tells_apart(self, word: int) -> bool:
        """Whether a word is in few enough sentences to say anything of one."""
        return word != 0 and tells_apart(len(self._holding.get(word, ())), self._indexed)

    def choose(self, worth: NDArray[np.float32], budget: int, among: range) -> list[int]:
        """The sentences of most worth, whole, whose tokens are at most `budget`; those that the River wrote never.

        Args:
            worth: of each sentence, as from `worth`.
            among: tokens that may be chosen.

        Returns:
            Tokens, ascending.
        """
        sentences = self._sentences
        found: list[int] = []
        likely = np.flatnonzero(worth > 0)
        for sentence in likely[np.argsort(-worth[likely], kind="stable")].tolist():
            start, end = self._span(sentence)
            inside = among.start <= start and end <= among.stop and end - start >= _SHORTEST
            if not inside or any(sentences.own[start:end]):
                continue
            if end - start > budget:
                if budget < _REST:
                    break
                continue
            found += range(start, end)
            budget -= end - start
        return sorted(found)

    def _span(self, sentence: int) -> tuple[int, int]:
        starts = self._sentences.starts
        last = sentence + 1 >= len(starts)
        return starts[sentence], len(self._sentences.ids) if last else starts[sentence + 1]

    def _follow(self) -> None:
        """Takes in the sentences that were finished since the last time."""
        sentences = self._sentences
        finished = max(0, len(sentences.starts) - 1)
        for sentence in range(self._indexed, finished):
            start, end = self._span(sentence)
            for word in set(sentences.words.numbers[start:end]):
                holding = self._holding.setdefault(word, array("i"))
                if not holding or holding[-1] != sentence:  # as it is where an error once stopped this half-way
                    holding.append(sentence)
            self._indexed = sentence + 1
