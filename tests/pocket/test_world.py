"""What pocket learns from is right: answers follow from the notes, keys stand before values, words are held out."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from warpcortex_cli.eval import sums
from warpcortex_cli.lab.pocket import conversation
from warpcortex_cli.pocket import arithmetic, world
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
        plain = re.sub(r"[^+*-]*?(-?\d+)", r"\1", a.request.task.replace(" - ", "-"))  # without the keys
        assert a.value == str(arithmetic.evaluate(plain)) == a.request.thought.split(" = ")[-1]
        assert a.value in a.end
        named = re.findall(r"(\w+) of (\w+): (\d+)", a.request.task)
        assert named and all(any((f.thing.many, f.person, str(f.count)) == note for f in w.facts) for note in named)
    if a.kind == "who-else":
        asker, place = re.fullmatch(r"besides (\w+), who is (.+)\?", a.request.task).groups()
        there = {f.person for f in w.facts if f.place == place} - {asker}
        assert set(a.value.split(", ")) == (there or {"nobody"})


@settings(max_examples=60, deadline=None)
@given(seed=seeds, invented=st.sampled_from([0.0, 1.0]))
def test_a_sum_asks_for_two_to_five_terms_and_recalls_them_in_the_order_asked(seed: int, invented: float) -> None:
    rng = random.Random(seed)
    w = world.make_world(Words(rng), 12)
    a = world.ask_total(w, rng, invented)
    assert a is not None and a.request is not None
    named = re.findall(r"(\w+ of \w+): \d+", a.request.task)
    assert 2 <= len(named) <= 5 and a.request.task.count(" + ") == len(named) - 1
    assert re.search(".+".join(map(re.escape, named)), a.question)
    assert a.request.plain == " + ".join(re.findall(r"\d+", a.request.task))


@pytest.mark.parametrize(
    ("terms", "texts"),
    [
        (["a"], {"a"}),
        (["a", "b"], {"a and b", "a, b", "a, and b"}),
        (["a", "b", "c"], {"a, b and c", "a and b and c", "a, b, c", "a, b, and c"}),
        (["a", "b", "c", "d"], {"a, b, c and d", "a and b and c and d", "a, b, c, d", "a, b, c, and d"}),
    ],
)
def test_the_common_joinings(terms: list[str], texts: set[str]) -> None:
    assert {joining.text(terms) for joining in world.COMMON_JOININGS} == texts


def test_forms_that_eval_calls_unseen_are_not_trained_on() -> None:
    for form in sums.FORMS:
        if form.learnt:
            assert form.joining in world.COMMON_JOININGS and form.question in world.SUM_QUESTIONS
        else:
            joined = {form.joining.between, form.joining.last} - set(world.SEPARATORS)
            assert joined or form.question not in world.SUM_QUESTIONS
    rng = random.Random(1)
    for _ in range(500):
        drawn = world.joining(rng)
        assert {drawn.between, drawn.last} <= set(world.SEPARATORS)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, notes=st.integers(2, 9))
@example(seed=765, notes=7)  # the notes come after small talk
def test_the_control_is_asked_the_same_and_takes_the_same_steps(seed: int, notes: int) -> None:
    """Behind each request stand the Stream's own work, but over all notes, and the same answer."""

    def turns(inline: bool) -> list[tuple[str, str]]:
        words = Words(random.Random(seed), "train", 0.6, 0.5)
        pieces = conversation.conversation(words, notes, 1500, conversation.DEFAULT_MIX, inline)
        text = "".join(p.text for p in pieces if not p.aside)
        turn = re.escape(conversation.USER) + "(.*?)" + re.escape(conversation.END + conversation.ASSISTANT)
        return re.findall(turn + "(.*?)" + re.escape(conversation.END), text, re.DOTALL)

    with_streams, inline = turns(False), turns(True)
    assert [question for question, _ in with_streams] == [question for question, _ in inline]
    for (_, said), (_, done) in zip(with_streams, inline, strict=True):
        request = re.search(r"\[(MATH|CHECK|RECALL): (.+?)\]", said)
        if request is None:
            assert done == said
            continue
        assert done.startswith(said[: request.end()]) and done.split("\n")[-1] == said.split("\n")[-1]
        *_, result, _ = done.split("\n")
        if request[1] == "MATH":
            plain = " ".join(re.findall(r"(?<!\w)\d+|(?<= )[-+*](?= )", request[2]))
            assert done[request.end() :].startswith(f" {plain}\n{arithmetic.work(plain)}\n")
        elif request[2].startswith("besides"):
            lines = done[request.end() :].split("\n")[1:-2]
            copied = [re.sub(r"^\d+ | no$| yes: [\w, ]+$", "", line) for line in lines]
            notes_said = next(question for question, _ in inline if copied[0] in question).split("\n\n")[0]
            assert copied == re.split(r"(?<=\.)\s", notes_said)
        assert result.startswith("= ")


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_claims_are_settled_by_the_note_they_are_about(seed: int) -> None:
    words = Words(random.Random(seed))
    w = world.make_world(words, 6)
    a = world.ask_claim(w, words.rng, words)
    assert a.request is not None
    noted, claimed = a.request.task.rsplit(" = ", 1)
    key, details = noted.split(": ", 1)
    assert any(f.name == key and f.details().startswith(details) for f in w.facts)
    truth = details == claimed or details.endswith(f", {claimed}")
    assert a.value == str(truth).lower() and a.end == f"That is {a.value}."
    assert a.request.thought.endswith(": yes" if truth else ": no")


@settings(max_examples=60, deadline=None)
@given(seed=seeds, notes=st.integers(2, 12))
def test_a_reading_stream_copies_each_sentence_and_says_what_is_known_by_then(seed: int, notes: int) -> None:
    words = Words(random.Random(seed))
    pieces = conversation.reading(words, notes, about=False)
    last = max(i for i, p in enumerate(pieces) if p.text == conversation.ASSISTANT)
    focus, task = pieces[last - 2].text.rsplit("\n\n", 1)
    asker, place = re.fullmatch(r"recall: besides (\w+), who is (.+)\?", task).groups()
    *lines, result = "".join(p.text for p in pieces[last + 1 : -1]).split("\n")
    known: list[str] = []
    for sentence, line in zip(focus.split("\n"), lines, strict=True):
        said = line.removeprefix(sentence)
        assert said == " no" or said.startswith(" yes: ")
        if said != " no":
            assert sentence.endswith(f", {place}.") and asker not in re.findall(r"\w+", sentence)
            added = [n for n in said.removeprefix(" yes: ").split(", ") if n not in known]
            assert len(added) <= 1 and all(name in sentence for name in added)
            known += added
            assert said == f" yes: {', '.join(known)}"
    assert result == f"= besides {asker} {place}: {', '.join(known) or 'nobody'}"


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_an_aside_is_never_something_the_river_learns_to_write(seed: int) -> None:
    words = Words(random.Random(seed))
    pieces = conversation.conversation(words, 6, 900, conversation.Mix())
    assert all("[Ref:" not in p.text for p in pieces if p.learn and not p.aside)
    assert sum(p.learn > 0 for p in pieces) >= 2
