"""The states of a River and of a Stream, and from which to which each may go."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class RiverState(StrEnum):
    """What a River is at."""

    IDLE = "idle"
    READING = "reading"  # what it does not answer
    PREFILL = "prefill"  # what it is to answer
    WRITING = "writing"
    AWAITING = "awaiting"  # before its next token, for Streams whose thoughts are to come first
    WAITING = "waiting"  # at a pause point, for Streams
    HELD = "held"  # at the end of its turn, for Streams


class StreamState(StrEnum):
    """What a Stream is at. The last five are ends."""

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

# A reply may be cut, and a conversation go back, at any time; until then reading follows reading.
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
# A thought may be told to a Stream that has not begun, or another one, so it comes to the Gate from everywhere.
STREAM_MOVES: Mapping[StreamState, frozenset[StreamState]] = {
    _S.QUEUED: _WITHOUT_A_THOUGHT | {_S.THINKING, _S.GATING},
    _S.THINKING: _WITHOUT_A_THOUGHT | {_S.PARKED, _S.GATING},
    _S.PARKED: _WITHOUT_A_THOUGHT | {_S.THINKING, _S.GATING},
    _S.GATING: FINAL | {_S.GATING},
    **{end: frozenset() for end in FINAL},
}


def moved(old: _State, new: str, moves: Mapping[_State, frozenset[_State]]) -> _State:
    """The state `new`, where one may go from `old`.

    Raises:
        AssertionError: one may not. It is a mistake of the program.
    """
    found = type(old)(new)
    assert found in moves[old], f"a {type(old).__name__} does not go from {old} to {found}"
    return found
