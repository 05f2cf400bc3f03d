"""What the River has read is the conversation as the template renders it: with notes, undo, thinking and reopening."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CHATML, make_tokenizer
from transformers import AutoModelForCausalLM

from tests.engine.conftest import make_profile
from warpcortex_cli import events as ev
from warpcortex_cli.engine.dialogue import NOTES_BREAK
from warpcortex_cli.engine.session import Session
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.ui.answer import Answer

DROPS_THINKING = CHATML.replace("m['content'] +", "m['content'].split('</think>')[-1].lstrip('\\n') +")
BEGINS_THINKING = DROPS_THINKING.replace("assistant\n' }}", "assistant\n<think>\n' }}")
SYSTEM_LAST = (  # as Mistral 7B v0.3 does
    "{%- for m in messages if m['role'] != 'system' -%}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{%- if loop.last and messages[0]['role'] == 'system' -%}{{ messages[0]['content'] + '\n\n' }}{%- endif -%}"
    "{{ m['content'] + '<|im_end|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
PLAIN = "{% for m in messages %}{{ m['role'] | capitalize + ': ' + m['content'] + '\n' }}{% endfor %}Assistant:"


@pytest.fixture
def talking(model_folder: Callable[[str], Path]) -> Callable[..., Session]:
    """A session on a model with this template, which says what it is told to say."""

    def make(template: str | None, *replies: str, system: str = "", **changes: Any) -> Session:
        tok = make_tokenizer()
        tok.add_tokens(["<think>", "</think>"])
        tok.chat_template = template
        model = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
        model.resize_token_embeddings(len(tok), mean_resizing=False)
        prism = Prism(model, tok, "tiny")
        river = {"prompt": system, "max_tokens": 64, **changes}
        session = Session(prism, make_profile(river=river), streams=False)
        end = tok.convert_tokens_to_ids("<|im_end|>")
        said = iter([i for reply in replies for i in [*prism.encode(reply, special=True), end]])
        session.conversation._chosen = lambda result: next(said)  # type: ignore[method-assign]
        return session

    return make


def say(session: Session, text: str) -> Answer:
    answer = Answer()
    for event in session.send(text):
        if isinstance(event, ev.RiverText):
            answer.feed(event)
    return answer


def rendered(session: Session, *messages: str, system: str = "", ask: bool = True) -> list[int]:
    """The template's ids of words by the user and replies, in turn."""
    told = [{"role": "system", "content": system}] if system else []
    told += [{"role": ("user", "assistant")[n % 2], "content": m} for n, m in enumerate(messages)]
    tok: Any = session.prism.tokenizer
    ids: list[int] = tok.apply_chat_template(told, add_generation_prompt=ask, return_dict=False)
    return ids


def prompts(session: Session) -> Iterator[list[int]]:
    """What the River holds when it begins to write, in each turn."""
    river, before = session.river, session.conversation._chosen
    seen: list[list[int]] = []

    def sample(result: Any) -> int:
        if not session.conversation.turn.written:
            seen.append(river.sentences.ids.tolist())
        return before(result)

    session.conversation._chosen = sample  # type: ignore[method-assign]
    return iter(lambda: seen.pop(0), [])


@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize("template", [CHATML, SYSTEM_LAST, PLAIN, DROPS_THINKING])
def test_each_turn_is_the_templates(talking: Callable[..., Session], template: str, system: str) -> None:
    reply = " 47 ropes" if template == PLAIN else "47 ropes"
    session = talking(template, reply, reply, "", system=system)
    held = prompts(session)
    words: list[str] = []
    for question in (" How many?  ", "\n\U0001f422 And <|im_end|> lamps?\n", "Why?"):
        said = say(session, question)
        words.append(question)
        if "<|im_end|>" in question:
            assert session.prism.decode(next(held)).count("<|im_end|>") == 1
        elif len(words) == 1:
            assert next(held) == rendered(session, *words, system=system)
        words.append(said.raw.strip())


