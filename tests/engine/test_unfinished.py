"""A request that a reply leaves half-written: whether it is text, by how the reply ended."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.engine.conftest import make_profile
from warpcortex_cli import events as ev
from warpcortex_cli.engine.river import River
from warpcortex_cli.engine.session import Session
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.ui.answer import Answer

TRIGGER = r"\[MATH: (?P<task>[^\[\]\n]{1,200})\]"


@pytest.fixture
def says(prism: Prism, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str, str]]:
    """Lets the River write a text, ended in one of three ways; gives the answer, all of the text, and the reason."""

    def say(text: str, end: str) -> tuple[str, str, str]:
        tokens = prism.encode(text)
        eos = next(iter(prism.eos_ids))
        script = [*tokens, eos]

        def choose(*given: object) -> int:
            if end == "interrupted" and len(script) == 2:
                session.interrupt()
            return script.pop(0)

        monkeypatch.setattr(River, "choose", choose)
        most = len(tokens) if end == "length" else 400
        stops = [end] if end not in ("length", "interrupted", "stop") else []
        session = Session(prism, make_profile(TRIGGER, river={"max_tokens": most, "stop": stops}), streams=False)
        answer, reason = Answer(), ""
        for event in session.send("How many?"):
            if isinstance(event, ev.RiverText):
                answer.feed(event)
            elif isinstance(event, ev.RiverFinished):
                reason = event.reason
        answer.finish()
        assert session.transcript()[-1].text == answer.raw
        return answer.text, answer.raw, reason

    return say


@pytest.mark.parametrize("end", ["length", "interrupted"])
@pytest.mark.parametrize("left", ["[", "[MA", "[MATH: ", "[MATH: ropes of", "[MATH: 1] [MATH"])
def test_a_request_that_was_cut_is_not_in_the_answer(says, end: str, left: str) -> None:  # type: ignore[no-untyped-def]
    assert says(f"Let me see. {left}", end) == ("Let me see.", f"Let me see. {left}", end)


@pytest.mark.parametrize("left", ["[", "[MA", "[x", "[see", "[MATH: 1] ["])
def test_what_never_was_one_comes_out_when_the_reply_ends(says, left: str) -> None:  # type: ignore[no-untyped-def]
    shown = left.replace("[MATH: 1] ", "")
    assert says(f"Let me see. {left}", "stop") == (f"Let me see. {shown}", f"Let me see. {left}", "stop")


def test_a_request_whose_task_was_begun_is_none_of_the_answer(says) -> None:  # type: ignore[no-untyped-def]
    assert says("Let me see. [MATH: ropes of", "stop") == ("Let me see.", "Let me see. [MATH: ropes of", "stop")


def test_what_can_no_longer_be_one_is_text_however_it_ended(says) -> None:  # type: ignore[no-untyped-def]
    for end in ("length", "interrupted", "stop"):
        assert says("See [other", end)[0] == "See [other"


@pytest.mark.parametrize(
    ("text", "stop", "answer"),
    [
        ("I see. [MATH: ropes of", "opes", "I see."),
        ("I see. [MATH: ropes\nNow", "\n", "I see."),
        ("I see. [MATH: 1] more", "]", "I see."),
        ("I see. [MATH: 1] more", "more", "I see."),
        ("I see. [other\nNow", "\n", "I see. [other"),
        ("I see. [\nNow", "\n", "I see."),
    ],
)
def test_a_request_that_a_stop_cut_is_not_in_the_answer(says, text: str, stop: str, answer: str) -> None:  # type: ignore[no-untyped-def]
    assert says(text, stop) == (answer, text.partition(stop)[0], "stop")
