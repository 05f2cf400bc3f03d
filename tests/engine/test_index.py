"""The index finds sentences by rare words and fingerprints, and forgets what was taken back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpcortex_cli.engine.index import SentenceIndex, in_blocks
from warpcortex_cli.engine.text import Sentences, words_of
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.synapse.worth import choose

FACT = "Zoltan keeps lanterns: 31, violet, in the cellar.\n"
FILLER = "Boxes hold gloves: 12, red, in the barn.\n"


def read(prism: Prism, *texts: str) -> Sentences:
    sentences = Sentences(prism)
    for text in texts:
        sentences.extend(prism.encode(text))
    return sentences


def text_of(sentences: Sentences, tokens: list[int]) -> str:
    return " ".join(sentences.lines(tokens))


def found(prism: Prism, sentences: Sentences, asked: str, budget: int = 64, least: float = 0.3) -> str:
    index = SentenceIndex(sentences)
    spans = index.spans(range(len(sentences.ids)), budget)
    worth = index.worth(spans, words_of(prism, prism.encode(asked)), None, least)
    return text_of(sentences, choose(spans, worth, budget))


def test_rare_words_find_their_sentence(prism) -> None:
    sentences = read(prism, FILLER * 30, FACT, FILLER * 30, "The end.")
    assert found(prism, sentences, "Where are the lanterns of Zoltan?") == FACT.strip()
    assert found(prism, sentences, "One lantern") == FACT.strip()  # in the singular
    assert found(prism, sentences, "gloves") == ""  # a word that is everywhere tells nothing apart
    assert found(prism, sentences, "lanterns", budget=4) == ""  # whole sentences only


def test_what_shares_less_is_left_out_only_where_that_is_asked(prism) -> None:
    sentences = read(prism, FILLER * 40, FACT, "Zoltan has keys: 5, blue, at home.\n" * 30, FILLER, "x")
    asked = "lanterns of Zoltan, violet"
    assert "keys" not in found(prism, sentences, asked, least=0.6)
    assert "keys" in found(prism, sentences, asked, least=0.0)


def test_fingerprints_decide_where_no_word_is_shared(prism) -> None:
    sentences = read(prism, FILLER * 20, "x")
    index = SentenceIndex(sentences)
    scores = np.zeros(len(sentences.ids) // 32, np.float32)
    scores[3] = 2.0
    spans = index.spans(range(len(sentences.ids)), 48)
    worth = index.worth(spans, [], in_blocks(scores, spans, 32), 0.3)
    tokens = choose(spans, worth, 48)
    assert any(3 * 32 <= t < 4 * 32 for t in tokens) and len(tokens) <= 48
    assert worth.max() == pytest.approx(1)


def test_words_decide_where_they_are_rare_and_fingerprints_where_they_are_not(prism) -> None:
    """`hold` is in half of the sentences; that both names are misspelled must not bring those back."""
    other = "Zoltan has keys: 5, blue, at home.\n"
    sentences = read(prism, other * 15, FACT, FILLER * 16, "x")
    index = SentenceIndex(sentences)
    block = (sentences.starts[8] + 2) // 32
    scores = np.zeros(len(sentences.ids) // 32, np.float32)
    scores[block] = 2.0

    def best(asked: str, least: float) -> str:
        spans = index.spans(range(len(sentences.ids)), 64)
        found = in_blocks(scores, spans, 32)
        best = int(index.worth(spans, words_of(prism, prism.encode(asked)), found, least).argmax())
        return text_of(sentences, list(range(spans.starts[best], spans.ends[best])))

    for least in (0.0, 0.3):
        assert best("Who may hold lnaterns in a cellra?", least) == other.strip()
        assert best("Where are the lanterns in the cellar?", least) == FACT.strip()


def test_what_the_river_wrote_is_not_chosen(prism) -> None:
    sentences = read(prism, FILLER * 40)
    sentences.extend(prism.encode(FACT), own=True)
    sentences.extend(prism.encode("The end."))
    assert found(prism, sentences, "lanterns of Zoltan") == ""


@given(parts=st.lists(st.tuples(st.sampled_from([FACT, FILLER, "A b c d e.\n", "no stop "]), st.integers(0, 120))))
@settings(max_examples=25, deadline=None)
def test_taking_back_and_going_on_is_as_if_it_had_never_been(prism, parts: list[tuple[str, int]]) -> None:
    sentences = Sentences(prism)
    index = SentenceIndex(sentences)
    asked = words_of(prism, prism.encode("lanterns of Zoltan, a b c"))
    for text, back in parts:
        sentences.extend(prism.encode(text))
        index.worth(index.spans(range(len(sentences.ids)), 64), asked, None, 0.0)
        length = max(0, len(sentences.ids) - back)
        if length < len(sentences.ids):
            index.truncate(length)
            sentences.truncate(length)
    sentences.extend(prism.encode("The end.\n"))
    fresh = SentenceIndex(sentences)
    spans = index.spans(range(len(sentences.ids)), 64)
    assert np.array_equal(index.worth(spans, asked, None, 0.0), fresh.worth(spans, asked, None, 0.0))
