"""The states of a River and of a Stream, and the moves between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class RiverState(StrEnum):
    """What a River is doing."""

    IDLE = "idle"
    READING = "reading"  # text that it does not answer
    PREFILL = "prefill"  # text that it will answer
    WRITING = "writing"
    AWAITING = "awaiting"  # before its next token, for thoughts that must arrive first
    WAITING = "waiting"  # at a pause point, for Streams
    HELD = "held"  # at the end of its turn, for Streams


class StreamState(StrEnum):
    """What a Stream is doing. The last five are final."""

    QUEUED = "queued"
    THINKING = "thinking"
    PARKED = "parked"
    GATING = "gating"
    INJECTED = "injected"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"


_State = TypeVar("_State", RiverState, StreamState)
_R, _S = RiverState, StreamState

# Any state may fall back to idle: a reply can be cut, and a conversation can go back, at any time.
RIVER_MOVES: Mapping[RiverState, frozenset[RiverState]] = {
    _R.IDLE: frozenset({_R.IDLE, _R.READING, _R.PREFILL}),
    _R.READING: frozenset({_R.IDLE, _R.READING, _R.PREFILL}),
    _R.PREFILL: frozenset({_R.IDLE, _R.READING, _R.PREFILL, _R.WRITING, _R.AWAITING}),
    _R.WRITING: frozenset({_R.IDLE, _R.WRITING, _R.AWAITING, _R.WAITING, _R.HELD}),
    _R.AWAITING: frozenset({_R.IDLE, _R.PREFILL, _R.WRITING, _R.WAITING}),
    _R.WAITING: frozenset({_R.IDLE, _R.WRITING}),
    _R.HELD: frozenset({_R.IDLE, _R.WRITING}),
}
FINAL = frozenset({_S.INJECTED, _S.REJECTED, _S.EXPIRED, _S.CANCELLED, _S.FAILED})
_WITHOUT_A_THOUGHT = FINAL - {_S.INJECTED}
# A thought may also be given to a Stream from outside, so the Gate can be reached from every state.
STREAM_MOVES: Mapping[StreamState, frozenset[StreamState]] = {
    _S.QUEUED: _WITHOUT_A_THOUGHT | {_S.THINKING, _S.GATING},
    _S.THINKING: _WITHOUT_A_THOUGHT | {_S.PARKED, _S.GATING},
    _S.PARKED: _WITHOUT_A_THOUGHT | {_S.THINKING, _S.GATING},
    _S.GATING: FINAL | {_S.GATING},
    **{end: frozenset() for end in FINAL},
}


def moved(old: _State, new: str, moves: Mapping[_State, frozenset[_State]]) -> _State:
    """The state `new`, if `old` may move to it.

    Raises:
        AssertionError: it may not. That is a bug.
    """
    found = type(old)(new)
    assert found in moves[old], f"a {type(old).__name__} does not go from {old} to {found}"
    return found
