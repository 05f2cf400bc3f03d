"""Streams whose private KV is kept in int8."""

from __future__ import annotations

import torch

from tests.engine.conftest import make_profile, run
from warpcortex_cli import events as ev
from warpcortex_cli.engine.session import Session
from warpcortex_cli.memory.room import ROOMS
from warpcortex_cli.prism.rows import Row


def test_a_tail_in_int8_gives_nearly_the_same_logits(prism) -> None:
    ids = prism.encode("Mara keeps ropes: 47, brown, in the old mill. The lamps of Otto")
    found = []
    for stored in ROOMS:
        tail = prism.new_pool(64, 2, stored).take()
        for place, token in enumerate(ids):
            result = prism.forward([Row([token], [place], tail)])[0]
        found.append(torch.softmax(result.logits[-1], -1))
    assert 0 < float((found[0] - found[1]).abs().sum()) < 0.3  # of 2; these random weights amplify


def test_streams_of_a_profile_with_int8_tails_run_in_them(prism) -> None:
    limits = {"streams": 4, "stream_tail_tokens": 64, "stream_tail_stored": "int8"}
    session = Session(prism, make_profile(limits=limits))
    ended = [e for e in run(session) if isinstance(e, ev.StreamEnded)]
    assert [e for e in ended if e.state == "injected" and e.tokens]
    pool = session.conversation.crew.writer._pool
    assert pool is not None and pool.stored == "int8" and pool.taken == 0


def test_a_broken_prompt_fails_though_its_kv_was_made_finite(prism, monkeypatch) -> None:
    limits = {"streams": 4, "stream_tail_tokens": 400, "stream_tail_stored": "int8"}
    profile = make_profile("<(?P<task>[^>]+)>", role={"max_tokens": 4}, limits=limits)
    session = Session(prism, profile)
    engine = session.conversation
    session.load_notes("Mara keeps ropes: 47, brown, in the old mill.")
    engine.begin_turn(prism.encode("?"))
    for words in ("a long task " * 40, "a short one"):  # the first is prefilled in pieces
        engine.crew.spawn(profile.roles[0], words)
    forward = prism.forward

    def breaking(rows):  # type: ignore[no-untyped-def]
        results = forward(rows)
        for row, result in zip(rows, results, strict=True):
            if row.tail is engine.crew.streams[1].tail:
                result.hidden.fill_(float("nan"))
        return results

    monkeypatch.setattr(prism, "forward", breaking)
    while engine.alive:
        session.step()
    assert (engine.crew.streams[1].state, engine.crew.streams[2].state) == ("failed", "injected")
