"""`work: search`: the sentences of notes and past that match a task best, by the River's own index."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from warpcortex_cli.engine.brief import Brief, Thought
from warpcortex_cli.engine.index import SentenceIndex
from warpcortex_cli.engine.text import Sentences, words_of
from warpcortex_cli.engine.workers.base import Host, Work, Worker, picked
from warpcortex_cli.profile import Role

LEAST_READ = 512  # tokens that others wrote; in a shorter text the River finds as much as an index
_LEAST_SHARE = 0.5  # of the best sentence's score
_SHORTEST = 3  # tokens of a sentence that says something
_AROUND = 16  # tokens of the chat template around the user's words


class SearchWorker(Worker):
    """Searches the River's own index."""

    def wants(self, role: Role, task: str, groups: Mapping[str, str]) -> bool:
        river = self.host.river
        return river.sentences.own.count(0) + len(river.pending) >= LEAST_READ

    def take(self, brief: Brief) -> Searching:
        return Searching(self.host, brief)


class Searching(Work):
    """One search."""

    def __init__(self, host: Host, brief: Brief) -> None:
        self._host = host
        self._brief = brief
        self._written = ""

    def start(self) -> None:
        river, prism = self._host.river, self._host.prism
        task = prism.encode(self._brief.task)
        # What was just read of the question itself would match best.
        read = max(0, len(task) + _AROUND - len(river.pending))
        among = range(max(0, len(river.sentences.ids) - read))
        found = best_last(river.past.index, words_of(prism, task), among, self._brief.role.max_tokens)
        self._written = "\n".join(line for tokens in found for line in river.sentences.lines(tokens))

    def poll(self) -> Thought:
        return Thought(picked(self._brief.role, self._written), "nothing in the notes shares a rare word with it")

    def close(self) -> None:
        pass

    @property
    def text(self) -> str:
        return self._written


def best_last(index: SentenceIndex, words: list[int], among: range, budget: int) -> list[range]:
    """The sentences that share most with some words, each as its tokens, the best one last: nearest to what follows.

    Args:
        index: of the text.
        words: as numbers.
        among: tokens within which they lie.
        budget: tokens of all of them.
    """
    spans = index.spans(among, budget)
    worth = index.worth(spans, words, None, _LEAST_SHARE)
    found: list[range] = []
    for i in np.argsort(-worth, kind="stable").tolist():
        tokens = range(int(spans.starts[i]), int(spans.ends[i]))
        if worth[i] <= 0 or budget < _SHORTEST:
            break
        if _SHORTEST <= len(tokens) <= budget and not _asks(index.sentences, tokens):
            found.insert(0, tokens)
            budget -= len(tokens)
    return found


def _asks(sentences: Sentences, tokens: range) -> bool:
    """Whether a sentence is a question, such as an earlier one of the user's: it answers none."""
    return "".join(sentences.lines(tokens)).endswith("?")
