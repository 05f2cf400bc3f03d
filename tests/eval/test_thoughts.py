"""`eval thoughts`: each condition is what its name says."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from warpcortex_cli.cli.app import main
from warpcortex_cli.engine.injection import virtual_positions
from warpcortex_cli.engine.session import Session
from warpcortex_cli.eval import thoughts
from warpcortex_cli.eval.pocket import Case, is_right, make_case
from warpcortex_cli.eval.thoughts import CONDITIONS, Grafts, Outcome, Reply, misled, outcomes_of, replies, reply_of
from warpcortex_cli.events import StreamEnded
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import load_profile


@pytest.fixture(scope="module")
def pocket() -> Prism:
    return Prism.load(resolve_model("pocket", "auto"), device="cpu")


def test_every_condition_is_what_its_name_says(pocket: Prism) -> None:
    profile = load_profile("pocket")
    case = make_case("total", 5, random.Random(4))
    found = replies(pocket, profile, case)
    assert set(found) == set(CONDITIONS)
    assert found["river"].states == [] and found["text"].states == [] and found["river"].stream_tokens == 0
    assert found["streams"].stream_tokens > 0
    assert found["river-extra"].river_tokens >= found["river"].river_tokens + found["streams"].stream_tokens
    assert found["oracle"].thoughts == [case.thought] and is_right(case, found["oracle"].text)
    assert found["wrong"].thoughts == [case.wrong]
    assert not misled(case, found["oracle"]) and misled(case, replace(found["wrong"], text=case.wrong))


def test_grafting_puts_the_streams_own_kv_of_its_thought_where_the_forwarded_one_was(pocket: Prism) -> None:
    case = make_case("total", 5, random.Random(4))
    asides = []
    for graft in (False, True):
        session = Session(pocket, load_profile("pocket"))
        if graft:
            session.listen(Grafts(session))
        session.load_notes(case.notes)
        for event in session.send(case.question):
            if isinstance(event, StreamEnded) and event.state == "injected":
                asides.append((session.river.asides[-1].kv.freeze(), session.river.position))
    (forwarded, _), (grafted, here) = asides
    assert 0 < grafted.tokens < forwarded.tokens  # without the words that the thought is injected in
    assert grafted.positions.tolist() == virtual_positions(here, grafted.tokens)
    assert not torch.allclose(grafted.values[-1], forwarded.values[-1][:, -grafted.tokens :], atol=1e-3)


def test_the_text_condition_reads_the_streams_thoughts_in_its_notes(
    pocket: Prism, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case("total", 5, random.Random(4))
    notes: list[str] = []

    def listen(*args: Any, **kwargs: Any) -> Reply:
        notes.append(args[2])
        return reply_of(*args, **kwargs)

    monkeypatch.setattr(thoughts, "reply_of", listen)
    found = replies(pocket, load_profile("pocket"), case)
    told = [text for text in notes if text != case.notes]
    assert len(told) == 1 and told[0].startswith(case.notes)
    assert all(f"[Ref: {t}]" in told[0] for t in found["streams"].thoughts) and found["streams"].thoughts


def test_a_crowd_arrives_together_with_the_thought(pocket: Prism) -> None:
    case = make_case("total", 5, random.Random(4))
    others = [make_case("total", 5, random.Random(i)).thought for i in range(10, 17)]
    reply = reply_of(pocket, load_profile("pocket"), case.notes, case.question, given=case.thought, crowd=others)
    assert len(reply.states) == 8 and set(others) | {case.thought} == set(reply.thoughts)


def test_wrong_thoughts_are_told_apart_by_what_became_of_them() -> None:
    """A thought that was rejected did no harm, yet the answer without it need not be right."""
    case = Case("total", "", "", value="12", thought="= 5 + 7 = 12", wrong="5 + 7 = 14")
    said = {"injected": ("In total: 14.", "In total: 12."), "rejected": ("In total: 12.", "In total: 9.")}
    replies = [Reply(text=text, states=["failed", state]) for state, texts in said.items() for text in texts]
    replies.append(Reply(text="In total: 12."))
    assert outcomes_of([(case, reply) for reply in replies]) == {
        "injected": Outcome(n=2, right=1, misled=1),
        "rejected": Outcome(n=2, right=1, misled=0),
        "never": Outcome(n=1, right=1, misled=0),
    }


def test_the_command_prints_its_contract(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["eval", "thoughts", "--n", "1", "--notes", "4", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert not left.value.code and found["schema_version"] == 1
    assert [c["name"] for c in found["conditions"]] == list(CONDITIONS)
    assert {"accuracy", "ci95", "n", "seconds", "tokens"} <= set(found["conditions"][0])
    wrong = next(c for c in found["conditions"] if c["name"] == "wrong")
    assert sum(o["n"] for o in wrong["outcomes"].values()) == 1
    assert wrong["resisted"] == 1 - sum(o["misled"] for o in wrong["outcomes"].values())
    assert all(isinstance(c["tokens"], int) and isinstance(c["accuracy"], float) for c in found["conditions"])
