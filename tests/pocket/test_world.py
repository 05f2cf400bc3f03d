"""What pocket learns from is right: answers follow from the notes, keys stand before values, words are held out."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpcortex_cli.pocket import arithmetic, conversation, world
from warpcortex_cli.pocket.vocabulary import HELD_OUT_NAMES, HELD_OUT_THINGS, NAMES, THINGS, Words

seeds = st.integers(0, 10**6)
ASKS = [world.ask_total, world.ask_difference, world.ask_cost, world.ask_compare, world.ask_who_else]


def test_held_out_words_are_never_trained_on() -> None:
    assert not set(HELD_OUT_NAMES) & set(NAMES)
    assert not set(HELD_OUT_THINGS) & set(THINGS)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(2, 30))
def test_notes_say_every_fact_once_and_the_key_first(seed: int, notes: int) -> None:
    rng = random.Random(seed)
    w = world.make_world(Words(rng), notes)
    text = world.notes_text(w, rng)
    for f in w.facts:
        places = [i for i in range(len(text)) if text.startswith(f.details(), i)]
        assert any(f.person in text[max(0, i - 60) : i] and f.thing.many in text[max(0, i - 60) : i] for i in places)
    assert len({(f.person, f.thing) for f in w.facts}) == len(w.facts)


@pytest.mark.parametrize("ask", ASKS)
@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_delegated_answers_follow_from_the_notes(ask, seed: int) -> None:
    rng = random.Random(seed)
    w = world.make_world(Words(rng), 12)
    a = ask(w, rng)
    if a is None:
        return
    assert a.request is not None and a.request.text in f"[{a.request.trigger}: {a.request.task}]"
    if a.request.trigger == "MATH":
        assert a.value == str(arithmetic.evaluate(a.request.task))
        assert a.value in a.end
    if a.kind == "who-else" and a.value != "nobody":
        place = a.request.task.removeprefix("who is ").split(" besides ")[0]
        assert all(any(f.person == name and f.place == place for f in w.facts) for name in a.value.split(", "))


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_an_aside_is_never_something_the_river_learns_to_write(seed: int) -> None:
    words = Words(random.Random(seed))
    pieces = conversation.conversation(words, 6, 900, conversation.Mix())
    assert all("[Ref:" not in p.text for p in pieces if p.learn and not p.aside)
    assert sum(p.learn > 0 for p in pieces) >= 2
