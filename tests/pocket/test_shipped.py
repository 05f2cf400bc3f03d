"""The shipped weights, through the product's own Session."""

from __future__ import annotations

from pathlib import Path

import pytest

import warpcortex_cli.pocket
from warpcortex_cli import events as ev
from warpcortex_cli.engine.session import Session
from warpcortex_cli.pocket import tokenizer
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import load_profile

NOTES = "Mara keeps ropes: 47, brown, in the old mill.\nThe lamps of Otto: 12, red, at the barn."


@pytest.fixture(scope="module")
def pocket() -> Prism:
    return Prism.load(resolve_model("pocket", "auto"), device="cpu")


def talk(prism: Prism, question: str, **options) -> list[ev.Event]:
    session = Session(prism, load_profile("pocket"), **options)
    session.load_notes(NOTES)
    return list(session.send(question))


def test_it_is_small_and_of_the_promised_shape(pocket: Prism) -> None:
    weights = Path(warpcortex_cli.pocket.__file__).parent / "weights"
    assert sum(f.stat().st_size for f in weights.iterdir()) <= 12 * 2**20
    assert pocket.model.config.model_type == "qwen2"
    assert pocket.max_context >= 4096
    assert pocket.vocab_size == tokenizer.VOCAB_SIZE


def test_the_river_delegates_in_its_own_words_and_hears_the_thought(pocket: Prism) -> None:
    events = talk(pocket, "How many ropes of Mara and lamps of Otto in total?")
    assert any(e.role == "math" for e in events if isinstance(e, ev.StreamSpawned))
    assert any(isinstance(e, ev.StreamEnded) for e in events)
    request = "".join(e.text for e in events if isinstance(e, ev.RiverText) and e.request)
    assert request.startswith("[MATH: ")
    assert all("[Ref" not in e.text for e in events if isinstance(e, ev.RiverText))


def test_without_streams_it_still_answers(pocket: Prism) -> None:
    events = talk(pocket, "How many ropes of Mara and lamps of Otto in total?", streams=False)
    assert not any(isinstance(e, ev.StreamSpawned) for e in events)
    assert "In total:" in "".join(e.text for e in events if isinstance(e, ev.RiverText))


def test_small_talk_is_answered_briefly(pocket: Prism) -> None:
    events = list(Session(pocket, load_profile("pocket")).send("Hello"))
    assert "pocket" in "".join(e.text for e in events if isinstance(e, ev.RiverText))
