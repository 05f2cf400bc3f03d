"""The ids of a conversation are the template's, for every kind of tokenizer and family of templates."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.prism.families import EXACT, KINDS, NAMES, NO_SYSTEM, PLAIN_NAMES, TEMPLATES, tokenizer
from warpcortex_cli.prism.chat_format import ChatFormat, Message, conversation

_WORDS = [
    "He",
    "has 47 ropes",
    "User: hi",
    " ",
    "  ",
    "\n",
    "\n\n",
    ".",
    "?",
    "\U0001f422",
    "\u4e2d\u6587",
    "e\u0301",
    "x" * 30,
    "'s",
    "<",
    "12",
]
words = st.lists(st.sampled_from(_WORDS), max_size=6).map("".join).map(lambda s: s if s.strip() else s + "Hi")
quick = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def templates_ids(tok: Any, messages: list[Message]) -> list[int]:
    told = [m._asdict() for m in messages]
    return tok.apply_chat_template(told, add_generation_prompt=True, return_dict=False)


def reply_of(chat: ChatFormat, messages: list[Message], reply: str, held: list[int]) -> list[int]:
    """The reply as a model would write it that writes what the template shows: its tokens behind `held`."""
    plan = chat.plan(messages, [*messages, Message("assistant", reply)], held)
    return plan.ids if plan.keep == len(held) else []


def hold(chat: ChatFormat, turns: list[tuple[str, str]], system: str) -> list[tuple[list[Message], list[int]]]:
    """Reads a conversation turn by turn; what was asked so far, and what the context then held."""
    seen, held, own = [], [], 0
    before = conversation(system)
    for asked, said in turns:
        after = [*before, Message("user", asked)]
        plan = chat.plan(before if held else [], after, held, own)
        held = [*held[: plan.keep], *plan.ids]
        seen.append((after, list(held)))
        written = reply_of(chat, after, said, held)
        held, own = [*held, *written], len(written)
        before = [*after, Message("assistant", said)]
    return seen


@pytest.mark.parametrize("family", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
@quick
@given(data=st.data())
def test_ids_are_the_templates_turn_by_turn(kind: str, family: str, data: st.DataObject) -> None:
    tok = tokenizer(kind, family, greedy=data.draw(st.booleans()))
    chat = ChatFormat(tok)
    assert chat.templated, chat.problem
    system = data.draw(st.sampled_from(["", "Be brief."])) if family not in NO_SYSTEM else ""
    turns = data.draw(st.lists(st.tuples(words, words.map(str.strip)), min_size=1, max_size=3))
    for messages, held in hold(chat, turns, system):
        assert held == templates_ids(tok, messages)


def unknown(kind: str) -> set[int]:
    """The token that characters become which the vocabulary does not have."""
    return set() if kind in EXACT else {0}


NASTY = [
    *NAMES,
    *PLAIN_NAMES,
    "<s>",
    "</s>",
    "<unk>",
    "[UNK]",
    "<|im_",
    "start|>",
    "<",
    "|>",
    "Hi",
    " ",
    "\n",
    "\U0001f422",
    "\u3164",
]
nasty = st.lists(st.sampled_from(NASTY), min_size=1, max_size=8).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(data=st.data())
def test_words_never_hold_a_control_token(kind: str, data: st.DataObject) -> None:
    tok = tokenizer(kind, "chatml", greedy=data.draw(st.booleans()))
    chat = ChatFormat(tok)
    text = data.draw(nasty)
    ids = chat.encoder.ids(text)
    forbidden = set(tok.added_tokens_decoder) - unknown(kind)
    assert not forbidden & set(ids)
    if kind in EXACT:
        assert tok.decode(ids, skip_special_tokens=True).strip(" ") == text.strip(" ")


@pytest.mark.parametrize("family", TEMPLATES)
@pytest.mark.parametrize("kind", ["byte-level", "first", "always, whole", "prepended", "unigram"])
@quick
@given(data=st.data())
def test_names_in_words_change_nothing_but_the_words(kind: str, family: str, data: st.DataObject) -> None:
    """The control tokens of a conversation with hostile words are those of one with harmless words."""
    tok = tokenizer(kind, family)
    chat = ChatFormat(tok)
    texts = [data.draw(nasty) for _ in range(3)]
    said = "Yes " + texts[2].replace("think>", "")  # a template may look for its tags in replies
    turns = [(f"Hi {text}", said) for text in texts[: data.draw(st.integers(1, 2))]]
    system = f"Be brief {texts[1]}" if family not in NO_SYSTEM else ""
    harmless = [("Hi", "Yes.") for _ in turns]
    controls = set(tok.added_tokens_decoder) - unknown(kind)
    found, wanted = hold(chat, turns, system)[-1][1], hold(chat, harmless, system and "Be brief.")[-1][1]
    assert [i for i in found if i in controls] == [i for i in wanted if i in controls]
