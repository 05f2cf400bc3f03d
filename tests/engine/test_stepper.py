"""Several conversations on one Stepper: each says what it says alone, and fails alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.engine.conftest import QUESTION, make_profile, run
from tests.engine.test_invariants import ends, river_text
from warpcortex_cli import events as ev
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.stepper import Stepper
from warpcortex_cli.errors import MemoryLimitError, RunError
from warpcortex_cli.profile import Profile

NOTES = "\n".join(f"Otto keeps lamps: {n}, red, at the barn." for n in range(10, 30))
QUESTIONS = (QUESTION, "And the lamps of Otto, how many are there?")


def profiles() -> tuple[Profile, Profile]:
    """Two that differ in all that shapes a step: seats, prompts, a window, a Gate that weighs."""
    one = make_profile(gate={"mode": "calibrated", "threshold": 0.4}, river={"max_tokens": 60})
    other = make_profile(
        role={"prompt": "{focus}\n\nhelp: {task}", "max_tokens": 6},
        limits={"streams": 3, "stream_tail_tokens": 200, "queue": 6},
        memory={"window": 96, "recall": 64},
        injection={"budget_tokens": 60},
        river={"max_tokens": 50},
    )
    return one, other


def told(events: list[ev.Event]) -> list[dict[str, Any]]:
    """Events without the clock and without their place among those of a session."""
    out = []
    for event in events:
        line = event.to_json()
        out.append({k: v for k, v in line.items() if k not in ("time", "seconds")})
    return out


def alternating(replies: list[Iterator[ev.Event]]) -> list[list[ev.Event]]:
    """Reads several replies at once, one event of each in turn, until all are over."""
    found: list[list[ev.Event]] = [[] for _ in replies]
    going = list(range(len(replies)))
    while going:
        for number in list(going):
            event = next(replies[number], None)
            if event is None:
                going.remove(number)
            else:
                found[number].append(event)
    return found


def alike(mine: list[dict[str, Any]], alone: list[dict[str, Any]]) -> None:
    """The same events; scores are sums whose rounding depends on who else is in the batch."""
    assert len(mine) == len(alone)
    for a, b in zip(mine, alone, strict=True):
        for name in ("score", "reason"):
            if isinstance(a.get(name), float):
                assert a.pop(name) == pytest.approx(b.pop(name), abs=1e-4)
        assert a == b


@pytest.mark.parametrize("ahead", [0, 7])
def test_two_conversations_say_what_each_says_alone(prism, monkeypatch, ahead: int) -> None:
    """Token for token, event for event, with Streams alive in both; one may begin some steps before the other."""
    alone = []
    for profile, question in zip(profiles(), QUESTIONS, strict=True):
        session = Session(prism, profile, seed=3)
        session.load_notes(NOTES)
        alone.append(told(run(session, question)))

    stepper = Stepper(prism)
    sessions = [Session(prism, profile, seed=3, stepper=stepper) for profile in profiles()]
    for session in sessions:
        session.load_notes(NOTES)
    both: list[tuple[int, int]] = []
    forward = prism.forward

    def watched(rows: Any) -> Any:
        rivers = [s.river.tail for s in sessions]
        if all(any(r.tail is tail for r in rows) for tail in rivers):
            thinking = [sum(any(r.tail is s.tail for r in rows) for s in c.conversation.alive) for c in sessions]
            both.append((thinking[0], thinking[1]))
        return forward(rows)

    monkeypatch.setattr(prism, "forward", watched)
    replies = [s.send(q) for s, q in zip(sessions, QUESTIONS, strict=True)]
    before = [next(replies[0]) for _ in range(ahead)]
    found = alternating(replies)
    found[0] = [*before, *found[0]]
    monkeypatch.undo()
    assert sum(a > 0 and b > 0 for a, b in both) > 5, "Streams of both were hardly ever in one forward"
    for mine, expected in zip(found, alone, strict=True):
        states = ends(mine)
        assert any(s == ["injected"] for s in states.values())
        alike(told(mine), expected)


def test_no_word_of_one_comes_into_the_other(prism) -> None:
    """KV bytes of the one are what they are without the other, whatever that reads."""
    found = []
    for words in ("Mara keeps ropes: 47.", "A canary sings in the coal mine, seven times a day."):
        stepper = Stepper(prism)
        kept = Session(prism, make_profile(), seed=1, stepper=stepper)
        other = Session(prism, make_profile(), seed=2, stepper=stepper)
        alternating([kept.send(QUESTION), other.send(words)])
        found.append([part.clone() for part in kept.river.tail.layer(2)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@pytest.mark.parametrize("error", [RuntimeError("no"), MemoryError()], ids=lambda e: type(e).__name__)
def test_a_river_that_fails_is_nobody_elses_fault(prism, monkeypatch, error: Exception) -> None:
    alone = river_text(run(Session(prism, make_profile(), seed=1)))
    stepper = Stepper(prism)
    good, bad = (Session(prism, make_profile(), seed=seed, stepper=stepper) for seed in (1, 2))
    forward, steps = prism.forward, 0

    def failing(rows: Any) -> Any:
        nonlocal steps
        if any(r.tail is bad.river.tail for r in rows):
            steps += 1
            if steps > 12:
                raise error
        return forward(rows)

    monkeypatch.setattr(prism, "forward", failing)
    failed = bad.send(QUESTION)
    going, found = good.send(QUESTION), []
    with pytest.raises((RunError, MemoryLimitError)):
        while True:
            next(failed)
            found.append(next(going))
    found += going
    assert river_text(found) == alone
    assert not bad.conversation.alive and bad.river.idle
    monkeypatch.undo()
    assert isinstance(run(bad, "Again?")[-1], ev.RiverFinished)  # it goes on with the next turn


def test_the_strictest_promise_is_kept(prism) -> None:
    stepper = Stepper(prism)
    limits = {"streams": 4, "stream_tail_tokens": 64}
    first = Session(prism, make_profile(limits=limits), stepper=stepper)
    assert stepper.pacer.share == 0
    second = Session(prism, make_profile(limits={**limits, "river_share": 0.8}), stepper=stepper)
    assert stepper.pacer.share == 0.8
    first.set_profile(make_profile(limits={**limits, "river_share": 0.9}))
    assert stepper.pacer.share == 0.9
    first.close()
    assert stepper.pacer.share == 0.8
    second.clear()
    assert stepper.pacer.share == 0.8


class Narrow:
    """Grants a few tokens a step."""

    share = 0.5

    def __init__(self) -> None:
        self.granted: list[int] = []

    def width(self, wanted: int, river_writes: bool) -> int:
        return min(wanted, 2)

    def observe(self, width: int, seconds: float, river_writes: bool, besides: float = 0.0) -> None:
        self.granted.append(width)


def test_where_not_all_may_come_each_conversation_has_its_turn(prism) -> None:
    stepper = Stepper(prism)
    profile = make_profile("<(?P<task>[^>]+)>", role={"max_tokens": 8}, limits={"streams": 4})
    sessions = [Session(prism, profile, seed=n, stepper=stepper) for n in range(2)]
    for session in sessions:
        session.load_notes("Mara keeps ropes.")
        session.conversation.begin_turn(prism.encode("How many?"))
        for _ in range(3):
            session.conversation.crew.spawn(profile.roles[0], "think")
    stepper.pacer = narrow = Narrow()  # type: ignore[assignment]
    ended: list[list[float]] = [[], []]
    steps = 0
    while any(s.conversation.alive for s in sessions) and steps < 400:
        stepper.step()
        steps += 1
        for n, session in enumerate(sessions):
            ended[n] += [steps] * (sum(s.final for s in session.streams) - len(ended[n]))
    assert max(narrow.granted) == 2 and [len(e) for e in ended] == [3, 3]
    assert abs(ended[0][-1] - ended[1][-1]) < steps / 4  # neither waited for the other to be done


def test_what_is_closed_is_stepped_no_more(prism) -> None:
    stepper = Stepper(prism)
    one, other = (Session(prism, make_profile(), stepper=stepper) for _ in range(2))
    other.conversation.begin_turn(prism.encode(QUESTION))
    other.close()
    position = other.river.position
    run(one)
    assert other.river.position == position and not stepper.step()
