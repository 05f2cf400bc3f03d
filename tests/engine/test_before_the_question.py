"""Thoughts that stand before the question, as text of the prompt: where, for how long, and what stays as it was."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.conftest import run
from tests.engine.test_invariants import river_text
from tests.engine.test_tools import TURN, profile_of, tool_session
from warpcortex_cli import events as ev
from warpcortex_cli.engine.ledger import Ledger
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.text import page_of
from warpcortex_cli.errors import ProfileError
from warpcortex_cli.profile import load_profile, parse_profile
from warpcortex_cli.profile_yaml import read_text

FIND: dict[str, Any] = {
    "name": "find",
    "starts": "turn",
    "when": r"(?s)(?:^|.*\n)(?P<task>[^\n]*\?)[^?]*$",
    "work": "search",
    "await": True,
    "arrives": "prompt",
    "injected_as": "{thought}",
    "max_tokens": 60,
    "synapse": False,
}
FILLER = " ".join(f"The {w} of Ada is red and old." for w in ("lamp", "rope", "boat", "barn", "mill") * 12)
PAGE = f"{FILLER}\n\nOtto hid the silver kettle in the tower. The tower is near a lake. {FILLER}"
QUESTION = "Where is the silver kettle?"
PASSAGE = "Otto hid the silver kettle in the tower."


def text_of(session: Session) -> str:
    return session.prism.decode(list(session.river.sentences.ids))


@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize("pasted", [False, True])
def test_it_is_read_as_if_it_stood_in_the_prompt_and_leaves_with_the_next_turn(prism, pasted: bool, window) -> None:
    memory = {"window": window, "recall": 64}
    session = tool_session(prism, profile_of(FIND, memory=memory), "Here.", "There.")
    if not pasted:
        session.load_notes(PAGE)
    events = run(session, f"{PAGE}\n\n{QUESTION}" if pasted else QUESTION)
    (inlined,) = [e for e in events if isinstance(e, ev.ThoughtInlined)]
    assert (inlined.into, inlined.text) == ("prompt", PASSAGE) and river_text(events) == "Here."
    usual = tool_session(prism, profile_of(memory=memory), "Here.", "There.")
    run(usual, f"{PAGE}\n\n{PASSAGE}\n\n{QUESTION}")
    assert list(session.river.sentences.ids) == list(usual.river.sentences.ids)
    assert (session.river.tail.length < 100) == (window is not None)  # it reads little else if it cannot read all
    assert [t.text for t in session.turns if t.role == "user"][-1].endswith(f"{PAGE}\n\n{QUESTION}" if pasted else "")
    run(session, "And so on.")
    if window is None:  # what has left the tail stays as it was read
        assert text_of(session).count(PASSAGE) == 1 and text_of(session).count(QUESTION) == 1
    assert session.undo() is not None and session.undo() is not None
    assert QUESTION not in text_of(session)


def test_earlier_questions_are_not_found_and_the_best_sentence_comes_last(prism) -> None:
    session = tool_session(prism, profile_of(FIND), "Here.", "Yes.")
    session.load_notes(PAGE)
    run(session, QUESTION)
    events = run(session, "Is the silver kettle in a tower near here?")
    (inlined,) = [e for e in events if isinstance(e, ev.ThoughtInlined)]
    assert inlined.text.splitlines() == ["The tower is near a lake.", PASSAGE]


def test_a_short_text_starts_nothing(prism) -> None:
    session = tool_session(prism, profile_of(FIND), "Here.")
    session.load_notes(PASSAGE)
    assert not any(isinstance(e, ev.StreamSpawned) for e in run(session, QUESTION))


def test_the_ledger_says_where_it_stood_and_what_the_answer_is_without_it(prism) -> None:
    def again() -> Session:
        session = Session(prism, profile_of(FIND, river={"max_tokens": 6}))
        session.load_notes(PAGE)
        return session

    session = again()
    ledger = Ledger(session, again)
    text = river_text(run(session, QUESTION))
    (entry,) = ledger.entries(QUESTION, text)
    usual = Session(prism, profile_of(river={"max_tokens": 6}))
    usual.load_notes(PAGE)
    assert (entry.arrived, entry.thought, entry.inserted) == ("prompt", PASSAGE, "")
    assert entry.without == river_text(run(usual, QUESTION))


def test_a_sum_of_the_same_turn_is_not_kept_waiting_for_a_page(prism) -> None:
    asked = {**TURN, "ends": True}
    session = tool_session(prism, profile_of(asked, FIND), "Here.")
    events = run(session, f"{PAGE}\n\nHow much is 15% of 80?")
    assert river_text(events) == "15% of 80 = 12."


@pytest.mark.parametrize(
    ("text", "question"),
    [("a page. " * 200 + "\n\nWho?\n", "Who?\n"), ("a page. " * 200 + "\nWho?", "Who?"), ("Which?\n\nA or B?", "")],
)
def test_a_page_before_the_question_ends_at_its_last_break(text: str, question: str) -> None:
    cut = page_of(text)
    assert text[cut:] == (question or text)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("starts: turn\n    arrives: prompt", "roles[0].arrives: the text would come into"),
        ("starts: sentence\n    await: true\n    arrives: prompt", "roles[0].arrives: the prompt has been read"),
        (
            "trigger: '<(?P<task>x)>'\n    await: true\n    arrives: prompt",
            "roles[0].arrives: the prompt has been read",
        ),
    ],
)
def test_mistakes_have_a_sentence(lines: str, expected: str) -> None:
    with pytest.raises(ProfileError) as error:
        parse_profile(read_text(f"name: x\nroles:\n  - name: r\n    {lines}\n", "my.yaml"))
    assert expected in "\n".join(error.value.problems)


@pytest.mark.parametrize("name", ["assistant", "notes"])
def test_shipped_profiles_look_a_question_up(prism, name: str) -> None:
    profile = load_profile(name)
    session = tool_session(prism, profile.model_copy(update={"memory": profile_of().memory}), "So.", "So.")
    session.load_notes(PAGE)
    events = run(session, f"{QUESTION}\nAnswer with a few words.")
    assert [e.text.splitlines()[-1] for e in events if isinstance(e, ev.ThoughtInlined)] == [PASSAGE]
    assert not any(isinstance(e, ev.StreamSpawned) for e in run(session, "Write a poem."))
