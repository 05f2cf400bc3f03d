"""How a reply ends: a text of the user's choice, or before it goes in circles."""

from __future__ import annotations

import copy
import re
from itertools import count

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.conftest import make_profile, run
from warpcortex_cli import events as ev
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.turn import repetitions
from warpcortex_cli.eval.replies import loops
from warpcortex_cli.profile import LOOP_SPAN, LOOP_WINDOW


def reply(prism, **river) -> tuple[str, str]:
    """Shown text and how it ended, of a River without Streams."""
    session = Session(prism, make_profile(river={"max_tokens": 40, **river}), streams=False)
    events = run(session)
    text = "".join(e.text for e in events if isinstance(e, ev.RiverText))
    assert session.transcript()[-1].text == text
    return text, next(e.reason for e in events if isinstance(e, ev.RiverFinished))


def test_a_stop_text_ends_the_reply_and_is_not_part_of_it(prism) -> None:
    whole, _ = reply(prism)
    for start in (3, 11, 20):  # within tokens and across them
        stop = whole[start : start + 4]
        assert reply(prism, stop=[stop]) == (whole[: whole.index(stop)], "stop")


def test_the_first_of_several_stop_texts_counts_and_one_that_never_comes_changes_nothing(prism) -> None:
    whole, reason = reply(prism)
    assert reply(prism, stop=[whole[20:24], whole[8:12]])[0] == whole[: min(whole.index(whole[8:12]), 20)]
    assert reply(prism, stop=["\u2603 never"]) == (whole, reason)


def test_what_may_begin_a_stop_text_is_shown_when_it_was_none(prism) -> None:
    whole, reason = reply(prism)
    assert reply(prism, stop=[whole[-3:] + "\u2603"]) == (whole, reason)


@pytest.fixture
def circling(prism, monkeypatch: pytest.MonkeyPatch):
    """A model that writes the same ten tokens again and again."""
    numbers = count()
    usual = prism.forward

    def forward(rows):
        results = usual(rows)
        for i, row in enumerate(rows):
            if row.logits == "largest":
                results[i] = type(results[i])(**{**vars(results[i]), "largest": (1.0, 40 + next(numbers) % 10)})
        return results

    monkeypatch.setattr(prism, "forward", forward)
    return prism


def test_a_reply_that_goes_in_circles_is_stopped_before_it_comes_round_again(circling) -> None:
    settings = {"max_tokens": 200, "most_repeats": 4}
    session = Session(circling, make_profile(river=settings), streams=False)
    events = run(session)
    ids = session.conversation.turn.builder.ids
    assert next(e.reason for e in events if isinstance(e, ev.RiverFinished)) == "loop"
    assert len(ids) == 3 * 10 + LOOP_SPAN - 1
    assert all(repetitions(ids[:end], LOOP_SPAN) < 4 for end in range(len(ids) + 1))


def test_without_a_limit_it_goes_on_to_its_last_token(circling) -> None:
    assert reply(circling, max_tokens=60)[1] == "length"


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(1, 4))
def test_repetitions_are_counted_wherever_they_begin(tokens: list[int], span: int) -> None:
    text, newest = "".join(map(str, tokens)), "".join(map(str, tokens[-span:]))
    found = len(re.findall(f"(?={newest})", text)) if len(tokens) >= span else 0
    assert repetitions(tokens, span) == found


def test_a_run_of_one_token_is_a_loop_as_the_evaluation_counts_it(prism, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = prism.forward

    def forward(rows):
        results = usual(rows)
        for i, row in enumerate(rows):
            if row.logits == "largest":
                results[i] = type(results[i])(**{**vars(results[i]), "largest": (1.0, 44)})
        return results

    monkeypatch.setattr(prism, "forward", forward)
    session = Session(prism, make_profile(river={"max_tokens": 60, "most_repeats": 4}), streams=False)
    assert next(e.reason for e in run(session) if isinstance(e, ev.RiverFinished)) == "loop"
    ids = session.conversation.turn.builder.ids
    assert len(ids) == LOOP_SPAN + 2 and not loops(ids) and loops([*ids, 44])


def test_the_window_holds_four_spans() -> None:
    assert LOOP_WINDOW >= 4 * LOOP_SPAN


def test_a_repetition_penalty_counts_the_prompt_and_the_reply(prism) -> None:
    from transformers import GenerationConfig

    session = Session(
        prism, make_profile(river={"max_tokens": 24}, sampling={"repetition_penalty": 1.3}), streams=False
    )
    run(session)
    mine = session.conversation.turn.builder.ids
    prompt = list(session.river.sentences.ids[: -len(mine)])
    config = GenerationConfig(
        max_new_tokens=24, do_sample=False, repetition_penalty=1.3, eos_token_id=1, pad_token_id=0
    )
    plain = copy.deepcopy(prism.model.config)
    plain._attn_implementation = "eager"
    model = type(prism.model)(plain).eval()
    model.load_state_dict(prism.model.state_dict())
    expected = model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist()
    assert mine == expected[: len(mine)] and len(mine) > 10
