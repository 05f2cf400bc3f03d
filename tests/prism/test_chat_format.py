"""Conversations written piece by piece are those that the tokenizer's template renders."""

from __future__ import annotations

import pytest
from conftest import CHATML, make_tokenizer
from transformers import PreTrainedTokenizerFast

from warpcortex_cli.prism import chat_format
from warpcortex_cli.prism.chat_format import ChatFormat, encode

WITH_DEFAULT_SYSTEM = (
    "{%- if messages[0]['role'] != 'system' -%}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{%- endif -%}" + CHATML
)
_TURN = (
    "{{ '<|im_start|>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' }}"
    "{{ %s(m['content'] | trim) + '<|im_end|>\n' }}"
)
_REPLY = "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>model\n' }}{%- endif -%}"
WITHOUT_SYSTEM = (
    "<|bos|>{%- for m in messages -%}"
    "{%- if m['role'] == 'system' -%}{{ raise_exception('no system role') }}{%- endif -%}" + _TURN % "" + _REPLY
)
SYSTEM_IN_USER_TURN = (  # as Gemma 3 does
    "<|bos|>{%- set s = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' -%}"
    "{%- for m in (messages[1:] if s else messages) -%}" + _TURN % "(s if loop.first else '') + " + _REPLY
)
TALK = [("user", "How many ropes?"), ("assistant", "47."), ("user", "And lamps?")]


def tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    made = make_tokenizer()
    made.chat_template = template
    return made


def rendered(tok: PreTrainedTokenizerFast, turns: list[tuple[str, str]]) -> str:
    text = tok.apply_chat_template(
        [{"role": r, "content": c} for r, c in turns], tokenize=False, add_generation_prompt=True
    )  # fmt: skip
    assert isinstance(text, str)
    return text


def written(tok: PreTrainedTokenizerFast, system: str) -> str:
    chat = ChatFormat(tok)
    ids = chat.opening(system)
    for role, words in TALK:
        ids += [*chat.user_open(), *encode(tok, words), *chat.user_close()] if role == "user" else encode(tok, words)
        ids += chat.assistant_close() if role == "assistant" else []
    text = tok.decode(ids)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize(
    "template", [CHATML, WITH_DEFAULT_SYSTEM, WITHOUT_SYSTEM], ids=["chatml", "default system", "no system"]
)
def test_pieces_make_the_rendered_conversation(template: str) -> None:
    tok = tokenizer(template)
    assert written(tok, "") == rendered(tok, TALK)


@pytest.mark.parametrize("template", [CHATML, WITH_DEFAULT_SYSTEM], ids=["chatml", "default system"])
def test_a_system_prompt_stands_where_the_template_puts_it(template: str) -> None:
    tok = tokenizer(template)
    assert written(tok, "Be brief.") == rendered(tok, [("system", "Be brief."), *TALK])


@pytest.mark.parametrize("template", [WITHOUT_SYSTEM, SYSTEM_IN_USER_TURN], ids=["raises", "in the user's turn"])
def test_without_a_place_for_it_the_system_prompt_is_agreed_on_first(template: str) -> None:
    tok = tokenizer(template)
    assert written(tok, "Be brief.") == rendered(tok, [("user", "Be brief."), ("assistant", "Understood."), *TALK])


def test_a_model_without_template_gets_plain_lines() -> None:
    tok = tokenizer(None)
    chat = ChatFormat(tok)
    assert not chat.templated and chat.turn_end is None
    assert (
        written(tok, "Be brief.")
        == "<|bos|>Be brief.\n\nUser: How many ropes?\nAssistant:47.\nUser: And lamps?\nAssistant:"
    )


@pytest.mark.parametrize(
    "template", ["{{ messages[0]['content'] | upper }}", "{{ broken", "{{ raise_exception('no') }}"]
)
def test_a_template_that_does_not_serve_is_not_used(template: str) -> None:
    assert not ChatFormat(tokenizer(template)).templated


def test_a_template_that_does_not_end_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_format, "_LIMIT", 0.1)
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    chat = ChatFormat(tokenizer(endless))
    assert chat.problem == "it takes more than 0.1 s" and not chat.templated
    assert ChatFormat(tokenizer(CHATML)).templated


def test_the_token_that_ends_a_turn_is_found() -> None:
    assert ChatFormat(tokenizer(CHATML)).turn_end == 2
