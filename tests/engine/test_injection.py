"""Thoughts on their way in: what the Gate is told of them, and how many come at once."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from tests.engine.conftest import QUESTION, make_profile
from warpcortex_cli import events as ev
from warpcortex_cli.engine.brief import Thought
from warpcortex_cli.engine.entrance import STEP_THOUGHT_TOKENS
from warpcortex_cli.engine.gate import gained
from warpcortex_cli.engine.sampling import chosen
from warpcortex_cli.engine.session import Session
from warpcortex_cli.prism.rows import Row

THOUGHTS = [f"{n} ropes of Mara and {3 * n} lamps of Otto" for n in range(11, 31)]


def offered(prism, mode: str) -> tuple[Session, list[ev.Event]]:
    """A session whose River has read the question; twenty Streams that came to their thoughts in the same step."""
    profile = make_profile("<(?P<task>[^>]+)>", gate={"mode": mode, "threshold": 0.0}, limits={"streams": 32})
    session = Session(prism, profile, streams=True)
    engine = session.conversation
    seen: list[ev.Event] = []
    engine.journal.listeners.append(seen.append)
    session.load_notes(QUESTION)
    for number, thought in enumerate(THOUGHTS, start=1):
        engine.crew.spawn(profile.roles[0], "think")
        engine.crew.offer(engine.crew.streams[number], Thought(thought))
    return session, seen


@pytest.mark.parametrize("mode", ["calibrated", "off"])
def test_a_step_takes_in_a_few_and_the_others_hold_no_room_while_they_wait(prism, mode: str, monkeypatch) -> None:
    session, seen = offered(prism, mode)
    engine = session.conversation
    rooms: list[object] = []
    new_tail = prism.new_tail
    monkeypatch.setattr(prism, "new_tail", lambda *a: rooms.append(a) or new_tail(*a))
    steps = 0
    while engine.crew.entrance.injections:
        waiting = len(engine.crew.entrance.injections)
        rooms.clear()
        session.step()
        steps += 1
        taken = waiting - len(engine.crew.entrance.injections)
        each = (2 if mode == "calibrated" else 1) * len(prism.encode(f"[Ref: {THOUGHTS[0]}]"))
        assert taken >= 1 and taken * (each - 8) <= STEP_THOUGHT_TOKENS
        assert len(rooms) <= 2 * (taken + 1)  # one more may have come in part
    assert steps > 1
    assert sum(isinstance(e, ev.ThoughtInjected) for e in seen) == len(THOUGHTS)


def test_who_waits_at_the_gate_holds_no_tail(prism) -> None:
    """All of them may come there in the same step, when their tails are full; the slab goes with the last."""
    profile = make_profile("<(?P<task>[^>]+)>", limits={"streams": 16, "stream_tail_tokens": 64})
    session = Session(prism, profile, streams=True)
    engine = session.conversation
    session.load_notes(QUESTION)
    for _ in range(16):
        engine.crew.spawn(profile.roles[0], "think")
    waited = 0
    while engine.alive:
        session.step()
        states = [s.state for s in engine.alive]
        waited = max(waited, states.count("gating"))
        assert engine.crew.writer.tails_in_use == states.count("thinking")
        assert (engine.crew.writer._pool.nbytes > 0) == ("thinking" in states)
    assert waited > 2


def test_a_thought_is_held_once(prism) -> None:
    """The buffer that it was read into is gone once it lies beside the others; until then it has its own."""
    session, _ = offered(prism, "off")
    engine, readings = session.conversation, [i.there for i in session.conversation.crew.entrance.injections]
    buffers: dict[int, weakref.ref] = {}
    while engine.crew.entrance.injections:
        session.step()
        buffers |= {n: weakref.ref(r.tail.slab) for n, r in enumerate(readings) if r.tail}
        assert all(r.tail is None for r in readings[: len(readings) - len(engine.crew.entrance.injections)])
    gc.collect()
    assert buffers and all(ref() is None for ref in buffers.values())  # some were seen on their way
    tails = {a.kv.tail for a in engine.river.asides}
    assert len(tails) == 1 and session.snapshot().asides == len(THOUGHTS)
    tokens = sum(a.tokens for a in engine.river.asides)
    tail = tails.pop()
    assert session.snapshot().aside_bytes == tokens * prism.layout.bytes_per_token == tail.freeze(0, tail.length).nbytes


def test_the_gate_is_told_how_much_likelier_the_river_makes_a_thought(prism) -> None:
    """Against one forward over the River's tokens and the thought at its virtual positions, and one of it alone."""
    session, seen = offered(prism, "calibrated")
    engine = session.conversation
    river = list(engine.river.sentences.ids)
    while engine.crew.entrance.injections:
        session.step()
    decided = [e for e in seen if isinstance(e, ev.GateDecided)]
    assert [e.thought for e in decided] == THOUGHTS
    for event in decided:
        ids = prism.encode(f"[Ref: {event.thought}]")
        likely = []
        for before, first in ((river, len(river) - len(ids)), (prism.chat.opening(""), len(prism.chat.opening("")))):
            tokens = [*before, *ids]
            positions = [*range(len(before)), *range(first, first + len(ids))]
            logits = prism.forward([Row(tokens, positions, prism.new_tail(len(tokens)), logits="all")])[0].logits
            scores = torch.log_softmax(logits[len(before) : -1], -1)
            likely.append(chosen(scores, ids[1:]))
        assert event.score == pytest.approx(engine.gate.score(gained(*likely)), abs=1e-3)
    assert len({round(e.score, 3) for e in decided}) > 5


