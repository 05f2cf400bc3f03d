"""`work: search`: the sentences of notes and past that match a task best, by the River's own index."""

from __future__ import annotations

from collections.abc import Mapping

from warpcortex_cli.engine.brief import Brief, Thought
from warpcortex_cli.engine.text import words_of
from warpcortex_cli.engine.workers.base import Host, Work, Worker, picked
from warpcortex_cli.profile import Role

LEAST_READ = 512  # tokens; in a shorter text the River finds as much as an index
_LEAST_SHARE = 0.5  # of the best sentence's score


class SearchWorker(Worker):
    """Searches the River's own index."""

    def wants(self, role: Role, task: str, groups: Mapping[str, str]) -> bool:
        return len(self.host.river.sentences.ids) >= LEAST_READ

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
        sentences = river.sentences
        asked = words_of(prism, prism.encode(self._brief.task))
        # Leave out the question itself, which was just read and would match best.
        last = len(sentences.ids) - len(prism.encode(self._brief.task)) - _AROUND
        budget = self._brief.role.max_tokens
        found = river.past.look_for(asked, None, budget, range(max(0, last)), _LEAST_SHARE)
        self._written = "\n".join(sentences.lines(found))

    def poll(self) -> Thought:
        return Thought(picked(self._brief.role, self._written), "nothing in the notes shares a rare word with it")

    def close(self) -> None:
        pass

    @property
    def text(self) -> str:
        return self._written


_AROUND = 16  # tokens of the chat template around the user's words
