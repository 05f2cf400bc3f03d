"""Events: the engine's only output. Terminal, trace, bench and eval subscribe to the same ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events.

    Attributes:
        seq: its number in the session's total order, from 0 without gaps.
        time: seconds since the session began (monotonic clock).
    """

    name: ClassVar[str] = "event"
    seq: int = -1
    time: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """A flat dictionary, `{"event": name, "seq": ..., "time": ..., ...}`, as `--trace` writes it."""
        return {"event": self.name, **asdict(self)}


Listener = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RiverStarted(Event):
    """The River began a user turn; `prompt_tokens` are to be prefilled, behind those that it holds already (`held`)."""

    name: ClassVar[str] = "river_started"
    turn: int
    prompt_tokens: int
    held: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RiverPrefilled(Event):
    """`done` of `total` prompt tokens are in the River's KV cache."""

    name: ClassVar[str] = "river_prefilled"
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RiverText(Event):
    """New River text.

    `request` is true for a trigger's characters, such as `[MATH: 1 + 2]`; `thinking` for what the model writes between
    thinking tags, and for the tags. `stream`: whose thought it is, if a thought became River text.
    """

    name: ClassVar[str] = "river_text"
    text: str
    request: bool = False
    thinking: bool = False
    stream: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RiverToken(Event):
    """A token of the reply and its log-probability, where a reader asked for them.

    `likeliest`: the likeliest tokens there, each as number, text and log-probability.
    """

    name: ClassVar[str] = "river_token"
    token: int
    text: str
    log_probability: float
    likeliest: tuple[tuple[int, str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RiverWaiting(Event):
    """The River reached a pause point while Streams that it requested still think."""

    name: ClassVar[str] = "river_waiting"
    streams: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RiverFinished(Event):
    """The turn is over. `reason`: "stop", "length" (token limit), "loop" (repetition), "interrupted"."""

    name: ClassVar[str] = "river_finished"
    reason: str
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAnswered(Event):
    """A role's question about the sentence `task` was read: how likely `yes` is, and whether the role starts for it.

    `yes` is null where the question could not be read, with the reason in `why`.
    """

    name: ClassVar[str] = "probe_answered"
    role: str
    task: str
    yes: float | None
    started: bool
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpawned(Event):
    """A trigger matched River text; the Stream waits for admission."""

    name: ClassVar[str] = "stream_spawned"
    id: int
    role: str
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStarted(Event):
    """The Stream starts. It reads version `synapse` of the Synapse, with `landmarks` tokens, and `focus` more tokens.

    `reads`: what its rows attend to besides its tail, as readable text.
    """

    name: ClassVar[str] = "stream_started"
    id: int
    synapse: int
    landmarks: int
    focus: int
    reads: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamParked(Event):
    """A Stream of higher priority took its seat: the `tokens` of its tail wait in `bytes` of the store."""

    name: ClassVar[str] = "stream_parked"
    id: int
    tokens: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamResumed(Event):
    """A parked Stream has a seat again; the `tokens` of its tail are back at their positions."""

    name: ClassVar[str] = "stream_resumed"
    id: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamText(Event):
    """New text of a Stream's thinking."""

    name: ClassVar[str] = "stream_text"
    id: int
    text: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecided(Event):
    """The Gate judged a finished thought."""

    name: ClassVar[str] = "gate_decided"
    id: int
    thought: str
    passed: bool
    score: float
    threshold: float
    mode: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnded(Event):
    """The Stream's final state: injected, rejected, expired, cancelled or failed, why, and its thought, if any."""

    name: ClassVar[str] = "stream_ended"
    id: int
    state: str
    reason: str
    tokens: int
    seconds: float
    thought: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtInjected(Event):
    """The thought's KV (`tokens`) joined the River at virtual positions `first`..`last`."""

    name: ClassVar[str] = "thought_injected"
    id: int
    tokens: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtInlined(Event):
    """The thought became River text, in `tokens` at positions `first`..`last`.

    `into`: "reply", or "prompt": it stands before the user's words.
    """

    name: ClassVar[str] = "thought_inlined"
    id: int
    text: str
    tokens: int
    first: int
    last: int
    into: str = "reply"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtWithdrawn(Event):
    """An injected thought left the River's attention; `reason`: "undo", "budget", or "replaced" by a later part."""

    name: ClassVar[str] = "thought_withdrawn"
    id: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SynapseTaken(Event):
    """A new snapshot: `landmarks` (k) chosen out of `context` (L) River tokens."""

    name: ClassVar[str] = "synapse_taken"
    version: int
    landmarks: int
    context: int
    bytes: int
    seconds: float
