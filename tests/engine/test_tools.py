"""Exact tools in ordinary text: when they start, how their results arrive, and what they leave as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch

from tests.engine.conftest import make_profile, run
from tests.engine.test_invariants import ends, river_text
from warpcortex_cli import events as ev
from warpcortex_cli.engine.brief import Brief, Thought
from warpcortex_cli.engine.ledger import Ledger
from warpcortex_cli.engine.river import shown
from warpcortex_cli.engine.router import Router
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.workers import WORKERS
from warpcortex_cli.engine.workers.base import Work, Worker
from warpcortex_cli.errors import ProfileError
from warpcortex_cli.profile import Profile, Role, load_profile, parse_profile
from warpcortex_cli.profile_yaml import read_text

SUM = r"(?P<task>\b\d[\d,.]*%?(?: ?[-+*/] ?\d[\d,.]*%?)+) ?="
INLINE = {
    "name": "sum",
    "trigger": SUM,
    "visible": True,
    "work": "calculator",
    "await": True,
    "arrives": "inline",
    "injected_as": " {thought}",
    "thought": "= (?P<thought>.+)$",
    "synapse": False,
}
ASIDE = {**INLINE, "arrives": "aside", "injected_as": "[Ref: {thought}]", "thought": None}
TURN = {
    "name": "asked",
    "starts": "turn",
    "work": "calculator",
    "await": True,
    "arrives": "inline",
    "injected_as": "{thought}.",
    "synapse": False,
}


def profile_of(*roles: dict[str, Any], **changes: Any) -> Profile:
    settings = {"name": "tools", "roles": list(roles), "river": {"max_tokens": 60}, "gate": {"mode": "calibrated"}}
    return Profile.model_validate({**settings, **changes})


def scripted(session: Session, *texts: str) -> Session:
    """Makes the River write these texts, one in each reply, whatever the model would."""
    talk, prism = session.conversation, session.prism
    replies = iter(texts)
    begin, end = talk.begin_turn, next(iter(prism.eos_ids))

    def begin_turn(*args: Any) -> None:
        left = iter(prism.chat.encoder.continued("", next(replies)))
        talk.river.choose = lambda result: next(left, end)  # type: ignore[method-assign]
        begin(*args)

    talk.begin_turn = begin_turn  # type: ignore[method-assign]
    return session


def tool_session(prism, profile: Profile, *texts: str, **options: Any) -> Session:
    return scripted(Session(prism, profile, **options), *texts)


def pieces(events: list[ev.Event]) -> list[tuple[str, int | None]]:
    """River text, joined where neighbours are from the same."""
    found: list[tuple[str, int | None]] = []
    for e in events:
        if isinstance(e, ev.RiverText):
            if found and found[-1][1] == e.stream:
                found[-1] = (found[-1][0] + e.text, e.stream)
            else:
                found.append((e.text, e.stream))
    return found


# -- in the River's own text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrote", "became"),
    [
        ("so 12 * 7 = ropes", "so 12 * 7 = 84 ropes"),
        ("1,200 + 300 = it", "1,200 + 300 = 1,500 it"),
        ("3 - 10 =", "3 - 10 = -7"),
        ("10 / 4 = and 2 + 2 = so", "10 / 4 = 2.5 and 2 + 2 = 4 so"),
        ("10 / 3 =", "10 / 3 = 3.333"),
        ("80 + 15% = x", "80 + 15% = 92 x"),
        ("12 + 3 + 4 =", "12 + 3 + 4 = 19"),
    ],
)
def test_a_result_stands_right_behind_the_equals_sign(prism, wrote: str, became: str) -> None:
    events = run(tool_session(prism, profile_of(INLINE), wrote))
    assert river_text(events) == became
    assert not any(e.request for e in events if isinstance(e, ev.RiverText))
    assert all(state == ["injected"] for state in ends(events).values())


def test_it_is_marked_as_the_streams_and_the_gate_is_not_asked(prism) -> None:
    events = run(tool_session(prism, profile_of(INLINE), "so 12 * 7 = ropes"))
    assert pieces(events) == [("so 12 * 7 =", None), (" 84", 1), (" ropes", None)]
    (inlined,) = [e for e in events if isinstance(e, ev.ThoughtInlined)]
    assert (inlined.id, inlined.text, inlined.last - inlined.first + 1) == (1, "84", inlined.tokens)
    assert not any(isinstance(e, ev.GateDecided | ev.ThoughtInjected) for e in events)
    (end,) = [e for e in events if isinstance(e, ev.StreamEnded)]
    assert (end.reason, end.tokens) == ("it is exact", 0)


def test_its_tokens_are_read_in_the_rivers_next_row_and_cost_no_forward(prism, monkeypatch) -> None:
    rows: list[list[int]] = []
    forward = prism.forward
    monkeypatch.setattr(prism, "forward", lambda r: rows.extend(list(x.tokens) for x in r) or forward(r))
    session = tool_session(prism, profile_of(INLINE), "so 12 * 7 = ropes")
    run(session)
    written = prism.chat.encoder.continued("", "so 12 * 7 = 84 ropes")
    ids = list(session.river.sentences.ids)
    replies = rows[-(len(written) - len(prism.chat.encoder.continued("so 12 * 7 =", " 84"))) :]
    assert [len(r) for r in replies if len(r) > 1] == [1 + len(prism.chat.encoder.continued("so 12 * 7 =", " 84"))]
    assert ids[-len(written) :] == written
    assert all(session.river.sentences.own[-len(written) :])


def test_the_river_is_as_if_it_had_written_the_result_itself(prism) -> None:
    told = tool_session(prism, profile_of(INLINE), "so 12 * 7 = ropes", "on 5 + 5 = and")
    alone = tool_session(prism, profile_of(), "so 12 * 7 = 84 ropes", "on 5 + 5 = 10 and")
    for question in ("how many ropes?", "and now?"):
        asked = [[e for e in run(s, question) if isinstance(e, ev.RiverStarted)] for s in (told, alone)]
        assert asked[0][0].prompt_tokens == asked[1][0].prompt_tokens
        a, b = told.river, alone.river
        assert list(a.sentences.ids) == list(b.sentences.ids) and a.sentences.own == b.sentences.own
        assert torch.allclose(a.hidden, b.hidden, atol=1e-4)
        assert a.tail.positions.tolist() == b.tail.positions.tolist()
        assert told.turns == alone.turns


def test_as_an_aside_it_is_there_before_the_next_token(prism) -> None:
    session = tool_session(prism, profile_of(ASIDE), "so 12 * 7 = ropes")
    events = run(session)
    assert river_text(events) == "so 12 * 7 = ropes"
    (injected,) = [e for e in events if isinstance(e, ev.ThoughtInjected)]
    before = "".join(e.text for e in events if isinstance(e, ev.RiverText) and e.seq < injected.seq)
    assert before == "so 12 * 7 ="
    assert [a.text for a in session.river.asides] == ["12 * 7 = 84"]
    assert not any(isinstance(e, ev.GateDecided) for e in events)


@pytest.mark.parametrize(("wrote", "reason"), [("5 / 0 = so", "division by zero"), ("9**9**9 = so", "expected")])
def test_what_has_no_result_fails_with_the_reason_and_the_river_writes_on(prism, wrote: str, reason: str) -> None:
    role = {**INLINE, "trigger": r"(?P<task>\d[\d*/ ]*\d) ="}
    events = run(tool_session(prism, profile_of(role), wrote))
    assert river_text(events) == wrote
    assert list(ends(events).values()) == [["failed"]]
    (end,) = [e for e in events if isinstance(e, ev.StreamEnded)]
    assert reason in end.reason or "too large" in end.reason


def test_a_request_that_users_do_not_see_may_hold_a_visible_one(prism) -> None:
    """Who begins first owns the text, and fires alone."""
    math = {**ASIDE, "name": "math", "trigger": r"\[MATH: (?P<task>[^\]]+)\]", "visible": False}
    events = run(tool_session(prism, profile_of(INLINE, math), "see [MATH: 12 * 7 = ] and 2 + 2 = yes"))
    spawned = [(e.role, e.task) for e in events if isinstance(e, ev.StreamSpawned)]
    assert spawned == [("math", "12 * 7 ="), ("sum", "2 + 2")]
    shown = "".join(e.text for e in events if isinstance(e, ev.RiverText) and not e.request)
    assert shown == "see  and 2 + 2 = 4 yes"


def test_text_that_may_become_a_visible_trigger_is_not_held_back() -> None:
    router = Router(
        profile_of(INLINE, {**ASIDE, "name": "math", "trigger": r"\[MATH: (?P<task>\d+)\]", "visible": False}).roles
    )
    router.feed("so 12 * 7")
    assert router.pending_from() is None and router.unfinished_from(cut=True) is None
    router.feed(" [MATH: 3")
    assert router.pending_from() == 10


def test_a_trigger_within_a_thought_starts_nothing_but_may_begin_there(prism) -> None:
    role = {**INLINE, "injected_as": " {thought} + 1 = "}
    events = run(tool_session(prism, profile_of(role), "2 + 2 =* 3 = so"))
    tasks = [e.task for e in events if isinstance(e, ev.StreamSpawned)]
    assert tasks[0] == "2 + 2" and len(tasks) == 1
    events = run(tool_session(prism, profile_of(INLINE), "2 + 2 = * 3 = so"))
    assert [e.task for e in events if isinstance(e, ev.StreamSpawned)] == ["2 + 2", "4 * 3"]
    assert river_text(events) == "2 + 2 = 4 * 3 = 12 so"


def test_a_result_ends_a_reply_where_it_holds_a_text_that_does(prism) -> None:
    profile = profile_of(INLINE, river={"max_tokens": 60, "stop": ["84"]})
    events = run(tool_session(prism, profile, "so 12 * 7 = ropes"))
    assert river_text(events) == "so 12 * 7 = "
    assert [e.reason for e in events if isinstance(e, ev.RiverFinished)] == ["stop"]


def test_undo_takes_the_whole_turn_back(prism) -> None:
    session = tool_session(prism, profile_of(INLINE), "so 12 * 7 = ropes", "so 12 * 7 = ropes")
    first = run(session)
    undone = session.undo()
    assert undone is not None and undone.kind == "turn" and not len(session.river.sentences.ids)
    assert river_text(run(session)) == river_text(first)


def test_without_streams_nothing_starts(prism) -> None:
    events = run(tool_session(prism, profile_of(INLINE, TURN), "so 12 * 7 = ropes", streams=False), "What is 2 + 2?")
    assert river_text(events) == "so 12 * 7 = ropes"
    assert not any(isinstance(e, ev.StreamSpawned) for e in events)


def test_withheld_it_is_as_never_said_and_the_ledger_shows_that(prism) -> None:
    def again() -> Session:
        return tool_session(prism, profile_of(INLINE), "so 12 * 7 = ropes")

    session = again()
    ledger = Ledger(session, again)
    text = river_text(run(session))
    (entry,) = ledger.entries("How many ropes does Mara have?", text)
    assert entry.inserted == " 84"
    assert (entry.thought, entry.arrived, entry.without, entry.changed) == (
        "84",
        "inline",
        "so 12 * 7 = ropes",
        ("84",),
    )


def test_a_role_rests_and_has_a_limit_in_each_reply(prism) -> None:
    wrote = "1 + 1 = 2 + 2 = 3 + 3 ="
    once = {**ASIDE, "most": 1}
    for limit, tasks in (({"most": 1}, ["1 + 1"]), ({"rest_tokens": 500}, ["1 + 1"])):
        session = tool_session(prism, profile_of({**once, "most": None, **limit}), wrote, wrote)
        for _ in range(2):
            events = run(session)
            assert [e.task for e in events if isinstance(e, ev.StreamSpawned)] == tasks


# -- waiting ---------------------------------------------------------------------------------------------------------


class Slow(Worker):
    """Its thought comes from a thread, when the test lets it."""

    go: ClassVar[threading.Event]

    def take(self, brief: Brief) -> Work:
        return SlowWork(self.host.wake, type(self).go)


class SlowWork(Work):
    def __init__(self, wake: Callable[[], None], go: threading.Event) -> None:
        self._wake, self._go, self._done = wake, go, False

    def start(self) -> None:
        threading.Thread(target=self._think, daemon=True).start()

    def _think(self) -> None:
        self._done = self._go.wait(30)
        self._wake()

    def poll(self) -> Thought | None:
        return Thought("slow") if self._done else None

    def close(self) -> None:
        pass


def slow_profile(monkeypatch: pytest.MonkeyPatch, deadline: float, **river: Any) -> Profile:
    monkeypatch.setitem(WORKERS, "slow", Slow)
    Slow.go = threading.Event()
    role = {**INLINE, "thought": None, "deadline_seconds": deadline}
    profile = profile_of(role, gate={"mode": "off"}, river={"max_tokens": 60, **river})
    return profile.model_copy(update={"roles": (profile.roles[0].model_copy(update={"work": "slow"}),)})


def test_the_river_is_held_for_what_it_awaits(prism, monkeypatch) -> None:
    profile = slow_profile(monkeypatch, 60)
    session = tool_session(prism, profile, "so 12 * 7 = ropes")
    written = []
    for event in session.send("ropes?"):
        if isinstance(event, ev.RiverWaiting):
            assert event.streams == (1,) and session.snapshot().river_state == "awaiting"
            Slow.go.set()
        elif isinstance(event, ev.RiverText):
            written.append(event.text)
    assert "".join(written) == "so 12 * 7 = slow ropes"


def test_behind_its_deadline_the_river_goes_on_without_it(prism, monkeypatch) -> None:
    events = run(tool_session(prism, slow_profile(monkeypatch, 0.05), "so 12 * 7 = ropes"))
    assert river_text(events) == "so 12 * 7 = ropes"
    assert ends(events) == {1: ["expired"]}


def test_what_comes_when_the_river_waits_no_more_arrives_as_an_aside(prism, monkeypatch) -> None:
    profile = slow_profile(monkeypatch, 60, wait_seconds=0.02)
    session = tool_session(prism, profile, "so 12 * 7 = ropes of Mara and some more of them")
    events = []
    for event in session.send("ropes?"):
        events.append(event)
        if isinstance(event, ev.RiverText) and "ropes" in river_text(events):
            Slow.go.set()
            session.river.settings = session.river.settings.model_copy(update={"wait_seconds": 30})
    assert river_text(events).startswith("so 12 * 7 = ropes of Mara")
    assert ends(events) == {1: ["injected"]} and any(isinstance(e, ev.ThoughtInjected) for e in events)


def test_an_interrupted_wait_leaves_a_conversation_that_goes_on(prism, monkeypatch) -> None:
    session = tool_session(prism, slow_profile(monkeypatch, 60), "so 12 * 7 = ropes", "fine")
    events = []
    for event in session.send("ropes?"):
        events.append(event)
        if isinstance(event, ev.RiverWaiting):
            session.interrupt()
    assert ends(events) == {1: ["cancelled"]} and river_text(events) == "so 12 * 7 ="
    assert river_text(run(session, "and?")) == "fine"


# -- with the user's words -------------------------------------------------------------------------------------------


def test_what_the_user_asks_for_is_computed_before_the_first_token(prism, monkeypatch) -> None:
    rows: list[int] = []
    forward = prism.forward
    monkeypatch.setattr(prism, "forward", lambda r: rows.extend(len(x.tokens) for x in r) or forward(r))
    session = tool_session(prism, profile_of(TURN), " So that.")
    events = run(session, "How much is 15% of 80?")
    assert pieces(events) == [("15% of 80 = 12.", 1), (" So that.", None)]
    (started,) = [e for e in events if isinstance(e, ev.RiverStarted)]
    said = len(prism.chat.encoder.continued("", "15% of 80 = 12."))
    assert rows[0] == started.prompt_tokens + said
    ids, own = session.river.sentences.ids, session.river.sentences.own
    wrote = len(prism.chat.encoder.continued("", "15% of 80 = 12. So that."))
    assert sum(own) == wrote and all(own[-wrote:]) and len(ids) == len(own)
    assert session.turns[-1].text == "15% of 80 = 12. So that."


def test_a_result_that_says_all_may_end_the_reply(prism) -> None:
    session = tool_session(prism, profile_of({**TURN, "ends": True}), "no more", "no more", "So that.")
    for _ in range(2):
        events = run(session, "How much is 15% of 80?")
        assert river_text(events) == "15% of 80 = 12."
        assert [e.reason for e in events if isinstance(e, ev.RiverFinished)] == ["stop"]
    assert river_text(run(session, "Who is there?")) == "So that."
    alone = tool_session(prism, profile_of(), "15% of 80 = 12.", "15% of 80 = 12.", "So that.")
    for question in ("How much is 15% of 80?", "How much is 15% of 80?", "Who is there?"):
        run(alone, question)
    for session_of in (session, alone):
        assert len(session_of.turns) == 6 and not session_of.river.pending
    assert list(session.river.sentences.ids) == list(alone.river.sentences.ids)
    assert session.river.sentences.own == alone.river.sentences.own


def test_where_it_finds_no_calculation_nothing_changes(prism, monkeypatch) -> None:
    shapes: list[list[int]] = [[], []]
    texts = []
    forward = prism.forward
    for n, roles in enumerate(((), (TURN,))):
        monkeypatch.setattr(
            prism, "forward", lambda r, n=n: shapes[n].append(sum(len(x.tokens) for x in r)) or forward(r)
        )
        texts.append(river_text(run(Session(prism, profile_of(*roles)), "Who was here in 2014?")))
    assert texts[0] == texts[1] and shapes[0] == shapes[1]


def test_numbers_of_the_notes_are_at_hand(prism) -> None:
    session = tool_session(prism, profile_of(TURN), " Yes.")
    session.load_notes("Rent: 850\nFood: 420")
    assert river_text(run(session, "How much are rent and food together?")) == "850 + 420 = 1270. Yes."


def test_as_an_aside_it_is_known_before_the_first_token(prism) -> None:
    role = {**TURN, "arrives": "aside", "injected_as": "[Ref: {thought}]"}
    session = tool_session(prism, profile_of(role), "So.")
    events = run(session, "How much is 15% of 80?")
    first = next(e.seq for e in events if isinstance(e, ev.RiverText))
    (injected,) = [e for e in events if isinstance(e, ev.ThoughtInjected)]
    assert injected.seq < first and river_text(events) == "So."
    assert session.river.asides[0].text == "15% of 80 = 12"


def test_a_model_may_start_beside_the_rivers_first_token(prism) -> None:
    role = {"name": "plan", "starts": "turn", "when": "(?P<task>[Hh]ow .*)", "prompt": "plan: {task}", "max_tokens": 8}
    profile = make_profile(roles=[role])
    events = run(Session(prism, profile), "Please, how many ropes?")
    (spawned,) = [e for e in events if isinstance(e, ev.StreamSpawned)]
    assert spawned.task == "how many ropes?"
    assert spawned.seq < next(e.seq for e in events if isinstance(e, ev.RiverText))
    assert sum(len(s) for s in ends(events).values()) == 1
    assert not any(isinstance(e, ev.StreamSpawned) for e in run(Session(prism, profile), "Ropes!"))


def test_each_sentence_of_the_river_may_start_a_role(prism) -> None:
    role = {"name": "check", "starts": "sentence", "prompt": "check: {task}", "max_tokens": 4}
    profile = make_profile(roles=[role], injection={"enabled": False})
    session = tool_session(prism, profile, "So it is. And 3.5 more\nno end")
    events = run(session)
    assert [e.task for e in events if isinstance(e, ev.StreamSpawned)] == ["So it is.", "And 3.5 more"]


def test_search_gives_the_sentences_that_share_rare_words(prism) -> None:
    role = {**TURN, "work": "search", "arrives": "aside", "injected_as": "[Ref: {thought}]", "max_tokens": 40}
    session = tool_session(prism, profile_of(role, injection={"budget_tokens": 512}, gate={"mode": "off"}), "Yes.")
    filler = " ".join(f"The {w} of Ada is red and old." for w in ("lamp", "rope", "boat", "barn", "mill") * 12)
    session.load_notes(f"{filler} Otto hid the silver kettle in the tower. {filler}")
    events = run(session, "Where is the silver kettle?")
    assert [a.text for a in session.river.asides] == ["Otto hid the silver kettle in the tower."]
    assert river_text(events) == "Yes."


def test_search_leaves_short_notes_to_the_river(prism) -> None:
    role = {**TURN, "work": "search", "arrives": "aside", "injected_as": "[Ref: {thought}]"}
    session = tool_session(prism, profile_of(role), "Yes.")
    session.load_notes("Otto hid the silver kettle in the tower.")
    assert not any(isinstance(e, ev.StreamSpawned) for e in run(session, "Where is the silver kettle?"))


# -- examples --------------------------------------------------------------------------------------------------------


def test_examples_stand_before_the_conversation(prism) -> None:
    examples = [{"user": "ropes?", "assistant": "47"}, {"user": "lamps?", "assistant": "12"}]
    session = tool_session(prism, profile_of(river={"prompt": "Be short.", "examples": examples}), "yes", "no")
    plain = tool_session(prism, profile_of(river={"prompt": "Be short."}), "yes", "no")
    for question in ("boats?", "barns?"):
        run(session, question)
        run(plain, question)
    text, without = (prism.decode(list(s.river.sentences.ids)) for s in (session, plain))
    assert "lamps?" in text and text.index("47") < text.index("lamps?") < text.index("boats?")
    assert "lamps?" not in without and [t.text for t in session.turns] == [t.text for t in plain.turns]


def test_a_river_with_an_adapter_is_shown_no_examples() -> None:
    examples = [{"user": "ropes?", "assistant": "47"}]
    settings = profile_of(river={"examples": examples}).river
    assert len(shown(settings)) == 2
    assert shown(settings.model_copy(update={"adapter": "mine"})) == []


# -- profiles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("starts: turn\n    trigger: '<(?P<task>x)>'", "roles[0].starts: a role that starts by itself has no trigger"),
        ("trigger: ''", "roles[0].starts: a role without a trigger starts by itself"),
        ("starts: turn\n    when: 'x'", "roles[0].when: the pattern has no group named task"),
        ("starts: turn\n    arrives: inline", "roles[0].arrives: the text would come into"),
        ("starts: now", "roles[0].starts is 'now'; expected one of"),
        ("starts: turn\n    work: magic", "roles[0].work is 'magic'; expected one of"),
    ],
)
def test_mistakes_have_a_sentence(lines: str, expected: str) -> None:
    text = f"name: x\nroles:\n  - name: r\n    {lines}\n"
    with pytest.raises(ProfileError) as error:
        parse_profile(read_text(text, "my.yaml"))
    assert expected in "\n".join(error.value.problems)


def test_await_is_the_key_of_a_profile() -> None:
    role = Role.model_validate(INLINE)
    assert role.awaits and role.arrives == "inline" and not load_profile("council").roles[0].awaits


def test_examples_for_some_words_stand_before_these_and_leave_with_the_next_turn(prism) -> None:
    examples = [{"user": "ropes?", "assistant": "47"}]
    settings = {"prompt": "Be short.", "examples": examples, "examples_when": [r"\d.*\d", "(?i)what"]}
    session = tool_session(prism, profile_of(river=settings), "yes", "so", "well", "no")
    plain = tool_session(prism, profile_of(river={"prompt": "Be short."}), "yes", "so", "well", "no")

    def held(session: Session) -> str:
        return prism.decode(list(session.river.sentences.ids))

    for i, question in enumerate(("boats?", "What are 3 and 4?", "barns?")):
        run(session, question)
        run(plain, question)
        assert ("ropes?" in held(session)) == (i == 1)
        if i == 1:
            assert held(session).index("boats?") < held(session).index("ropes?") < held(session).index("3 and 4")
    assert held(session) == held(plain)
    session.undo()
    plain.undo()
    run(session, "barns?")
    run(plain, "barns?")
    assert held(session) == held(plain)


def test_examples_for_some_words_do_not_stand_before_notes(prism) -> None:
    settings = {"examples": [{"user": "ropes?", "assistant": "47"}], "examples_when": [r"\d.*\d", "(?i)what"]}
    session = tool_session(prism, profile_of(river=settings), "yes")
    session.load_notes("Otto has 12 lamps.")
    run(session, "What are 3 and 4?")
    assert "ropes?" not in prism.decode(list(session.river.sentences.ids))
