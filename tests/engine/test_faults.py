"""A Stream's fault, of any kind and at any place, is that Stream's end and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.engine.conftest import QUESTION, make_profile
from tests.engine.test_invariants import ends, river_text
from warpcortex_cli import events as ev
from warpcortex_cli.engine import brief, briefing, gate, injection, instructions, parking, past, stream
from warpcortex_cli.engine.conversation import Conversation
from warpcortex_cli.engine.entrance import Entrance
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.workers import model
from warpcortex_cli.memory.tail import TailPool
from warpcortex_cli.profile import Profile

GUILTY = 2
ERRORS = (
    RuntimeError("no"),
    ValueError("no"),
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    KeyError("no"),
    OSError(28, "No space left on device"),
    AssertionError(),
    ZeroDivisionError("no"),
    NotImplementedError("no"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
    StopIteration(),
    Exception("two\nlines"),
)


def of_its_rows(engine: Conversation, rows: Any) -> bool:
    guilty = engine.crew.streams[GUILTY]
    mine = [guilty.tail, *(r.tail for i in engine.crew.entrance.injections if i.stream is guilty for r in i._readings)]
    return any(r.tail is t for r in rows for t in mine if t is not None)


def always(engine: Conversation, args: tuple[Any, ...]) -> bool:
    return True


def its_own(engine: Conversation, args: tuple[Any, ...]) -> bool:
    """The guilty Stream is an argument, or has what is one."""
    for arg in args:
        of = getattr(arg, "stream", arg)
        if isinstance(of, stream.Stream) and of.id == GUILTY:
            return True
        if isinstance(of, brief.Brief | model.Writing) and of.number == GUILTY:
            return True
    return False


def its_reading(engine: Conversation, args: tuple[Any, ...]) -> bool:
    return any(i.stream.id == GUILTY and args[0] in i._readings for i in engine.crew.entrance.injections)


# Where a Stream's work is done: object, name, whether a call is for the guilty one, and when it fails; "after" is when
# the call has changed what it changes.
PLACES: dict[str, tuple[Any, str, Callable[[Conversation, tuple[Any, ...]], bool], str]] = {
    "sampler": (model.ModelWorker, "sampler", lambda e, a: a[1] == GUILTY, ""),
    "admission": (model.Writing, "start", its_own, ""),
    "admitted": (model.Writing, "start", its_own, "after"),
    "brief": (briefing.Briefing, "full", its_own, ""),
    "worker": (model.ModelWorker, "take", its_own, ""),
    "prompt": (brief.Brief, "instruction", its_own, ""),
    "synapse": (briefing, "take", always, "once"),
    "focus": (past, "found_in_tail", always, "once"),
    "tail": (TailPool, "take", always, "third"),
    "instruction": (instructions.Instructions, "shared", always, "third"),
    "row": (model.Writing, "row", its_own, ""),
    "row made": (model.Writing, "row", its_own, "after"),
    "a later row": (model.Writing, "row", its_own, "third"),
    "absorb": (model.Writing, "absorb", its_own, ""),
    "write": (model.Writing, "write", its_own, "third"),
    "conclude": (model.Writing, "poll", its_own, ""),
    "rest": (stream.Stream, "rest", its_own, "after"),
    "injection": (injection.Injection, "__init__", lambda e, a: a[1].id == GUILTY, ""),
    "buffer": (injection.Reading, "row", its_reading, ""),
    "buffer made": (injection.Reading, "row", its_reading, "after"),
    "reading": (injection.Reading, "absorb", its_reading, ""),
    "read": (injection.Injection, "absorb", its_own, "after"),
    "gain": (injection.Injection, "gain", its_own, ""),
    "gate": (Entrance, "_judge", its_own, ""),
    "aside": (injection.Injection, "aside", its_own, ""),
    "aside made": (injection.Injection, "aside", its_own, "after"),
    "inject": (Entrance, "_inject", its_own, ""),
}


def profile_of(**changes: Any) -> Profile:
    return make_profile(
        role={"max_tokens": 6, "prompt": "You are one of many, all of whom are told the same words. Help with: {task}"},
        gate={"mode": "calibrated", "threshold": 0.0},
        synapse={"landmarks": 24, "focus": 16, "refresh_tokens": 8},
        limits={"streams": 8, "stream_tail_tokens": 128},
        injection={"budget_tokens": 20},  # so that a later thought makes an earlier one leave
        **{"river": {"max_tokens": 20}, **changes},
    )


def run(prism: Any, spoil: Callable[[Conversation, pytest.MonkeyPatch], None] | None, profile: Profile) -> Any:
    """A run of four Streams; without `spoil` the guilty one never is."""
    session = Session(prism, profile)
    engine = session.conversation
    spawn = engine.crew.spawn

    def some(*request: Any) -> None:
        if engine.crew.streams.spawned >= 4:
            return
        spawn(*request)
        if spoil is None and engine.crew.streams.spawned == GUILTY:
            engine.crew.end(engine.crew.streams[GUILTY], "cancelled", "as if it had never been")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "garbled", lambda thought: "")  # what random weights write
        patch.setattr(engine.crew, "spawn", some)
        if spoil is not None:
            spoil(engine, patch)
        return session, list(session.send(QUESTION))


@pytest.fixture(scope="module")
def without(prism: Any) -> dict[str, Any]:
    """The River's text, and how the others end, where the guilty Stream never is."""
    _, events = run(prism, None, profile_of())
    states = ends(events)
    assert len(states) == 4 and sum(s == ["injected"] for s in states.values()) == 3
    assert any(isinstance(e, ev.ThoughtWithdrawn) for e in events)
    return {"text": river_text(events), "ends": {n: s for n, s in states.items() if n != GUILTY}}


