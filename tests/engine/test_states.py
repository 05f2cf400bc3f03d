"""States: who may go where, as the tables say and nowhere else."""

from __future__ import annotations

import pytest

from tests.engine.conftest import make_profile, run
from warpcortex_cli.engine.river import River
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.states import FINAL, RIVER_MOVES, STREAM_MOVES, RiverState, StreamState
from warpcortex_cli.engine.stream import Stream


def test_every_state_has_its_row_and_can_be_reached() -> None:
    assert set(RIVER_MOVES) == set(RiverState) and set(STREAM_MOVES) == set(StreamState)
    assert set().union(*RIVER_MOVES.values()) == set(RiverState)
    assert set().union(*STREAM_MOVES.values()) == set(StreamState) - {StreamState.QUEUED}


def test_an_end_is_an_end_and_only_the_gate_lets_in() -> None:
    assert {s for s in StreamState if not STREAM_MOVES[s]} == FINAL
    assert [s for s in StreamState if StreamState.INJECTED in STREAM_MOVES[s]] == [StreamState.GATING]
    assert all(STREAM_MOVES[s] >= FINAL - {StreamState.INJECTED} for s in StreamState if s not in FINAL)
    assert all(RiverState.IDLE in moves for moves in RIVER_MOVES.values())  # a reply may be cut at any time


@pytest.mark.parametrize("old", StreamState)
@pytest.mark.parametrize("new", StreamState)
def test_a_stream_goes_where_its_table_says(old: StreamState, new: StreamState) -> None:
    stream = Stream(1, make_profile().roles[0], "ropes", {}, 0.0)
    stream._state = old
    if new in STREAM_MOVES[old]:
        stream.state = new
        assert stream.state is new and stream.final == (new in FINAL)
    else:
        with pytest.raises(AssertionError, match=f"from {old} to {new}"):
            stream.state = new
        assert stream.state is old


@pytest.mark.parametrize("old", RiverState)
@pytest.mark.parametrize("new", RiverState)
def test_a_river_goes_where_its_table_says(prism, old: RiverState, new: RiverState) -> None:
    river = River.__new__(River)
    river._state = old
    if new in RIVER_MOVES[old]:
        river.state = new
        assert river.state is new and river.idle == (new is RiverState.IDLE)
    else:
        with pytest.raises(AssertionError, match=f"from {old} to {new}"):
            river.state = new


def test_a_run_goes_through_them(prism) -> None:
    """As scripts read them: plain words."""
    session = Session(prism, make_profile(river={"max_tokens": 24, "pause": "[a-z]"}))
    seen: set[str] = set()
    session.listen(lambda event: seen.update([session.river.state, *(s.state for s in session.streams)]))
    run(session)
    assert {"writing", "waiting", "queued", "thinking", "gating", "injected"} <= seen
    assert f"{session.river.state}" == "idle" == session.snapshot().river_state
