"""A step reads no more than its bound with Streams alive: the River moves on, and Streams keep what they read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.engine.conftest import QUESTION, make_profile
from tests.engine.test_invariants import ends
from warpcortex_cli import events as ev
from warpcortex_cli.engine.asides import virtual_positions
from warpcortex_cli.engine.brief import Thought
from warpcortex_cli.engine.session import Session


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_a_river_with_streams_always_alive_reads_no_more_than_its_bound(prism, monkeypatch, share: float) -> None:
    """It waits for none of them, and cancels none before its reply is over."""
    profile = make_profile(
        memory={"window": 96, "recall": 64},
        river={"max_tokens": 400},
        role={"max_tokens": 24, "deadline_seconds": 10_000},
        limits={"streams": 3, "stream_tail_tokens": 96, "queue": 6, "river_share": share},
        injection={"budget_tokens": 40},
    )
    session = Session(prism, profile)
    engine, river = session.conversation, session.river
    forward, seen, moved, told = prism.forward, [], [], []

    def watched(rows: Any) -> Any:
        memory = session.snapshot().memory
        for row in rows:
            if row.tail is river.tail:
                reads = sum(r.tokens for r in row.reads) + row.tail.length + len(row.tokens)
                assert reads <= memory.bound + memory.thoughts
                assert row.positions == list(range(river.position, river.position + len(row.tokens)))
                assert row.tail.positions.tolist() == list(range(river.past.base, river.position))
                seen.append((reads, len(engine.alive), engine.river.state))
                told.append(memory.bound + memory.thoughts)
        for aside in river.asides:
            stands = virtual_positions(max(0, river.position_of(aside.anchor)), aside.tokens)
            assert aside.kv.positions.tolist() == stands and stands[-1] < max(river.position, aside.tokens)
        moved.append(river.past.tokens)
        return forward(rows)

    monkeypatch.setattr(prism, "forward", watched)
    session.load_notes(QUESTION + " And so on, as it is said of old." * 8)
    events = list(session.send(QUESTION))
    monkeypatch.undo()
    assert session.conversation.turn.written == 400 and len(set(moved)) > 5
    writing = [alive for _, alive, state in seen if state == "writing"]
    assert any(writing)
    if not share:  # a share is kept by the clock, so what comes of it differs from run to run
        assert max(reads for reads, _, _ in seen) > 0.8 * max(told)  # it is no idle bound
        assert sum(map(bool, writing)) > 0.9 * len(writing)
    finals = ends(events)
    assert all(len(states) == 1 for states in finals.values())
    cancelled = [e for e in events if isinstance(e, ev.StreamEnded) and e.state == "cancelled"]
    assert {e.reason for e in cancelled} <= {"the queue of Streams is full", "the reply is over"}
    assert share or any(s == ["injected"] for s in finals.values())
    assert engine.crew.writer.tails_in_use == 0


def test_a_thought_on_its_way_in_stays_what_it_is_when_the_river_moves_on(prism, monkeypatch) -> None:
    """What it reads is what was there when it was offered; it comes to stand where it was offered."""
    profile = make_profile(
        "<(?P<task>[^>]+)>",
        gate={"mode": "calibrated", "threshold": 0.0},
        memory={"window": 64, "recall": 32},
        limits={"streams": 4},
    )
    found = []
    for room in (128, 4):
        monkeypatch.setattr("warpcortex_cli.engine.entrance.STEP_THOUGHT_TOKENS", room)
        session = Session(prism, profile)
        engine, river = session.conversation, session.river
        decided: list[ev.Event] = []
        engine.journal.listeners.append(decided.append)
        session.load_notes(QUESTION)
        while river.tail.length < 56:
            session.load_notes("so")
        engine.crew.spawn(profile.roles[0], "think")
        stream, anchor = engine.crew.streams[1], river.length
        engine.crew.offer(stream, Thought("47 ropes of Mara and 12 lamps of Otto"))
        past = river.past.tokens
        if room == 4:
            while engine.crew.entrance.injections[0].left > 12:
                session.step()
            river.make_room()
            assert river.past.tokens > past
        while engine.crew.entrance.injections:
            session.step()
        [aside] = river.asides
        assert aside.anchor == anchor
        assert aside.kv.positions.tolist() == virtual_positions(river.position_of(anchor), aside.tokens)
        layers = [aside.kv.layer(i) for i in range(prism.layers)]
        plain = prism.rope.unrotated([k for k, _ in layers], aside.kv.positions)
        score = next(e.score for e in decided if isinstance(e, ev.GateDecided))
        found.append((score, torch.stack([*plain, *(v for _, v in layers)])))
    (score, once), (same, pieces) = found
    assert same == pytest.approx(score, abs=1e-4)
    torch.testing.assert_close(once, pieces, atol=1e-3, rtol=0)


def test_the_river_and_its_streams_say_what_they_read(prism) -> None:
    """In `/memory` and in traces."""
    session = Session(prism, make_profile(memory={"window": 96, "recall": 64}, river={"max_tokens": 60}))
    assert session.reads().startswith("nothing, at position 0")
    session.load_notes(QUESTION + " And so on, as it is said of old." * 8)
    started = [e for e in session.send(QUESTION) if isinstance(e, ev.StreamStarted)]
    assert started and all(f"{e.landmarks} landmarks" in e.reads and "at most" in e.reads for e in started)
    memory, said = session.snapshot().memory, session.reads()
    assert "of its past + " in said and "of thoughts" in said
    assert f"at position {session.river.position:,}" in said
    assert f"at most {memory.bound + session.snapshot().aside_tokens:,} tokens" in said