def check(session: Session, events: list[ev.Event], without: dict[str, Any], guilty: int = GUILTY) -> None:
    states, engine = ends(events), session.conversation
    assert states[guilty] == ["failed"] and all(len(s) == 1 for s in states.values())
    [end] = [e for e in events if isinstance(e, ev.StreamEnded) and e.id == guilty]
    assert end.reason and "\n" not in end.reason
    assert isinstance(events[-1], ev.RiverFinished) and [e.seq for e in events] == list(range(len(events)))
    assert engine.crew.writer.tails_in_use == 0 and not engine.crew.entrance.injections and not engine.alive
    assert not any(t.blocks for t in engine.crew.parking.tiers.values())
    assert all(a.stream != guilty for a in engine.river.asides)
    if guilty == GUILTY:
        assert river_text(events) == without["text"]
        assert {n: s for n, s in states.items() if n != guilty} == without["ends"]


@pytest.mark.parametrize("place", PLACES)
def test_the_river_says_what_it_says_without_that_stream(prism, without, place: str) -> None:
    failing(prism, without, place, MemoryError())


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("place", ["admitted", "buffer made", "read"])
def test_whatever_the_error_is(prism, without, place: str, error: Exception) -> None:
    failing(prism, without, place, error)


def failing(prism: Any, without: dict[str, Any], place: str, error: Exception) -> None:
    where, name, guilty, when = PLACES[place]

    def spoil(engine: Conversation, patch: pytest.MonkeyPatch) -> None:
        real, calls = getattr(where, name), 0

        def spoilt(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if not guilty(engine, args):
                return real(*args, **kwargs)
            calls += 1
            if when in ("once", "third") and calls != (1 if when == "once" else 3):
                return real(*args, **kwargs)
            if when == "after":
                real(*args, **kwargs)
            raise error

        patch.setattr(where, name, spoilt)

    session, events = run(prism, spoil, profile_of())
    failed = [n for n, s in ends(events).items() if s == ["failed"]]
    assert len(failed) == 1 and (failed == [GUILTY] or guilty is always)
    check(session, events, without, failed[0])


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("late", [False, True])
def test_a_forward_that_fails_for_its_rows(prism, without, error: Exception, late: bool) -> None:
    """Before anything was written, or when all was: then the tails are longer than they were."""

    def spoil(engine: Conversation, patch: pytest.MonkeyPatch) -> None:
        forward = prism.forward

        def failing(rows: Any) -> Any:
            bad = engine.crew.streams.spawned >= GUILTY and of_its_rows(engine, rows)
            if bad and not late:
                raise error
            found = forward(rows)
            if bad:
                raise error
            return found

        patch.setattr(prism, "forward", failing)

    check(*run(prism, spoil, profile_of()), without)


def test_no_memory_for_an_aside_leaves_the_older_ones_where_they_are(prism, without) -> None:
    """They would have made way for it."""

    def spoil(engine: Conversation, patch: pytest.MonkeyPatch) -> None:
        keep = engine.river.asides.keep

        def full(asides: Any) -> None:
            kept = list(asides)
            if any(a.stream == GUILTY for a in kept):
                raise torch.OutOfMemoryError("CUDA out of memory")
            keep(kept)

        patch.setattr(engine.river.asides, "keep", full)

    check(*run(prism, spoil, profile_of()), without)


def test_a_fault_while_it_gives_back_what_it_had(prism, without) -> None:
    def spoil(engine: Conversation, patch: pytest.MonkeyPatch) -> None:
        for of, name in ((model.Writing, "row"), (model.Writing, "close"), (stream.Stream, "release")):
            real = getattr(of, name)

            def failing(self: Any, *args: Any, real: Any = real, **kwargs: Any) -> Any:
                found = real(self, *args, **kwargs)
                if its_own(engine, (self,)):
                    raise OSError(5, "Input/output error")
                return found

            patch.setattr(of, name, failing)

    check(*run(prism, spoil, profile_of()), without)


@pytest.mark.parametrize("error", ERRORS[-4:], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("name", ["park", "resume", "forget"])
def test_a_fault_of_parking(prism, name: str, error: Exception) -> None:
    """One Stream has the only seat; an urgent one takes it."""
    from tests.engine.test_parking import finish, half_way, spawn

    seen: list[ev.Event] = []
    session = half_way(prism)
    engine = session.conversation
    engine.journal.listeners.append(seen.append)
    real = getattr(parking.Parking, name)
    with pytest.MonkeyPatch.context() as patch:

        def failing(self: Any, of: stream.Stream, *args: Any) -> None:
            real(self, of, *args)
            if of.id == 1:
                raise error

        patch.setattr(parking.Parking, name, failing)
        spawn(session, 1)
        finish(session)
    states = ends(seen)
    assert states[2] in (["injected"], ["expired"], ["rejected"])
    assert len(states[1]) == 1 and (name == "forget" or states[1] == ["failed"])
    assert engine.crew.writer.tails_in_use == 0 and not engine.alive
    assert not any(t.blocks for t in engine.crew.parking.tiers.values())


@pytest.mark.parametrize("kind", [ev.StreamSpawned, ev.StreamStarted, ev.StreamText, ev.GateDecided, ev.StreamEnded])
def test_a_listener_that_fails_is_no_streams_fault(prism, without, kind: type[ev.Event]) -> None:
    """Its error comes to whoever reads the events, and no event is lost."""
    session = Session(prism, profile_of())
    seen: list[ev.Event] = []

    def failing(event: ev.Event) -> None:
        if isinstance(event, kind):
            raise KeyError("a panel")

    session.conversation.journal.listeners += [failing, seen.append]
    with pytest.raises(KeyError, match="a panel"):
        list(session.send(QUESTION))
    assert [e.seq for e in seen] == list(range(len(seen)))
    states = ends(seen)
    assert states and all(len(s) == 1 and s != ["failed"] for s in states.values())


def test_a_failed_stream_holds_nothing(prism) -> None:
    def spoil(engine: Conversation, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(model.Writing, "absorb", lambda self, result: 1 / 0)

    session, events = run(prism, spoil, profile_of())
    assert all(s == ["failed"] for s in ends(events).values())
    assert all(s.tail is None and s.synapse is None for s in session.streams)
