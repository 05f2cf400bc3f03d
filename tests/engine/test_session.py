"""Going back: interrupted notes leave nothing behind, and /undo takes back a thought, then its turn."""

from __future__ import annotations

import pytest

from tests.engine.conftest import make_profile, run
from warpcortex_cli import events as ev
from warpcortex_cli.engine.session import Session


def test_interrupted_notes_leave_nothing_behind(prism) -> None:
    session = Session(prism, make_profile(), streams=False)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.load_notes("Mara keeps ropes: 47. " * 80, progress=interrupt)
    assert session.transcript() == [] and session.river.position == 0
    fresh = Session(prism, make_profile(), streams=False)
    texts = ["".join(e.text for e in run(s) if isinstance(e, ev.RiverText)) for s in (session, fresh)]
    assert texts[0] == texts[1]


def test_undo_takes_back_the_thought_and_then_the_turn(prism) -> None:
    session = Session(prism, make_profile())
    events = run(session)
    injected = [e.id for e in events if isinstance(e, ev.ThoughtInjected)]
    asides = session.snapshot().asides
    first = session.undo()
    assert injected and first is not None and first.kind == "thought"
    assert session.snapshot().asides == asides - 1
    second = session.undo()
    assert second is not None and second.kind == "turn"
    assert session.transcript() == [] and session.river.position == 0 and session.snapshot().asides == 0
    assert session.undo() is None


def test_certainty_is_measured_only_where_the_gate_asks_for_it(prism) -> None:
    """Random weights are never sure: a Gate that asks for certainty lets none of their thoughts in."""
    for asked in (0.0, 1.0):
        session = Session(prism, make_profile(gate={"mode": "calibrated", "threshold": 0.0, "certainty": asked}))
        judged = [e for e in run(session) if isinstance(e, ev.GateDecided)]
        readable = [e for e in judged if "garbled" not in e.reason]
        assert readable and all(e.passed == (asked == 0) for e in readable)
        assert all(("unsure" in e.reason) == (asked > 0) for e in readable)
        streams = list(session.streams)
        assert streams and all(len(s.work.log_probabilities) == (s.tokens if asked else 0) for s in streams if s.work)
