"""The shipped weights, through the product's own Session: the forms that the package promises."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import re2

import warpcortex_cli.pocket
from warpcortex_cli import events as ev
from warpcortex_cli.engine.session import Session
from warpcortex_cli.eval.pocket import DELEGATED, ask, is_right, make_case
from warpcortex_cli.lab.pocket import tokenizer
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import load_profile

NOTES = """Mara keeps ropes: 47, brown, in the old mill.
The lamps of Otto: 12, red, at the barn.
Mara keeps nails: 8, grey, at the barn.
The ropes of Ida: 30, blue, in the old mill.
One rope costs 3 coins."""


MORE_NOTES = """Fenwick keeps tongs: 31, grey, at the north forge.
Zelda keeps abaci: 8, red, in the old school.
Ulric keeps sextants: 54, golden, in the harbour.
Tilda keeps lanterns: 27, green, in the cold cellar.
Rufus keeps trowels: 16, brown, behind the tall shed.
Ingrid keeps goblets: 73, silver, in the long hall.
Zelda keeps tongs: 12, black, near the narrow bridge.
Ulric keeps cushions: 45, blue, in the upper room.
Casper keeps thimbles: 90, white, in the wooden chest.
Fenwick keeps acorns: 66, yellow, under the great bridge."""


@pytest.fixture(scope="module")
def pocket() -> Prism:
    return Prism.load(resolve_model("pocket", "auto"), device="cpu")


def talk(prism: Prism, question: str, notes: str = NOTES, **options) -> list[ev.Event]:
    session = Session(prism, load_profile("pocket"), **options)
    session.load_notes(notes)
    return list(session.send(question))


def answer(events: list[ev.Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, ev.RiverText) and not e.request)


def test_it_is_small_and_of_the_promised_shape(pocket: Prism) -> None:
    weights = Path(warpcortex_cli.pocket.__file__).parent / "weights"
    assert sum(f.stat().st_size for f in weights.iterdir()) <= 12 * 2**20
    assert pocket.model.config.model_type == "qwen2"
    assert pocket.max_context >= 4096
    assert pocket.vocab_size == tokenizer.VOCAB_SIZE


def test_the_river_delegates_in_its_own_words_and_hears_the_thought(pocket: Prism) -> None:
    events = talk(pocket, "How many ropes of Mara and lamps of Otto in total?")
    assert [e.task for e in events if isinstance(e, ev.StreamSpawned)] == ["ropes of Mara: 47 + lamps of Otto: 12"]
    assert [e.state for e in events if isinstance(e, ev.StreamEnded)] == ["injected"]
    request = "".join(e.text for e in events if isinstance(e, ev.RiverText) and e.request)
    assert request == "[MATH: ropes of Mara: 47 + lamps of Otto: 12]"
    assert "In total: 59." in answer(events) and "[Ref" not in answer(events)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("How many ropes does Mara have?", "47"),
        ("Where are the ropes of Mara?", "in the old mill"),
        ("What colour are the ropes of Mara?", "brown"),
        ("How many ropes of Mara, lamps of Otto and ropes of Ida in total?", "89"),
        ("What do the ropes of Mara cost in coins?", "141"),
        ("Does Mara have more ropes than Otto has lamps?", "Yes"),
        ("Does Otto have more lamps than Mara has ropes?", "No"),
        ("Who else keeps things where Mara keeps ropes?", "Also there: Ida."),
        ("Who else keeps things where Otto keeps lamps?", "Also there: Mara."),
        ("True or false: Mara keeps 47 ropes.", "true"),
        ("True or false: Mara keeps 41 ropes.", "false"),
    ],
)
def test_the_promised_questions(pocket: Prism, question: str, expected: str) -> None:
    assert expected in answer(talk(pocket, question))


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("How many tongs of Fenwick and abaci of Zelda and sextants of Ulric in total?", 93),
        ("How many tongs of Fenwick, abaci of Zelda, sextants of Ulric in total?", 93),
        ("How many tongs of Fenwick, abaci of Zelda, and sextants of Ulric in total?", 93),
        ("How many lanterns of Tilda, goblets of Ingrid in total?", 100),
        ("How many lanterns of Tilda and trowels of Rufus and goblets of Ingrid and tongs of Zelda in total?", 128),
        ("How many cushions of Ulric, thimbles of Casper, acorns of Fenwick and lanterns of Tilda in total?", 228),
        (
            "How many tongs of Zelda and abaci of Zelda and sextants of Ulric and trowels of Rufus and acorns of "
            "Fenwick in total?",
            156,
        ),
        (
            "How many lanterns of Tilda, thimbles of Casper, tongs of Fenwick, goblets of Ingrid, and cushions of "
            "Ulric in total?",
            266,
        ),
    ],
)
def test_sums_of_two_to_five_terms_in_any_joining(pocket: Prism, question: str, expected: int) -> None:
    assert f"In total: {expected}." in answer(talk(pocket, question, MORE_NOTES))


@pytest.mark.parametrize(
    ("task", "read"),
    [
        ("ropes of Mara: 47 + lamps of Otto: 12 + tongs of Ida: 3", "47 + 12 + 3"),
        ("ropes of Mary-Jane: 47 - lamps of Zoë-Ann: 12", "47 - 12"),
        ("tongs of Émile: 4 * one tong costs 3", "4 * 3"),
    ],
)
def test_a_math_stream_reads_numbers_without_their_names(task: str, read: str) -> None:
    role = next(role for role in load_profile("pocket").roles if role.name == "math")
    assert role.drop and re2.sub(role.drop, "", task) == read


def test_without_streams_it_still_answers(pocket: Prism) -> None:
    events = talk(pocket, "How many ropes of Mara and lamps of Otto in total?", streams=False)
    assert not any(isinstance(e, ev.StreamSpawned) for e in events)
    assert "In total:" in answer(events)


def test_streams_help_over_many_notes(pocket: Prism) -> None:
    """Unseen words, 12 notes. The figures of the README come from `eval.pocket` with more of both."""
    rng = random.Random(3)
    profile = load_profile("pocket")
    cases = [make_case(kind, 12, rng) for kind in DELEGATED for _ in range(4)]
    right = {
        streams: sum(is_right(case, ask(pocket, profile, case, streams=streams).text) for case in cases)
        for streams in (True, False)
    }
    assert right[True] >= 17  # of 20
    assert right[True] >= right[False] + 9


@pytest.mark.parametrize("words", ["Hello", "What is the capital of France?", "Who are you?"])
def test_small_talk_is_answered_briefly(pocket: Prism, words: str) -> None:
    events = list(Session(pocket, load_profile("pocket")).send(words))
    assert "pocket" in answer(events) and len(answer(events)) < 300
