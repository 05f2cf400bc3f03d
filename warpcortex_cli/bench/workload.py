"""A River with N Streams that really decode, driven through the engine step by step."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from warpcortex_cli.engine.conversation import Conversation
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.pacing import Pacer
from warpcortex_cli.engine.stepper import Stepper
from warpcortex_cli.errors import UsageError
from warpcortex_cli.events import Event, GateDecided, StreamEnded, StreamText, ThoughtInjected
from warpcortex_cli.memory.room import Stored
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import (
    GateSettings,
    Limits,
    Profile,
    RiverSettings,
    Role,
    SynapseSettings,
)

MOST_AGENTS = 100_000
_FOREVER = 86_400.0
_WORD = 256  # an ordinary token
SOLO_TOKENS = 128  # at most, that the River writes before the Streams start and after they end


@dataclass(frozen=True)
class Load:
    """What a run demands of the engine.

    Attributes:
        agents: concurrent Streams beside the River.
        context: tokens that the River has read.
        landmarks: k of the Synapse.
        tokens: tokens that each Stream writes.
        river_share: the guaranteed share of the River's own speed; None: the default while somebody reads along.
        tails: the format of the Streams' KV.
        focus: tokens of each Stream's focus set.
        adapters: LoRA adapters of the Streams, in turn; none: they are computed with the model as it is.
    """

    agents: int
    context: int
    landmarks: int
    tokens: int
    river_share: float | None = 0.0
    tails: Stored = "model"
    focus: int = 0
    adapters: tuple[str, ...] = ()


@dataclass
class Step:
    """One step of the engine: its seconds and its rows."""

    seconds: float
    river: int
    streams: int
    prefilling: bool


@dataclass
class Tally:
    """Totals over the events of a run."""

    ended: int = 0
    written: int = 0  # tokens of all Streams
    thoughts: int = 0
    delays: list[float] = field(default_factory=list)  # seconds from a Stream's request to its injection
    spawned: dict[int, float] = field(default_factory=dict)
    held: float = 0.0  # seconds in which Streams were held to measure the River alone

    def __call__(self, event: Event) -> None:
        if isinstance(event, StreamText):
            self.written += 1
        elif isinstance(event, GateDecided):
            self.thoughts += 1
        elif isinstance(event, ThoughtInjected):
            self.delays.append(event.time - self.held - self.spawned.get(event.id, event.time))
        elif isinstance(event, StreamEnded):
            self.ended += 1


class _Holding(Pacer):
    """Lets no Stream think while the River writes, and does not adapt."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def width(self, wanted: int, river_writes: bool) -> int:
        return 0 if river_writes else wanted

    def observe(self, width: int, seconds: float, river_writes: bool, besides: float = 0.0) -> None:
        pass


def profile_for(load: Load, prism: Prism) -> Profile:
    """A profile for a load.

    Besides sizes and time limits it differs from a user's in two settings: the Gate is open, so that the babble of
    random weights is injected and its cost counts; and the River does not wait for Streams.
    """
    roles = [
        Role(
            name=f"bench-{number}",
            trigger=rf"\[BENCH {number}: (?P<task>[^\]\n]{{1,80}})\]",
            max_tokens=load.tokens,
            deadline_seconds=_FOREVER,
            adapter=adapter,
        )
        for number, adapter in enumerate(load.adapters or (None,))
    ]
    chat = prism.chat
    frame = [*chat.assistant_close(), *chat.user_open(), *chat.user_close()]
    prompt = len(frame) + len(prism.encode(_task(MOST_AGENTS)))
    return Profile(
        name="bench",
        river=RiverSettings(max_tokens=1_000_000, wait_seconds=0),
        roles=tuple(roles),
        synapse=SynapseSettings(landmarks=load.landmarks, focus=load.focus, refresh_tokens=1_000_000),
        gate=GateSettings(mode="off"),
        limits=Limits(
            streams=max(1, load.agents),
            queue=max(1, load.agents),
            stream_tail_tokens=max(16, load.focus + load.tokens + prompt + 2),
            river_share=load.river_share,
            stream_tail_stored=load.tails,
        ),
    )


def _task(number: int) -> str:
    """A Stream's task, different for each; the bench's models have no words for a real one."""
    return f"think of w{MOST_AGENTS + number}"


class Workload:
    """An engine whose River has read `context` tokens and decodes without end.

    Raises:
        UsageError: the load does not fit into the model's context.
    """

    def __init__(self, prism: Prism, load: Load) -> None:
        if load.landmarks > load.context:
            raise UsageError(
                f"{load.landmarks} landmarks cannot be chosen out of a context of {load.context} tokens.",
                "Lower --landmarks or raise --context.",
            )
        # The River writes both while it is measured alone and beside the Streams.
        if load.context + 2 * (load.tokens + SOLO_TOKENS) > prism.max_context:
            raise UsageError(
                f"a context of {load.context} tokens and what is written after it, {load.tokens} tokens per agent, "
                f"do not fit into the {prism.max_context} tokens of {prism.name}.",
                "Lower --context or --tokens.",
            )
        self.prism = prism
        self.load = load
        self.tally = Tally()
        self.journal = Journal([self.tally])
        self.profile = profile_for(load, prism)
        self.conversation = Conversation(prism, self.profile, self.journal, watched=load.river_share is None)
        self.stepper = Stepper(prism)
        self.stepper.join(self.conversation)
        spread = max(1, (prism.vocab_size - 300) // max(1, load.context))
        self.conversation.begin_turn([256 + (i * spread) % (prism.vocab_size - 300) for i in range(load.context)])
        self.reading_seconds = 0.0
        while self.conversation.river.state == "prefill":
            self.reading_seconds += self.step().seconds

    def step(self) -> Step:
        """One step. When the River's turn ends, the next one begins, as if the user had sent a word."""
        river = self.conversation.river
        if river.state == "idle":
            self.conversation.begin_turn([_WORD])
        turn, before = self.conversation.turn, self.tally.written
        wrote = turn.written
        prefilling = any(
            s.state in ("queued", "gating") or (s.work is not None and s.work.wanted > 1)
            for s in self.conversation.alive
        )
        began = time.perf_counter()
        self.stepper.step()
        self.conversation.raise_fault()
        seconds = time.perf_counter() - began
        self.journal.drain()
        return Step(seconds, turn.written - wrote, self.tally.written - before, prefilling)

    @property
    def roomy(self) -> bool:
        """Whether the River has tokens to spare."""
        return self.prism.max_context - self.conversation.river.position > 2 * (self.load.tokens + SOLO_TOKENS)

    def alone(self) -> Step:
        """One step of the River alone; Streams wait."""
        pacer, self.stepper.pacer = self.stepper.pacer, _Holding()
        try:
            step = self.step()
        finally:
            self.stepper.pacer = pacer
        self.tally.held += step.seconds
        return step

    def spawn(self) -> None:
        """Requests all Streams at once, by giving the Router text as if the River had written it.

        This is the only substitute for the model's own behaviour: random weights write no requests.
        """
        now = self.journal.now()
        for number in range(self.load.agents):
            role = number % max(1, len(self.load.adapters))
            for match in self.conversation.router.feed(f"[BENCH {role}: {_task(number)}]"):
                self.tally.spawned[self.conversation.crew.streams.spawned + 1] = now
                self.conversation.crew.spawn(match.role, match.task, match.groups)

    @property
    def thinking(self) -> bool:
        return bool(self.conversation.alive)
