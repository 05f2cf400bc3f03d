"""Prepares what a Stream reads: a Synapse of the River, its own focus set, its instruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from warpcortex_cli.engine.brief import Brief
from warpcortex_cli.engine.heads import calibrated
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.river import River
from warpcortex_cli.engine.text import words_of
from warpcortex_cli.engine.workers.model import turn
from warpcortex_cli.events import SynapseTaken
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile, Role
from warpcortex_cli.synapse.snapshot import Synapse, take
from warpcortex_cli.synapse.worth import LEAST


class Briefing:
    """Writes Briefs and keeps the newest Synapse. Older versions live as long as a Stream reads them."""

    def __init__(self, prism: Prism) -> None:
        self.prism = prism
        self.synapse: Synapse | None = None
        self._version = 0

    def forget(self) -> None:
        """Drops the newest Synapse: the River it was taken from has changed."""
        self.synapse = None

    def share(self, other: Briefing) -> None:
        """Takes over another one's Synapse, which never changes."""
        self.synapse, self._version = other.synapse, other._version

    def prepare(self, profile: Profile) -> None:
        """Measures once for a model which heads focus sets use. It can take seconds, so not within a reply."""
        if profile.synapse.focus and any(role.synapse for role in profile.roles):
            calibrated(self.prism)

    def task(self, number: int, role: Role, task: str, groups: Mapping[str, str], weighed: bool = False) -> Brief:
        """A Brief for a worker that reads nothing of the River."""
        return Brief(number, role, task, groups, weighed=weighed)

    def full(self, brief: Brief, river: River, profile: Profile, journal: Journal) -> Brief:
        """The same Brief with everything that a Stream may read of the River as it is now."""
        prompt = turn(self.prism, brief.role, brief.instruction())
        synapse = self._synapse(river, profile, journal) if brief.role.synapse and river.tail.length else None
        focus: list[int] = []
        if synapse is not None:
            # The prompt and the reply must still fit into its tail.
            room = profile.limits.stream_tail_tokens - len(prompt) - brief.role.max_tokens
            focus = self._focus(brief, prompt, river, synapse, min(room, profile.synapse.focus))
        brief = replace(brief, synapse=synapse, focus=tuple(focus))
        if brief.role.rereads:
            # Numbered, so that a Stream that works through them keeps its place.
            lines = enumerate(river.sentences.lines(focus), start=1)
            brief = replace(brief, focus_lines="\n".join(f"{n} {line}" for n, line in lines))
            prompt = turn(self.prism, brief.role, brief.instruction())
        return replace(brief, prompt=tuple(prompt))

    def _synapse(self, river: River, profile: Profile, journal: Journal) -> Synapse:
        age = river.tail.length - self.synapse.context if self.synapse else None
        if self.synapse is None or age is None or not 0 <= age < profile.synapse.refresh_tokens:
            began = journal.now()
            after = self.synapse if age is not None and age >= 0 else None
            self.synapse = take(self.prism, river.tail, profile.synapse, river.queries, self._version + 1, after=after)
            self._version += 1
            journal.write(
                SynapseTaken(
                    version=self._version, landmarks=self.synapse.landmarks, context=self.synapse.context,
                    bytes=self.synapse.nbytes, seconds=journal.now() - began,
                )
            )  # fmt: skip
        return self.synapse

    def _focus(self, brief: Brief, prompt: list[int], river: River, synapse: Synapse, budget: int) -> list[int]:
        """Sentences that the task asks for. Its prompt is read once over the River to get the queries.

        They are chosen as the River recalls its past, from the past and from what the Synapse was taken from.
        """
        whole = synapse.landmarks >= synapse.context and not river.past.tokens
        if budget <= 0 or (whole and not brief.role.rereads):
            return []
        context = synapse.context
        queries = river.queries_of(prompt, context)
        asked = words_of(self.prism, self.prism.encode(brief.task))
        known = range(river.past.tokens + context)
        return river.look_for(asked, queries, river.past.base + context, budget, known, LEAST)
