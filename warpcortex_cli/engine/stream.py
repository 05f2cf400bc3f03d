"""A Stream: one task, the work on it, and exactly one end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from warpcortex_cli.engine.brief import Brief, Thought
from warpcortex_cli.engine.states import FINAL, STREAM_MOVES, StreamState, moved
from warpcortex_cli.engine.workers.base import Work
from warpcortex_cli.memory.tail import Tail
from warpcortex_cli.profile import Role
from warpcortex_cli.synapse.snapshot import Synapse

_LEAST_SURE = 3  # tokens of a thought that its certainty is the mean of


class Stream:
    """A side agent. `STREAM_MOVES` says which states it goes through.

    Making one does nothing that could fail. That begins when it gets its Brief.

    Attributes:
        brief: what it was given; None before it begins and after its end.
        work: the work on its Brief; closed once there is a thought.
        at: where in River text it was requested, in characters; None: it started by itself.
        judged: whether the Gate judges its thought.
        offered: what it last offered while it went on.
        focus_tokens: River tokens of its focus set, by number.
    """

    def __init__(
        self, number: int, role: Role, task: str, groups: Mapping[str, str], now: float, at: int | None = None
    ) -> None:
        self.id = number
        self.role = role
        self.task = task.strip()
        self.groups = groups
        self.spawned = now
        self.at = at
        self.judged = True
        self.ended: float | None = None
        self._state = StreamState.QUEUED
        self.brief: Brief | None = None
        self.work: Work | None = None
        self.focus_tokens: tuple[int, ...] = ()
        self.landmarks = 0
        self.thought = Thought("")
        self.offered = ""
        self.gate_score: float | None = None
        self.reason = ""

    @property
    def state(self) -> StreamState:
        return self._state

    @state.setter
    def state(self, new: StreamState) -> None:
        self._state = moved(self._state, new, STREAM_MOVES)

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def tokens(self) -> int:
        """Tokens that it has written."""
        return self.work.tokens if self.work else 0

    @property
    def text(self) -> str:
        """All that it has written: its thought, and what led to it."""
        return self.work.text if self.work else ""

    @property
    def focus(self) -> int:
        """Tokens of its focus set."""
        return len(self.focus_tokens)

    @property
    def tail(self) -> Tail | None:
        """Its private KV, or None."""
        return self.work.tail if self.work else None

    @property
    def synapse(self) -> Synapse | None:
        """The Synapse that it reads, or None."""
        return self.brief.synapse if self.brief else None

    @property
    def kv_bytes(self) -> int:
        """Bytes of its private KV; after its end, of the last tail that it had."""
        return self.work.kv_bytes if self.work else 0

    def begin(self, brief: Brief, work: Work) -> None:
        """Takes its Brief and its work. Whatever `work` acquires from now on, `release` gives back."""
        self.brief, self.work = brief, work
        self.landmarks, self.focus_tokens = brief.landmarks, brief.focus

    def rest(self) -> None:
        """Closes its work once there is a thought: many Streams may wait at the Gate at once."""
        if self.work is not None:
            self.work.close()

    def release(self) -> None:
        """Gives everything back. The Synapse is freed with the last Stream that reads it."""
        self.brief = None
        self.thought = replace(self.thought, hidden=None)
        self.rest()


def certainty(log_probabilities: Sequence[float]) -> float:
    """How sure a Stream was of what it wrote: the geometric mean of its least probable tokens, 0..1."""
    least = sorted(log_probabilities)[:_LEAST_SURE]
    return math.exp(sum(least) / len(least)) if least else 1.0
