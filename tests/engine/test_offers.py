"""A Stream that thinks long offers what it has so far at each of its lines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.engine.conftest import run
from tests.engine.test_invariants import ends, river_text
from tests.engine.test_tools import profile_of, tool_session
from warpcortex_cli import events as ev
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.workers.model import Writing
from warpcortex_cli.errors import ProfileError
from warpcortex_cli.profile import parse_profile
from warpcortex_cli.profile_yaml import read_text

ROLE = {
    "name": "plan",
    "starts": "sentence",
    "offers": "line",
    "most": 1,
    "max_tokens": 40,
    "judged": False,
    "injected_as": "[{thought}]",
}
SAID = "It is so. " + "ropes and lamps " * 12
LINES = "red\nred brown\nred brown old\n"


def session_of(prism, monkeypatch, lines: str = LINES, said: str = SAID, **role: Any) -> Session:
    """The River writes `said`, the Stream `lines`, whatever the model would."""
    absorb = Writing.absorb
    ids = prism.chat.encoder.continued("", lines)
    end = next(iter(prism.eos_ids))

    def written(work: Writing, result: Any) -> str | None:
        told = result.largest is not None
        monkeypatch.setattr("warpcortex_cli.engine.workers.model.sample", lambda *_: [*ids, end][work.tokens])
        return absorb(work, result) if told or result else None

    monkeypatch.setattr(Writing, "absorb", written)
    return tool_session(prism, profile_of({**ROLE, **role}, gate={"mode": "off"}), said)


def asides(session: Session) -> list[str]:
    return [a.text for a in session.river.asides]


def test_each_line_brings_what_there_is_so_far_in_the_place_of_what_was(prism, monkeypatch) -> None:
    session = session_of(prism, monkeypatch)
    seen: list[list[str]] = []
    session.listen(lambda e: seen.append(asides(session)) if isinstance(e, ev.StreamText) else None)
    events = run(session)
    assert [s for i, s in enumerate(seen) if s and s not in seen[:i]][:2] == [["red"], ["red\nred brown"]]
    assert all(len(s) <= 1 for s in seen)
    assert asides(session) == [LINES.strip()]
    assert [e.reason for e in events if isinstance(e, ev.ThoughtWithdrawn)] == ["replaced"] * 2
    assert len([e for e in events if isinstance(e, ev.ThoughtInjected)]) == 3
    assert ends(events) == {1: ["injected"]}


def test_a_pattern_picks_the_newest_line(prism, monkeypatch) -> None:
    session = session_of(prism, monkeypatch, thought=r"^red(?P<thought>.*)$", lines="red one\nred two\nno\n")
    events = run(session)
    assert asides(session) == ["two"] and session.stream(1).thought.text == "two"
    assert len([e for e in events if isinstance(e, ev.ThoughtInjected)]) == 2, (
        "a line that changes nothing is not offered"
    )


def test_the_gate_judges_each_offer_and_one_that_fails_leaves_the_last_in_place(prism, monkeypatch) -> None:
    session = session_of(prism, monkeypatch, judged=True)
    gate = session.conversation.gate
    decide = gate.decide
    verdicts = iter([True, False, True, False])

    def deciding(*args: Any) -> Any:
        return replace(decide(*args), passed=next(verdicts))

    monkeypatch.setattr(gate, "decide", deciding)
    seen: list[str] = []
    session.listen(lambda e: seen.extend(asides(session)) if isinstance(e, ev.GateDecided) else None)
    events = run(session)
    assert len([e for e in events if isinstance(e, ev.GateDecided)]) >= 3
    assert "red" in seen
    assert len(asides(session)) == 1 and ends(events) == {1: ["injected"]}


def test_what_came_in_stays_where_the_rest_is_late(prism, monkeypatch) -> None:
    session = session_of(prism, monkeypatch, lines="red\nred brown and then much more")
    for event in session.send("ropes?"):
        if isinstance(event, ev.ThoughtInjected):
            stream = session.conversation.crew.streams[1]
            stream.role = stream.role.model_copy(update={"deadline_seconds": 1e-6})
    (end,) = session.streams
    assert (end.state, asides(session)) == ("injected", ["red"])
    assert "its deadline" in end.reason and "what it had offered before stays" in end.reason


def test_without_injection_or_withheld_nothing_comes_in(prism, monkeypatch) -> None:
    session = session_of(prism, monkeypatch)
    session.withhold(1)
    events = run(session)
    assert not asides(session) and not any(isinstance(e, ev.ThoughtInjected) for e in events)
    assert ends(events) == {1: ["cancelled"]}


def test_the_rivers_kv_is_not_touched(prism, monkeypatch) -> None:
    session = session_of(prism, monkeypatch)
    tail = session.river.tail
    kept: list[bool] = []
    before: list[tuple[int, torch.Tensor]] = []

    def watch(event: ev.Event) -> None:
        if isinstance(event, ev.ThoughtInjected | ev.ThoughtWithdrawn):
            kept.extend(torch.equal(k, tail.layer(0)[0][:, :n]) for n, k in before)
            before.append((tail.length, tail.layer(0)[0].clone()))

    session.listen(watch)
    assert river_text(run(session)) and len(kept) > 3 and all(kept)


@pytest.mark.parametrize("lines", ["work: calculator", "await: true, arrives: inline"])
def test_only_what_is_written_line_by_line_is_offered_so(lines: str) -> None:
    with pytest.raises(ProfileError, match="a thought in parts"):
        parse_profile(read_text(f"name: x\nroles:\n  - {{name: a, starts: turn, offers: line, {lines}}}\n", "x.yaml"))
