"""pocket's tokens: lossless, the same for a word wherever it stands, and asides at virtual positions."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from warpcortex_cli.lab.pocket import tokenizer, train
from warpcortex_cli.lab.pocket.conversation import ASSISTANT, END, USER, Piece


@pytest.fixture(scope="module")
def tok() -> Tokenizer:
    return tokenizer.build(conversations=300)


texts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="▁"), min_size=1).filter(
    lambda s: s[0].strip() != ""
)


@settings(max_examples=150, deadline=None)
@given(text=texts)
@example(text="<|user|>")
def test_decoding_gives_the_text_back(tok: Tokenizer, text: str) -> None:
    tok.encode_special_tokens = True  # as untrusted text is read: names of special tokens are plain characters
    try:
        assert tok.decode(tok.encode(text, add_special_tokens=False).ids) == text
    finally:
        tok.encode_special_tokens = False


def test_a_word_is_the_same_tokens_everywhere(tok: Tokenizer) -> None:
    def tokens(text: str) -> str:
        return " ".join(tok.encode(text, add_special_tokens=False).tokens)

    stem = tokens("Zorbula")
    for text in ("Zorbula keeps", "does Zorbula have", "x\nZorbula's", "(Zorbula)", "of Zorbula?"):
        assert stem.removeprefix("▁") in tokens(text)
    assert tokens("quimbles").startswith(tokens("quimble"))
    assert tokens("47").split() == ["▁", "4", "7"]


def test_an_aside_ends_where_the_river_is_and_moves_nothing(tok: Tokenizer) -> None:
    head = [
        Piece(USER, special=True),
        Piece("How many?"),
        Piece(END, special=True),
        Piece(ASSISTANT, special=True),
        Piece("I add.", 1.0),
    ]
    tail = [Piece("\nIn total: 5.", 2.0), Piece(END, 1.0, special=True)]
    aside = Piece("[Ref: 2 + 3 = 5]", 0.05, aside=True)
    ids, positions, weights = train.encode(tok, [*head, aside, *tail], 999)
    plain_ids, plain_positions, _ = train.encode(tok, [*head, *tail], 999)
    size = len(ids) - len(plain_ids)
    at = len(train.encode(tok, head, 999)[0])
    assert positions[at : at + size] == list(range(at - size, at))
    assert positions[:at] + positions[at + size :] == plain_positions
    assert weights[at] == 0.0 and weights[at + size] == 0.0  # nothing predicts an aside, nor is predicted by it


@given(notes=texts, question=texts)
@example(notes="Mara keeps ropes: 47.", question="Does Mara have ropes?")
def test_a_question_behind_notes_reads_as_in_training(tok: Tokenizer, notes: str, question: str) -> None:
    """The engine encodes notes and question apart, training in one piece: a token more between them misleads pocket."""
    notes, question = notes.strip() + "\n\n", question.strip()
    tok.encode_special_tokens = True
    try:
        apart = tok.encode(notes, add_special_tokens=False).ids + tok.encode(question, add_special_tokens=False).ids
        assert apart == tok.encode(notes + question, add_special_tokens=False).ids
    finally:
        tok.encode_special_tokens = False