def test_a_new_aside_is_put_behind_the_others_and_what_was_read_before_stays(prism) -> None:
    session, _ = offered(prism, "off")
    engine, river = session.conversation, session.river
    views, kept = [], []
    while engine.crew.entrance.injections:
        session.step()
        [beside] = river.beside()
        views.append(beside)
        kept.append([part.clone() for part in beside.layer(0)])
        asides = [a.kv for a in river.asides]
        assert beside.tokens == sum(s.tokens for s in asides)
        assert torch.equal(beside.positions, torch.cat([s.positions for s in asides]))
        for layer in range(prism.layers):
            for mine, theirs in zip(
                beside.layer(layer), zip(*(s.layer(layer) for s in asides), strict=True), strict=True
            ):
                assert torch.equal(mine, torch.cat(theirs, 1))
    assert len(views) > 2 and all(v.tail is views[0].tail for v in views)  # nothing is joined anew
    for view, before in zip(views, kept, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(view.layer(0), before, strict=True))
    first = river.asides[0].tokens
    river.asides.keep(list(river.asides)[1:])  # as a budget asks for
    [rest] = river.beside()
    assert rest.tail is views[0].tail and rest.tokens == views[-1].tokens - first
    assert torch.equal(rest.layer(0)[0], kept[-1][0][:, first:])
    river.asides.keep([river.asides[0], *list(river.asides)[2:]])  # as after going back: then it is
    assert river.beside()[0].tail is not views[0].tail
    assert all(torch.equal(a, b) for a, b in zip(views[-1].layer(0), kept[-1], strict=True))


@pytest.mark.parametrize("room", [1, 3, 7])
def test_a_thought_that_comes_in_pieces_is_the_same(prism, room: int, monkeypatch) -> None:
    """Its score, and its KV: what it reads was fixed when it was offered, whatever the River writes meanwhile."""
    found = []
    for most in (STEP_THOUGHT_TOKENS, room):
        monkeypatch.setattr("warpcortex_cli.engine.entrance.STEP_THOUGHT_TOKENS", most)
        session, seen = offered(prism, "calibrated")
        engine = session.conversation
        del engine.crew.entrance.injections[1:]
        engine.begin_turn(prism.encode("How many?"))
        monkeypatch.setattr(engine.crew, "spawn", lambda *request: None)
        steps = 0
        while engine.crew.entrance.injections:
            session.step()
            steps += 1
        [decided] = [e for e in seen if isinstance(e, ev.GateDecided)]
        [aside] = engine.river.asides
        found.append((steps, decided.score, aside.kv.freeze()))
        assert engine.turn.written >= (most == room)
    (once, score, segment), (often, same, pieces) = found
    assert once == 1 and often >= 48 // room
    assert same == pytest.approx(score, abs=1e-4) and torch.equal(segment.positions, pieces.positions)
    for a, b in zip((*segment.keys, *segment.values), (*pieces.keys, *pieces.values), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_a_thought_that_is_given_up_half_read_leaves_nothing(prism, monkeypatch) -> None:
    monkeypatch.setattr("warpcortex_cli.engine.entrance.STEP_THOUGHT_TOKENS", 5)
    session, seen = offered(prism, "calibrated")
    engine = session.conversation
    alone, there = engine.crew.entrance.injections[0]._readings
    while alone.left:
        session.step()
        assert alone.left == 0 or alone.tail is not None
    assert there.left and alone.tail is None  # what it was read by itself into is of no use any more
    while there.tail is None:
        session.step()
    assert 0 < engine.crew.entrance.injections[0].left < 48
    engine.crew.end(engine.crew.streams[1], "cancelled", "not wanted any more")
    assert all(i.stream.id != 1 for i in engine.crew.entrance.injections)
    while engine.crew.entrance.injections:
        session.step()
    assert [e.id for e in seen if isinstance(e, ev.GateDecided)] == list(range(2, len(THOUGHTS) + 1))
    assert len(engine.river.asides) == len(THOUGHTS) - 1


def test_a_thought_of_no_tokens_fails(prism, monkeypatch) -> None:
    session, _ = offered(prism, "off")
    engine = session.conversation
    del engine.crew.entrance.injections[1:]
    monkeypatch.setattr(prism, "encode", lambda text, special=False: [])
    engine.crew.offer(engine.crew.streams[2], Thought(THOUGHTS[1]))
    assert engine.crew.streams[2].state == "failed" and len(engine.crew.entrance.injections) == 1
