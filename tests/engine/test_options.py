"""What one reply is asked for beside its profile: a seed, a grammar, a bias, log-probabilities."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from tests.engine.conftest import QUESTION, make_profile
from tests.engine.test_invariants import river_text
from warpcortex_cli import events as ev
from warpcortex_cli.engine.grammar import Grammars
from warpcortex_cli.engine.sampling import ReplyOptions, Sampler, SamplingError, sample
from warpcortex_cli.engine.session import Session

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "ropes": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "ropes"],
    "additionalProperties": False,
}


def answered(session: Session, options: ReplyOptions, text: str = QUESTION) -> list[ev.Event]:
    return list(session.sent(session.reply(text, options)))


def test_a_reply_keeps_to_its_schema_and_the_next_one_need_not(make_prism) -> None:
    """A random model, which would write nothing of the kind; roles whose words would stand in its text do not start."""
    pytest.importorskip("llguidance")
    prism = make_prism("llama")
    inline = {"starts": "turn", "work": "calculator", "await": True, "arrives": "inline", "trigger": ""}
    session = Session(prism, make_profile("", role=inline, river={"max_tokens": 60}), seed=1)
    found = answered(session, ReplyOptions(grammar=Grammars(prism).schema(SCHEMA)), "What is 3 + 4?")
    value = json.loads(river_text(found))
    assert set(value) == {"name", "ropes"} and 0 <= value["ropes"] <= 99
    assert isinstance(found[-1], ev.RiverFinished) and found[-1].reason == "stop"
    assert not any(isinstance(e, ev.StreamSpawned) for e in found)
    free = answered(session, ReplyOptions(), "What is 3 + 4?")
    assert any(isinstance(e, ev.ThoughtInlined) for e in free)


def test_likeliest_tokens_are_told_and_change_nothing(prism) -> None:
    plain = river_text(list(Session(prism, make_profile(roles=[])).send(QUESTION)))
    found = answered(Session(prism, make_profile(roles=[])), ReplyOptions(likeliest=3))
    told = [e for e in found if isinstance(e, ev.RiverToken)]
    assert river_text(found) == plain and len(told) == found[-1].tokens  # type: ignore[attr-defined]
    for event in told:  # greedy: the chosen one is the likeliest
        assert event.likeliest[0][0] == event.token and event.likeliest[0][2] == event.log_probability
        assert len(event.likeliest) == 3 and sum(math.exp(score) for *_, score in event.likeliest) <= 1.001


def test_the_same_seed_draws_the_same_in_any_session(prism) -> None:
    profile = make_profile(sampling={"temperature": 1.5}, roles=[])
    first, second = Session(prism, profile, seed=1), Session(prism, profile, seed=2)
    assert river_text(answered(first, ReplyOptions(seed=7))) == river_text(answered(second, ReplyOptions(seed=7)))
    third = river_text(answered(Session(prism, profile, seed=1), ReplyOptions(seed=8)))
    assert third != first.turns[-1].text


def test_a_bias_forbids_and_prefers(prism) -> None:
    usual = [e.token for e in answered(Session(prism, make_profile(roles=[])), ReplyOptions(likeliest=1))
             if isinstance(e, ev.RiverToken)]  # fmt: skip
    forbidden = dict.fromkeys(usual, -100.0)
    other = answered(Session(prism, make_profile(roles=[])), ReplyOptions(bias=forbidden, likeliest=1))
    assert not {e.token for e in other if isinstance(e, ev.RiverToken)} & set(usual)


@pytest.mark.parametrize(
    ("asked", "written", "chosen"),
    [
        ({"presence_penalty": 1.0}, [3, 3], 1),
        ({"frequency_penalty": 0.4}, [3, 3], 1),
        ({"frequency_penalty": 0.4}, [3], 3),
    ],
)
def test_penalties_count_what_was_written(asked: dict[str, Any], written: list[int], chosen: int) -> None:
    logits = torch.tensor([0.0, 1.5, 0.0, 2.0])
    assert Sampler(**asked).draw(logits, written=written) == chosen


def test_where_nothing_is_allowed_there_is_an_error_and_no_token() -> None:
    sampler = Sampler()
    sampler.change = lambda row: torch.full_like(row, -torch.inf)
    assert isinstance(sample(torch.zeros(4), (0.0, 0), sampler), SamplingError)