def test_a_history_that_is_rewritten_is_read_anew(talking: Callable[..., Session]) -> None:
    session = talking(SYSTEM_LAST, "47", "86", "Yes", system="Be brief.")
    held = prompts(session)
    for n, question in enumerate(("How many?", "And lamps?", "Sure?")):
        say(session, question)
        talk = ["How many?", "47", "And lamps?", "86", "Sure?"][: 2 * n + 1]
        assert next(held) == rendered(session, *talk, system="Be brief.")
    own = [i for i, mine in zip(session.river.sentences.ids, session.river.sentences.own, strict=True) if mine]
    assert session.prism.decode(own) == "4786Yes"


@pytest.mark.parametrize(
    ("template", "first"),
    [(DROPS_THINKING, "<think>\nhm, [MATH: 1]\n</think>\n\n47"), (BEGINS_THINKING, "hm\n</think>\n\n47")],
)
def test_thinking_is_no_part_of_the_answer_and_leaves_the_history(
    talking: Callable[..., Session], template: str, first: str
) -> None:
    session = talking(
        template, first, "<think>\n\n</think>\n\n86" if template == DROPS_THINKING else "86\n</think>\n86"
    )
    held = prompts(session)
    answer = say(session, "How many?")
    assert (answer.text, answer.raw) == ("47", first)
    assert next(held) == rendered(session, "How many?")
    assert say(session, "And lamps?").text == "86"
    assert next(held) == rendered(session, "How many?", "47", "And lamps?")


def test_thinking_without_an_end_is_no_answer(talking: Callable[..., Session]) -> None:
    session = talking(BEGINS_THINKING, "hm, hm")
    answer = say(session, "How many?")
    assert (answer.text, answer.raw) == ("", "hm, hm")


def test_notes_and_question_are_one_message(talking: Callable[..., Session]) -> None:
    for template in (CHATML, PLAIN, BEGINS_THINKING, None):
        session = talking(template, "47", system="Be brief.")
        held = prompts(session)
        session.load_notes("Mara: 47 ropes.\n")
        session.load_notes("Otto: 3 <|im_end|>lamps.")
        say(session, "\n How many?")
        words = f"Mara: 47 ropes.{NOTES_BREAK}Otto: 3 <|im_end|>lamps.{NOTES_BREAK}\n How many?"
        chat = session.prism.chat
        assert next(held) == chat.prompt(words, "Be brief.")


@pytest.mark.parametrize("template", [CHATML, SYSTEM_LAST, BEGINS_THINKING, None])
def test_undo_and_reopening_lead_to_the_same(talking: Callable[..., Session], template: str | None) -> None:
    replies = ("hm</think>47", "hm</think>86", "hm</think>Yes") if template == BEGINS_THINKING else ("47", "86", "Yes")
    plain = talking(template, replies[0], replies[2], system="Be brief.")
    undone = talking(template, *replies, system="Be brief.")
    reopened = talking(template, replies[2], system="Be brief.")
    seen = [prompts(s) for s in (plain, undone, reopened)]
    say(plain, "How many?")
    say(undone, "How many?")
    say(undone, "And lamps?")
    assert undone.undo() is not None
    reopened.repeat(plain.turns)
    for session in (plain, undone, reopened):
        say(session, "Sure?")
    last = [list(iter_last(s, n)) for s, n in zip(seen, (2, 3, 1), strict=True)]
    assert last[0] == last[1] == last[2]
    own = [bytes(s.river.sentences.own) for s in (plain, undone, reopened)]
    assert own[0] == own[1] == own[2]


def iter_last(seen: Iterator[list[int]], count: int) -> list[int]:
    found: list[int] = []
    for _ in range(count):
        found = next(seen)
    return found


def test_a_reply_that_was_cut_is_read_to_its_last_token(talking: Callable[..., Session]) -> None:
    session = talking(CHATML, "47 ropes and lamps", "86", max_tokens=4)
    held = prompts(session)
    said = say(session, "How many?").raw
    say(session, "And?")
    next(held)
    assert next(held) == [
        *rendered(session, "How many?"),
        *session.prism.encode("47 ropes and lamps")[:4],
        *session.prism.chat.turn("And?"),
    ]
    assert said == session.prism.decode(session.prism.encode("47 ropes and lamps")[:4])
