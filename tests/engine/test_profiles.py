"""Another profile between turns is what a session is that begins with it; what cannot change is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.conftest import make_profile, run
from tests.engine.test_past import FACT, filler, plain
from warpcortex_cli import events as ev
from warpcortex_cli.engine.archive import Archive
from warpcortex_cli.engine.session import Session
from warpcortex_cli.memory.log import RecordLog
from warpcortex_cli.memory.store import BLOCK, EARLIER
from warpcortex_cli.profile import Profile

CHANGES: dict[str, dict[str, Any]] = {
    "river": {"river": {"max_tokens": 7, "pause": "\n", "resume": " ", "wait_seconds": 1.0}},
    "sampling": {"sampling": {"temperature": 0.7, "top_p": 0.9}},
    "stream sampling": {"stream_sampling": {"temperature": 0.7, "top_p": 0.9}},
    "memory": {
        "memory": {"window": 96, "recall": 64, "hot_mb": 3, "warm_mb": 2, "cold_mb": 1, "stored": "4/4"},
    },
    "gate": {"gate": {"mode": "calibrated", "threshold": 0.25, "certainty": 0.5}},
    "injection": {"injection": {"enabled": False, "budget_tokens": 33}},
    "limits": {
        "limits": {"streams": 2, "queue": 3, "river_share": 0.5, "stream_tail_tokens": 48, "stream_tail_stored": "int8"}
    },
    "synapse": {"synapse": {"landmarks": 5, "focus": 4, "refresh_tokens": 3, "sinks": 1, "recent": 2, "alpha": 0.1}},
    "role": {"role": {"name": "other", "trigger": "(?P<task>[aeiou]{2})", "priority": 3}},
}


def in_force(session: Session) -> dict[str, Any]:
    """Every setting, as those have it who act by it."""
    engine, river, past = session.conversation, session.river, session.river.past
    sampler, stream = river.sampler, engine.crew.writer.sampler(1)
    tail = engine.crew.writer.new_tail()
    tail.release()
    memory = session.snapshot().memory
    return {
        "profile": engine.profile,
        "river": river.settings,
        "pause": (pause := engine._new_turn()._pause) and pause.pattern,
        "roles": [role for role, _ in engine.router._roles],
        "sampler": (sampler.temperature, sampler.top_p, sampler.seed),
        "stream sampler": (stream.temperature, stream.top_p, stream.seed),
        "gate": (engine.gate.settings, engine.gate.threshold),
        "injecting": (engine.crew.entrance.injecting, memory.thoughts),
        "share": session.stepper.pacer.share,
        "tail": (tail.capacity, tail.slab.slots, type(tail.slab.rooms[0])),
        "window": (river.limit, river.bound, memory.bound),
        "store": (past.store.stored, past.store._budgets, memory.format),
        "recall": (past.budget, past.base - past.pinned if past.tokens else past.budget),
    }


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("notes", [0, 60])
def test_whatever_changes_is_as_if_the_session_had_begun_with_it(prism, change: str, notes: int) -> None:
    old, new = make_profile(memory={"window": 256, "recall": 128}), make_profile(**CHANGES[change])
    switched, fresh = Session(prism, old), Session(prism, new)
    if notes:
        for session in (switched, fresh):
            session.load_notes(filler(notes))
        assert switched.river.past.tokens
    before = in_force(switched)
    switched.set_profile(new)
    for name, found in in_force(fresh).items():
        if notes and name == "window" and "memory" not in CHANGES[change]:
            continue  # there a past began, which an unbounded window does not need
        assert in_force(switched)[name] == found, name
    assert in_force(switched) != before
    river = switched.river
    assert river.tail.length <= river.limit
    assert river.tail.positions.tolist() == list(range(river.past.base, river.position))
    assert isinstance(run(switched)[-1], ev.RiverFinished)


def test_memory_says_how_blocks_are_stored_and_were(prism) -> None:
    def of(stored: str) -> Profile:
        return make_profile(memory={"window": 256, "recall": 128, "stored": stored})

    session = Session(prism, of("exact"))
    session.load_notes(filler(60))
    store = session.river.past.store
    exact = len(store)
    assert session.snapshot().memory.formats == {"exact": exact}
    session.set_profile(of("4/4"))
    session.load_notes(filler(60))
    memory, sizes = session.snapshot().memory, [len(store.packed(n)) for n in range(len(store))]
    assert memory.format == "4/4" and memory.formats == {"4/4": len(store) - exact, "exact": exact}
    assert max(sizes[exact:]) < min(sizes[:exact]) / 3
    while session.undo():
        pass
    assert session.snapshot().memory.formats == {}


def test_another_sampler_is_used_at_once(prism) -> None:
    hot = make_profile(sampling={"temperature": 0.9, "top_p": 0.95})
    session, fresh, cold = (
        Session(prism, make_profile(), seed=3),
        Session(prism, hot, seed=3),
        Session(prism, make_profile(), seed=3),
    )
    session.set_profile(hot)
    texts = ["".join(e.text for e in run(s) if isinstance(e, ev.RiverText)) for s in (session, fresh, cold)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("recall", [32, 96, 300])
def test_a_past_goes_where_another_budget_has_it_stand(prism, tmp_path: Path, recall: int) -> None:
    """At once with /profile, and when a session is taken up with another profile; no token is lost."""

    def of(recall: int) -> Profile:
        return make_profile(memory={"window": 256, "recall": recall, "stored": "exact"})

    session, archive = Session(prism, of(128)), Archive(RecordLog(tmp_path / "s"))
    archive.restore(session)
    session.load_notes(f"{FACT} {filler(60)}")
    run(session, "How many lanterns does Zoltan keep?")
    archive.save(session)
    river = session.river
    ids, known, stored = river.sentences.ids[:], plain(river), river.past.tokens
    for back in (session, Session(prism, of(recall))):
        if back is session:
            session.set_profile(of(recall))
            archive.log.close()
        else:
            archive = Archive(RecordLog(tmp_path / "s"))
            assert archive.restore(back) == []
        river = back.river
        assert river.sentences.ids == ids and river.past.tokens == stored
        for x, y in zip(known, plain(river), strict=True):
            torch.testing.assert_close(x, y, atol=1e-4, rtol=0)
        assert river.bound == 256 + river.past.pinned + recall == back.snapshot().memory.bound
        assert river.tail.positions.tolist() == list(range(river.past.base, river.position))
        run(back, "How many lanterns does Zoltan keep?")
        assert len(river.past.recalled) <= recall and sum(s.tokens for s in river.past.working()) <= river.past.base
    archive.save(back)
    archive.log.close()
    last, archive = Session(prism, of(recall)), Archive(RecordLog(tmp_path / "s"))
    assert archive.restore(last) == []
    again = last.river
    assert again.tail.positions.tolist() == list(range(again.past.base, again.position))
    for x, y in zip(plain(river), plain(again), strict=True):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=0)
    assert last.snapshot().memory.formats == {EARLIER: again.past.tokens // BLOCK}
    archive.log.close()


def test_thoughts_beyond_a_smaller_budget_leave_at_once(prism) -> None:
    session = Session(prism, make_profile())
    run(session)
    assert session.snapshot().aside_tokens > 20
    session.set_profile(make_profile(injection={"budget_tokens": 20}))
    assert session.snapshot().aside_tokens <= 20
