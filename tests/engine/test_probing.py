"""Roles that the model itself is asked about at the end of a sentence, in a row that is thrown away."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from tests.engine.conftest import run
from tests.engine.test_invariants import river_text
from tests.engine.test_stepper import alternating
from tests.engine.test_tools import profile_of, tool_session
from warpcortex_cli import events as ev
from warpcortex_cli.engine import probing
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.stepper import Stepper
from warpcortex_cli.errors import ProfileError
from warpcortex_cli.prism.reads import Reads
from warpcortex_cli.profile import parse_profile
from warpcortex_cli.profile_yaml import read_text

SAID = "Mara keeps ropes. She has 12 of them. Otto has 7 lamps. They are red. so"
PROBE = {
    "name": "helper",
    "starts": "probe",
    "probe": "Is a sum needed here? yes or no",
    "probe_threshold": 0.0,
    "prompt": "{task}",
    "max_tokens": 4,
}


def answers(events: list[ev.Event]) -> list[ev.ProbeAnswered]:
    return [e for e in events if isinstance(e, ev.ProbeAnswered)]


def spawned(events: list[ev.Event]) -> list[str]:
    return [e.task for e in events if isinstance(e, ev.StreamSpawned)]


def kv_of(session: Session) -> list[torch.Tensor]:
    tail = session.river.tail
    layers = range(session.prism.layout.layers)
    return [part.clone() for i in layers for part in tail.layer(i)]


def probed(prism, said: str = SAID, **changes: Any) -> Session:
    return tool_session(
        prism, profile_of({**PROBE, **changes}, injection={"enabled": "inline" in changes.values()}), said
    )


def test_each_finished_sentence_is_asked_about_and_starts_the_role_above_its_threshold(prism) -> None:
    events = run(probed(prism))
    sentences = ["Mara keeps ropes.", "She has 12 of them.", "Otto has 7 lamps.", "They are red."]
    assert [e.task for e in answers(events)] == sentences
    assert all(e.yes is not None and 0 < e.yes < 1 for e in answers(events))
    assert spawned(events) == sentences


def test_it_does_not_start_below_its_threshold(prism) -> None:
    likely = [e.yes for e in answers(run(probed(prism, probe_threshold=1.0)))]
    assert len(set(likely)) == 4, "or the test says nothing"
    between = sorted(likely)[1:3]
    events = run(probed(prism, probe_threshold=sum(between) / 2))
    assert [e.started for e in answers(events)][:1] == [likely[0] > sum(between) / 2]
    assert all(e.started == (e.yes > sum(between) / 2) for e in answers(events))
    assert spawned(events) == [e.task for e in answers(events) if e.started]
    assert run(probed(prism, probe_threshold=1.0)) and not spawned(run(probed(prism, probe_threshold=1.0)))


def test_the_rivers_kv_is_bit_for_bit_what_it_is_without_what_the_probe_reads(prism) -> None:
    """Products of two rows may differ from those of one in the last bit, so both runs have a row of that length."""
    asked = probed(prism, probe_threshold=1.0)
    other = probed(prism, probe_threshold=1.0, probe=PROBE["probe"].replace("sum needed", "red needed"))
    alone = tool_session(prism, profile_of(), SAID)
    events, others, without = run(asked), run(other), run(alone)
    assert [e.yes for e in answers(events)] != [e.yes for e in answers(others)]
    for session in (other, alone):
        assert list(asked.river.sentences.ids) == list(session.river.sentences.ids)
        assert asked.river.tail.positions.tolist() == session.river.tail.positions.tolist()
    assert river_text(events) == river_text(without)
    assert all(torch.equal(a, b) for a, b in zip(kv_of(asked), kv_of(other), strict=True))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(kv_of(asked), kv_of(alone), strict=True))


def test_what_the_river_holds_is_not_touched_while_a_probe_is_read(prism, monkeypatch) -> None:
    forward, kept = prism.forward, []
    session = probed(prism, probe_threshold=1.0)

    def watched(rows):
        tail = session.river.tail
        before, length = kv_of(session), tail.length
        results = forward(rows)
        kept.append(all(torch.equal(a, b[:, :length]) for a, b in zip(before, kv_of(session), strict=True)))
        assert tail.length == length + sum(len(row.tokens) for row in rows if row.tail is tail)
        return results

    monkeypatch.setattr(prism, "forward", watched)
    assert len(answers(run(session))) == 4
    assert kept and all(kept)


def test_it_reads_what_the_river_has_written_and_no_more(prism) -> None:
    """As likely as when all of it is read anew, with the question behind it."""
    session = probed(prism, said="Mara keeps ropes. She", probe_threshold=1.0)
    (answer,) = answers(run(session))
    ids = list(session.river.sentences.ids)
    question = prism.chat.turn(PROBE["probe"], thinking=False)
    found = []
    for read in range(len(ids) - 3, len(ids) + 1):  # the sentence ends in one of the last tokens
        said = [*ids[:read], *question]
        row = Reads((), 0, len(said)).row(said, prism.new_tail(len(said)), "last")
        found.append(probing.yes(prism, prism.forward([row])[0].newest))
    assert any(abs(answer.yes - likely) < 1e-4 for likely in found)


def test_its_rows_ride_in_forwards_that_there_are_anyway(prism, monkeypatch) -> None:
    steps: list[int] = []
    forward = prism.forward
    monkeypatch.setattr(prism, "forward", lambda rows: steps.append(len(rows)) or forward(rows))
    run(tool_session(prism, profile_of(), SAID))
    alone = len(steps)
    steps.clear()
    run(probed(prism, probe_threshold=1.0))
    assert len(steps) == alone
    assert steps.count(2) == 4


def test_it_rests_and_has_a_limit_and_then_nothing_is_asked(prism) -> None:
    for limit in ({"most": 1}, {"rest_tokens": 500}):
        events = run(probed(prism, **limit))
        assert len(spawned(events)) == 1
        assert len(answers(events)) == 1


def test_a_pattern_and_a_tools_own_look_come_first(prism) -> None:
    events = run(probed(prism, when=r"(?P<task>\d+ [a-z]+)"))
    assert spawned(events) == ["12 of", "7 lamps"]
    assert not answers(run(probed(prism, work="calculator")))
    (answer,) = answers(run(probed(prism, said="What is 12 * 7? Well", work="calculator")))
    assert answer.started


def test_an_awaited_result_stands_behind_the_sentence(prism) -> None:
    role = {"work": "calculator", "await": True, "arrives": "inline", "injected_as": " ({thought})", "synapse": False}
    events = run(probed(prism, said="What is 12 * 7? Well then", **role))
    assert "(12 * 7 = 84)" in river_text(events)


def test_a_fault_never_reaches_the_river(prism, monkeypatch) -> None:
    alone = river_text(run(tool_session(prism, profile_of(), SAID)))

    def broken(*_: Any) -> float:
        raise RuntimeError("no answer")

    monkeypatch.setattr(probing, "yes", broken)
    events = run(probed(prism))
    assert river_text(events) == alone and not spawned(events)
    assert [(e.yes, e.started, e.why) for e in answers(events)] == [(None, False, "no answer")] * 4


def test_a_row_that_cannot_be_computed_ends_the_question_alone(prism, monkeypatch) -> None:
    alone = river_text(run(tool_session(prism, profile_of(), SAID)))
    forward, river = prism.forward, None

    def failing(rows):
        if any(row.tail is not river.tail for row in rows):
            raise RuntimeError("no memory")
        return forward(rows)

    session = probed(prism)
    river = session.river
    monkeypatch.setattr(prism, "forward", failing)
    events = run(session)
    assert river_text(events) == alone
    assert [e.why for e in answers(events)] == ["no memory"] * 4


def test_two_conversations_stay_independent(prism) -> None:
    def told(session: Session) -> list[tuple[Any, ...]]:
        return [(e.name, getattr(e, "task", getattr(e, "text", ""))) for e in run(session)]

    alone = [told(probed(prism)), told(tool_session(prism, profile_of(), "It is red. So it is."))]
    stepper = Stepper(prism)
    first = tool_session(prism, profile_of(PROBE, injection={"enabled": False}), SAID, stepper=stepper)
    second = tool_session(prism, profile_of(), "It is red. So it is.", stepper=stepper)
    replies = [iter(session.send("How many ropes?")) for session in (first, second)]
    found = alternating(replies)
    assert len(answers(found[0])) == 4 and not answers(found[1])
    assert [river_text(events) for events in found] == [SAID, "It is red. So it is."]
    assert alone[1] and [e.task for e in answers(found[0])] == [t for n, t in alone[0] if n == "probe_answered"]


def test_what_is_taken_back_is_not_asked_about(prism) -> None:
    session = probed(prism)
    for event in session.send("How many?"):
        if isinstance(event, ev.RiverText) and "." in event.text:
            break
    session.undo()
    assert session.conversation.probes.wanted == 0


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("starts: probe", "asks nothing"),
        ("starts: turn, probe: 'Is it?'", "nobody asks"),
        ("starts: probe, probe: 'Is it?', probe_threshold: 2", "at most 1"),
    ],
)
def test_mistakes_in_a_profile_are_named(lines: str, said: str) -> None:
    with pytest.raises(ProfileError, match=said):
        parse_profile(read_text(f"name: x\nroles:\n  - {{name: a, {lines}}}\n", "x.yaml"))


def test_answers_are_told_in_order(prism) -> None:
    events = answers(run(probed(prism)))
    assert all(a.seq < b.seq for a, b in pairwise(events))
