"""Admission: what a Stream gets when it starts: a Synapse to read, a focus set of its own, and room for its tail."""

from __future__ import annotations

import numpy as np
import torch

from warpcortex_cli.engine.heads import calibrated
from warpcortex_cli.engine.instructions import Instructions, before_fields
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.river import River
from warpcortex_cli.engine.sampling import Sampler
from warpcortex_cli.engine.stream import Stream
from warpcortex_cli.engine.text import words_of
from warpcortex_cli.events import StreamStarted, SynapseTaken
from warpcortex_cli.memory.tail import Tail, TailPool
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Limits, Profile, Role
from warpcortex_cli.synapse.focus import LEAST, focus_indices
from warpcortex_cli.synapse.snapshot import Synapse, take

_SEED_STRIDE = 1_000_003
LARGEST_SLAB = 128  # tails of one slab attend in one multiplication


class Admission:
    """Starts Streams. Keeps the newest Synapse; older versions live only as long as a Stream reads them."""

    def __init__(self, prism: Prism, seed: int) -> None:
        self.prism = prism
        self.seed = seed
        self.synapse: Synapse | None = None
        self._version = 0
        self._pool: TailPool | None = None
        self._instructions = Instructions(prism)

    def sampler(self, profile: Profile, number: int) -> Sampler:
        """Each Stream draws from a generator of its own, so that batching does not change what it writes."""
        return Sampler.of(profile.stream_sampling, self.prism.sampling, self.seed * _SEED_STRIDE + number)

    @property
    def tails_in_use(self) -> int:
        return self._pool.taken if self._pool else 0

    @property
    def shared_bytes(self) -> int:
        """Keys and values that Streams starting now share: the newest Synapse, and what roles are told over it."""
        return (self.synapse.nbytes if self.synapse else 0) + self._instructions.nbytes

    def forget(self) -> None:
        """Drops the newest Synapse: the River it was taken from has changed."""
        self.synapse = None
        self._instructions.forget()

    def admit(self, stream: Stream, river: River, profile: Profile, journal: Journal) -> None:
        prompt = self._prompt(stream)
        synapse = self._synapse(river, profile, journal) if stream.role.synapse and river.tail.length else None
        # The prompt and what it will write must still fit.
        room = profile.limits.stream_tail_tokens - len(prompt) - stream.role.max_tokens
        focus = self._focus(stream, prompt, river, synapse, min(room, profile.synapse.focus)) if synapse else []
        if stream.role.rereads:
            # Numbered, so that a Stream that goes through them knows where it is.
            lines = enumerate(river.sentences.lines(focus), start=1)
            prompt = self._prompt(stream, "\n".join(f"{n} {line}" for n, line in lines))
        alike = self._turn(stream.role, before_fields(stream.role.prompt))
        told = self._instructions.shared(stream.role, alike, prompt, synapse)
        own = len(prompt) - (told.tokens if told else 0)
        tail = stream.tail = self.new_tail(profile.limits)  # the Stream gives it back, whatever happens
        if len(focus) and not stream.role.rereads:
            river.copy(focus, tail)
        if own >= tail.capacity - tail.length:
            raise ValueError(f"the task is too long: {own} tokens do not fit into a tail of {tail.capacity}")
        stream.start(tail, synapse, told, prompt, focus)
        journal.write(
            StreamStarted(
                id=stream.id, synapse=synapse.version if synapse else 0, landmarks=stream.landmarks, focus=stream.focus
            )
        )

    def _prompt(self, stream: Stream, focus: str = "") -> list[int]:
        """The task as a user turn."""
        return self._turn(stream.role, stream.instruction(focus))

    def _turn(self, role: Role, words: str) -> list[int]:
        """With a Synapse the words follow the River's half-written answer, which they close.

        A Stream does not think before it answers, where the template lets it choose: it has few tokens.
        """
        chat = self.prism.chat
        return chat.turn(words, thinking=False) if role.synapse else chat.prompt(words, thinking=False)

    def new_tail(self, limits: Limits) -> Tail:
        """An empty tail for a Stream."""
        capacity = limits.stream_tail_tokens
        stored = limits.stream_tail_stored
        if self._pool is None or (self._pool.capacity, self._pool.stored) != (capacity, stored):
            self._pool = self.prism.new_pool(capacity, min(limits.streams, LARGEST_SLAB), stored)
        return self._pool.take()

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

    def prepare(self, profile: Profile) -> None:
        """Finds out which heads focus sets take, once for a model: seconds for a larger one, so not within a reply."""
        if profile.synapse.focus and any(role.synapse for role in profile.roles):
            calibrated(self.prism)

    def _focus(self, stream: Stream, prompt: list[int], river: River, synapse: Synapse, budget: int) -> list[int]:
        """Sentences that the task itself asks for: its prompt is read once over the River for its queries.

        What the River wrote is left out: it repeats the words of the requests that it made. Where the River has a past,
        the index that recalls for it finds them by fingerprints; else the keys themselves are at hand.
        """
        whole = synapse.landmarks >= synapse.context and not river.past.tokens
        if budget <= 0 or (whole and not stream.role.rereads):
            return []
        context = synapse.context
        queries = river.queries_of(prompt, context)
        asked = words_of(self.prism, self.prism.encode(stream.task))
        if river.past.tokens:
            return river.look_for(asked, queries, river.past.base + context, budget, range(river.length), LEAST)
        sentences, words = (
            torch.from_numpy(np.array(a[:context], np.int64))
            for a in (river.sentences.numbers, river.sentences.words.numbers)
        )
        own = torch.tensor(list(river.sentences.own[:context]), dtype=torch.bool)
        task = torch.tensor(asked, dtype=torch.long)
        plain = river.unrotated(queries, context)
        found = focus_indices(
            self.prism, calibrated(self.prism), river.tail, plain, sentences, budget, own, task, words
        )
        return found.tolist()
