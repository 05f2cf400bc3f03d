"""Snapshots of a running session for terminals and scripts: plain values, no tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

from warpcortex_cli.engine.conversation import Conversation
from warpcortex_cli.engine.stream import Stream
from warpcortex_cli.memory.store import Tier


@dataclass(frozen=True)
class StreamView:
    """One Stream. `gate_score` is None until the Gate has judged; `seconds` counts from its start.

    `work`, `starts`: from its role: which worker does its work, and what starts it.
    """

    id: int
    role: str
    task: str
    state: str
    tokens: int
    landmarks: int
    focus: int
    thought: str
    gate_score: float | None
    gate_reason: str
    kv_bytes: int
    seconds: float
    work: str = "model"
    starts: str = "trigger"


@dataclass(frozen=True)
class SynapseView:
    """The newest Synapse: `landmarks` (k) of `context` (L) tokens, in `bytes` of KV."""

    version: int
    landmarks: int
    context: int
    bytes: int


@dataclass(frozen=True)
class MemoryView:
    """The River's context: tokens in its tail, in blocks, and recalled; blocks and bytes of each tier.

    The tiers include tails of parked Streams. `bare`: blocks of which only the tokens are kept.
    `bound`: the most tokens that the River's row attends to, besides at most `thoughts` tokens of thoughts.
    `format`: how new blocks are stored; `formats`: how many blocks are stored in which format.
    `anew`: damaged blocks that were recomputed.
    """

    tail: int
    stored: int
    recalled: int
    bound: int
    tiers: dict[str, Tier]
    bare: int
    format: str
    anew: int
    failure: str
    thoughts: int = 0
    formats: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class GateView:
    passed: int
    rejected: int
    threshold: float
    mode: str


@dataclass(frozen=True)
class SessionView:
    """The whole session at one moment. Byte counts are of KV tensors. `forgotten`: Streams not listed, by state."""

    river_tokens: int
    river_positions: int
    river_state: str
    river_kv_bytes: int
    streams: list[StreamView]
    forgotten: dict[str, int]
    synapse: SynapseView | None
    gate: GateView
    memory: MemoryView
    asides: int
    aside_tokens: int
    aside_bytes: int


def stream_view(stream: Stream, now: float) -> StreamView:
    return StreamView(
        id=stream.id,
        role=stream.role.name,
        task=stream.task,
        state=stream.state,
        tokens=stream.tokens,
        landmarks=stream.landmarks,
        focus=stream.focus,
        thought=stream.thought.text,
        gate_score=stream.gate_score,
        gate_reason=stream.reason,
        kv_bytes=stream.kv_bytes,
        seconds=(now if stream.ended is None else stream.ended) - stream.spawned,
        work=stream.role.work,
        starts=stream.role.starts,
    )


def _memory_view(of: Conversation) -> MemoryView:
    river, past, parking = of.river, of.river.past, of.crew.parking
    return MemoryView(
        tail=river.tail.length,
        stored=past.tokens,
        recalled=len(past.recalled),
        bound=river.bound,
        thoughts=of.profile.injection.budget_tokens,
        tiers={name: tier + parking.tiers[name] for name, tier in past.store.tiers().items()},
        bare=past.store.bare,
        format=past.store.stored,
        formats=past.store.formats(),
        anew=len(past.anew),
        failure=past.store.failure or parking.failure,
    )


def session_view(of: Conversation) -> SessionView:
    now = of.journal.now()
    synapse, river, gate, crew = of.crew.briefing.synapse, of.river, of.gate, of.crew
    return SessionView(
        river_tokens=of.turn.written,
        river_positions=river.length,
        river_state=river.state,
        river_kv_bytes=river.tail.nbytes,
        streams=[stream_view(s, now) for s in crew.streams],
        forgotten=dict(crew.streams.forgotten),
        synapse=SynapseView(synapse.version, synapse.landmarks, synapse.context, synapse.nbytes) if synapse else None,
        gate=GateView(gate.passed, gate.rejected, gate.threshold, gate.settings.mode),
        memory=_memory_view(of),
        asides=len(river.asides),
        aside_tokens=river.asides.tokens,
        aside_bytes=river.asides.nbytes,
    )
