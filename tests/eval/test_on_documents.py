"""Synapse, Gate and search on documents in SQuAD's format: what is asked, and what is judged."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.engine.conftest import prism as prism  # the random model
from tests.engine.test_tools import profile_of
from warpcortex_cli.errors import UsageError
from warpcortex_cli.eval import on_documents, passages, recall_on_documents, squad, synapse
from warpcortex_cli.eval.questions import Question
from warpcortex_cli.eval.rivals import METHODS

PLACES = {"rope": "mill", "lamp": "barn", "boat": "tower", "kettle": "attic"}


def paragraph(thing: str, place: str) -> str:
    return f"It is old and red. The {thing} of Ada lies in the {place}. Nobody knows why it is there."


ASKED = [
    Question("pages", f"Where is the {t}?", paragraph(t, p), (f"the {p}",), n)
    for n, (t, p) in enumerate(PLACES.items())
]


def test_a_synapse_is_asked_for_an_answer_among_others_of_the_same_document(prism) -> None:
    cases = on_documents.synapse_cases(ASKED, prism, 400, 4, 1)
    for case in cases:
        answers = {answer.removeprefix("The answer is ") for answer in (case.answer, *case.others)}
        assert answers == {f"the {place}" for place in PLACES.values()}
        place = case.answer.rsplit(maxsplit=1)[-1]
        assert case.prompt.startswith(f"Where is the {next(t for t, p in PLACES.items() if p == place)}?")
    few = {"ours": METHODS["ours"], "random": METHODS["random"]}
    found = list(synapse.run(prism, profile_of(), [400], [16], 4, 1, few, made=lambda context: cases))
    assert [(r.method, r.n) for r in found] == [("full", 4), ("ours", 4), ("random", 4)]
    assert found[0].kl == 0 and all(r.kl > 0 for r in found[1:])
    again = synapse.Reader(prism, profile_of(), cases[1])  # it does not matter what was asked before
    assert again.measure(None).right == _measured_after(prism, cases[0], cases[1])


def _measured_after(prism, first: synapse.Case, second: synapse.Case) -> bool:
    reader = synapse.Reader(prism, profile_of(), first)
    reader.measure(None)
    reader.ask(second)
    return reader.measure(None).right


def test_the_gate_is_shown_sentences_that_answer_that_do_not_and_that_are_wrong(prism) -> None:
    found = list(on_documents.gate_thoughts(prism, profile_of(), ASKED, 2, 3))
    assert Counter(j.label for j in found) == dict.fromkeys(("relevant", "irrelevant", "garbled", "contradicted"), 2)
    for right, other, _, wrong in (found[:4], found[4:]):
        assert right.thought.split("the")[0] == wrong.thought.split("the")[0] and right.thought != wrong.thought
        assert other.thought not in (right.thought, wrong.thought)
    with pytest.raises(UsageError, match="no answer stands"):
        next(on_documents.gate_thoughts(prism, profile_of(), [Question("x", "Why?", "Text.", ("None",))], 1, 1))


def test_search_ranks_the_right_paragraph_and_its_passage_holds_the_answer(prism) -> None:
    tokens, found = passages.run(prism, ASKED, 400, 4, 1)
    assert tokens > 60 and [f.rank for f in found] == [1] * 4
    assert all(32 in f.holding for f in found)
    assert "100.0%" in passages.line(400, tokens, found)


@pytest.mark.parametrize("half", squad.HALVES)
def test_half_of_the_articles_is_asked_about_all_are_read(half: str) -> None:
    found = squad.documents(ASKED, 1000, 6, 1, len, half)
    asked = {q.article for _, some in found for q in some}
    assert asked == ({0, 2} if half == "first" else {1, 3})
    assert all(place in text for text, _ in found for place in PLACES.values())


def test_a_half_without_questions_is_refused() -> None:
    with pytest.raises(UsageError, match="second half"):
        squad.documents(ASKED[:1], 1000, 1, 1, len, "second")


def test_recall_is_asked_for_facts_at_their_depth_and_planted_ones_are_there(prism) -> None:
    asked = [
        Question("pages", f"Where is the {thing} number {i}?", paragraph(f"{thing} {i}", place), (f"the {place}",), i)
        for i in range(12)
        for thing, place in PLACES.items()
    ]
    methods = ["ours", "random", "planted"]
    found = list(recall_on_documents.run(prism, profile_of(), asked, 256, [1, 4], 3, 1, methods))
    assert [(r.method, r.depth, r.n) for r in found if not r.wording] == [
        (m, 256 * depth, 3) for depth in (1, 4) for m in methods
    ]
    assert all(r.found == 1 for r in found if r.method == "planted")
