"""The plugin of `llm`, through `llm` itself."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.api.test_cortex import QUESTION, ROPES

llm = pytest.importorskip("llm")
PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture(scope="module")
def model():
    from warpcortex_cli.api.llm_plugin import Warpcortex

    return Warpcortex("pocket")


def test_it_registers_what_this_machine_has() -> None:
    from warpcortex_cli.api import llm_plugin

    found: list[llm.Model] = []
    llm_plugin.register_models(found.append)
    assert [model.model_id for model in found] == ["warpcortex:pocket"]  # smollm2 is hidden in tests
    entries = tomllib.loads(PROJECT.read_text())["project"]["entry-points"]["llm"]
    assert entries == {"warpcortex": "warpcortex_cli.api.llm_plugin"}


def test_it_answers_in_a_conversation_and_tells_what_streams_do(model) -> None:
    talk = model.conversation()
    first = talk.prompt(QUESTION)
    parts = list(first.stream_events())
    assert "".join(p.chunk for p in parts if p.type == "text").endswith("In total: 133.")
    told = "".join(p.chunk for p in parts if p.type == "reasoning")
    assert told == "math: ropes of Mara: 47 + lamps of Otto: 86\nmath injected: 47 + 86 = 133\n"
    assert first.usage().output > 10 and first.response_json["finish_reason"] == "stop"
    second = talk.prompt(ROPES)
    assert second.text() == "The ropes of Mara: 47." and second.usage().input < 30


def test_options_and_schemas_reach_the_reply(model) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"n": {"enum": [47]}}, "required": ["n"], "additionalProperties": False}
    assert json.loads(model.prompt(ROPES, schema=schema).text()) == {"n": 47}
    alone = model.prompt(QUESTION, streams=False)
    assert not [p for p in alone.stream_events() if p.type == "reasoning"]
