"""Any kind of work: its thoughts come in as others do, and whatever becomes of it, the River writes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar, get_args

import pytest

from tests.engine.conftest import make_profile, run
from tests.engine.test_invariants import ends, river_text
from warpcortex_cli import events as ev
from warpcortex_cli.engine.brief import Brief, Thought
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.workers import WORKERS
from warpcortex_cli.engine.workers.base import Host, Work, Worker, WorkError
from warpcortex_cli.profile import Profile, Role


class Upper(Worker):
    """The simplest worker: its thought is there at once."""

    works: ClassVar[list[UpperWork]] = []

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        type(self).works = []

    def take(self, brief: Brief) -> Work:
        self.works.append(UpperWork(brief, self.host))
        return self.works[-1]


class UpperWork(Work):
    def __init__(self, brief: Brief, host: Host) -> None:
        self.brief, self.host, self.closed = brief, host, 0

    def start(self) -> None:
        pass

    def poll(self) -> Thought | None:
        return Thought(self.brief.task.upper(), "done")

    def close(self) -> None:
        self.closed += 1


def profile_of(**changes: Any) -> Profile:
    """Both roles fire on random text; the first is done by another worker than the model."""
    settings = {"river": {"max_tokens": 24}, "limits": {"streams": 2, "stream_tail_tokens": 64}, **changes}
    profile = make_profile(**settings)
    return profile.model_copy(update={"roles": (profile.roles[0].model_copy(update={"work": "upper"}),)})


@pytest.fixture
def upper(monkeypatch: pytest.MonkeyPatch) -> type[Upper]:
    monkeypatch.setitem(WORKERS, "upper", Upper)
    return Upper


def test_every_work_that_a_profile_may_name_has_a_worker() -> None:
    assert set(get_args(Role.model_fields["work"].annotation)) == set(WORKERS)


def test_a_thought_that_is_there_at_once_takes_no_seat_no_tail_and_no_row(prism, upper, monkeypatch) -> None:
    session = Session(prism, profile_of())
    rows: list[int] = []
    forward = prism.forward
    monkeypatch.setattr(prism, "forward", lambda r: rows.append(len(r)) or forward(r))
    events = run(session)
    injected = [e for e in events if isinstance(e, ev.GateDecided)]
    assert len(injected) > 2 and all(e.passed and e.thought.isupper() for e in injected)
    assert all(s.tail is None and s.kv_bytes == 0 and s.landmarks == 0 for s in session.streams)
    assert session.conversation.crew.writer.tails_in_use == 0 and session.conversation.crew.briefing.synapse is None
    assert all(work.closed for work in upper.works) and len(upper.works) == len(injected)
    started = {e.id: e.seq for e in events if isinstance(e, ev.StreamStarted)}
    texts = [e.seq for e in events if isinstance(e, ev.RiverText)]
    for gate in injected:  # decided in the very step it began in: the River wrote one token meanwhile, not more
        assert sum(started[gate.id] < seq < gate.seq for seq in texts) <= 1


def test_a_thought_from_a_thread_is_waited_for_without_a_busy_loop(prism, upper, monkeypatch) -> None:
    """The River stands at a pause; nothing is to be computed until the thread has its result."""
    profile = profile_of(river={"max_tokens": 24, "pause": "[a-z]", "wait_seconds": 60}, role={"deadline_seconds": 60})
    go, results = threading.Event(), {}

    def start(self: UpperWork) -> None:
        def think() -> None:
            go.wait(30)
            results[self] = self.brief.task.upper()
            self.host.wake()

        threading.Thread(target=think, daemon=True).start()

    monkeypatch.setattr(UpperWork, "start", start)
    monkeypatch.setattr(UpperWork, "poll", lambda self: Thought(results[self]) if self in results else None)
    session = Session(prism, profile)
    rests = 0
    rest = session.stepper.rest

    def resting() -> None:
        nonlocal rests
        rests += 1
        if rests == 3:
            go.set()
        rest()

    monkeypatch.setattr(session.stepper, "rest", resting)
    events = run(session)
    assert rests >= 3 and any(isinstance(e, ev.RiverWaiting) for e in events)
    states = ends(events)
    assert states and all(s == ["injected"] for n, s in states.items() if n == 1)


@pytest.mark.parametrize("error", [WorkError("2 + is not a sum"), ZeroDivisionError("no"), StopIteration()])
@pytest.mark.parametrize("name", ["take", "start", "poll", "close"])
def test_a_fault_of_any_kind_ends_that_stream_alone(prism, upper, monkeypatch, name: str, error: Exception) -> None:
    without = river_text(run(Session(prism, profile_of(injection={"enabled": False}))))
    of = Upper if name == "take" else UpperWork

    def failing(*args: Any) -> Any:
        raise error

    monkeypatch.setattr(of, name, failing)
    session = Session(prism, profile_of(injection={"enabled": False}))
    events = run(session)
    states = ends(events)
    assert river_text(events) == without
    if name == "close":  # its thought was judged by then: what fails while it gives back changes nothing
        assert states and all(s == ["rejected"] for s in states.values())
        return
    assert states and all(s == ["failed"] for s in states.values())
    reasons = {e.reason for e in events if isinstance(e, ev.StreamEnded)}
    said = str(error) if isinstance(error, WorkError) else f"{type(error).__name__}: {str(error) or 'no reason given'}"
    assert reasons == {said}


def ended(prism: Any, poll: Callable[[UpperWork], Thought | None], monkeypatch: Any, **changes: Any) -> list[ev.Event]:
    monkeypatch.setattr(UpperWork, "poll", poll)
    events = run(Session(prism, profile_of(**changes)))
    assert all(work.closed for work in Upper.works)
    return [e for e in events if isinstance(e, ev.StreamEnded)]


def test_what_never_comes_to_a_thought_expires_at_its_deadline(prism, upper, monkeypatch) -> None:
    monkeypatch.setattr(Journal, "now", lambda self: 10.0 * len(Upper.works))  # as if each took ten seconds to begin
    Upper.works.clear()
    found = ended(prism, lambda work: None, monkeypatch, role={"deadline_seconds": 5})
    assert {(e.state, e.reason) for e in found if e.id == 1} == {("expired", "its deadline of 5 s passed")}


def test_what_still_works_at_the_end_of_the_reply_is_cancelled(prism, upper, monkeypatch) -> None:
    found = ended(prism, lambda work: None, monkeypatch, role={"deadline_seconds": 1000})
    assert found and {(e.state, e.reason) for e in found} == {("cancelled", "the reply is over")}


def test_work_that_ends_without_a_thought_says_why(prism, upper, monkeypatch) -> None:
    found = ended(prism, lambda work: Thought("", "nothing was found"), monkeypatch)
    assert found and {(e.state, e.reason) for e in found} == {("expired", "nothing was found")}


def test_its_worker_takes_another_profile_and_ends_with_the_conversation(prism, upper, monkeypatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(Upper, "use", lambda self, profile: seen.append(profile.name))
    monkeypatch.setattr(Upper, "close", lambda self: seen.append("closed"))
    session = Session(prism, profile_of())
    assert seen == []  # not before it is asked for
    run(session)
    session.set_profile(profile_of(name="other"))
    session.clear()
    assert seen == ["test", "other", "closed"]
