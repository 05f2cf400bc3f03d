"""A Stream that gives its seat to one of higher priority, and goes on later as if nothing had been."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from tests.engine.conftest import make_profile, run
from warpcortex_cli import events as ev
from warpcortex_cli.engine.brief import Brief
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.parking import Parking, seating
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.states import FINAL, StreamState
from warpcortex_cli.engine.stream import Stream
from warpcortex_cli.engine.workers.base import Host
from warpcortex_cli.engine.workers.model import ModelWorker
from warpcortex_cli.memory.log import DamagedError
from warpcortex_cli.memory.store import BlockStore
from warpcortex_cli.memory.tail import TailPool
from warpcortex_cli.profile import Profile

NOTES = "\n".join(f"Mara keeps ropes: {n}, brown, in the old mill." for n in range(10, 22))
ROLE = {"max_tokens": 40, "deadline_seconds": 1000}
LIMITS = {"streams": 1, "stream_tail_tokens": 160}
EXACT = {"memory": {"stored": "exact"}}
ON_DISK = {"memory": {"stored": "exact", "warm_mb": 0}, "synapse": {"landmarks": 24, "focus": 60}}  # several blocks


# -- who gives way ----------------------------------------------------------------------------------------------------


def moves(seats: int, *streams: tuple[str, int, int]) -> list[int]:
    """Numbers, from 1, of those that `seating` moves, out of (state, priority, tokens written)."""
    alive = [
        SimpleNamespace(id=n, state=state, tokens=tokens, role=SimpleNamespace(priority=priority))
        for n, (state, priority, tokens) in enumerate(streams, 1)
    ]
    return [s.id for s in seating(alive, seats)]  # type: ignore[arg-type]


def test_the_newest_of_the_lowest_priority_gives_way_to_a_strictly_higher_one() -> None:
    assert moves(3, ("thinking", 1, 5), ("thinking", 0, 5), ("thinking", 0, 5), ("queued", 1, 0)) == [3, 4]
    assert moves(1, ("thinking", 1, 5), ("queued", 1, 0), ("queued", 0, 0)) == []
    assert moves(2, ("thinking", 0, 5), ("thinking", 1, 5), ("queued", 2, 0), ("queued", 3, 0)) == [1, 4, 2, 3]
    assert moves(2, ("thinking", 0, 5), ("queued", 0, 0), ("queued", 2, 0), ("queued", 1, 0)) == [3, 1, 4]


def test_what_reads_its_prompt_or_is_at_the_gate_keeps_its_seat() -> None:
    assert moves(2, ("thinking", 0, 0), ("gating", 0, 9), ("queued", 5, 0)) == []
    assert moves(3, ("thinking", 0, 0), ("gating", 0, 9), ("thinking", 3, 9), ("queued", 5, 0)) == [3, 4]


def test_a_free_seat_goes_by_priority_and_among_equals_to_the_parked_one() -> None:
    assert moves(1, ("queued", 0, 0), ("parked", 0, 5), ("queued", 0, 0)) == [2]
    assert moves(1, ("parked", 0, 5), ("queued", 1, 0)) == [2]
    assert moves(2, ("queued", 0, 0), ("queued", 0, 0), ("queued", 0, 0)) == [1, 2]
    assert moves(1, ("parked", 2, 5), ("thinking", 0, 5)) == [2, 1]


def test_with_fewer_seats_than_are_taken_nobody_is_parked_in_vain() -> None:
    assert moves(1, ("thinking", 0, 5), ("thinking", 1, 5), ("queued", 1, 0)) == []
    assert moves(1, ("thinking", 0, 5), ("thinking", 0, 5), ("queued", 1, 0)) == [2, 1, 3]
    assert moves(1, ("thinking", 0, 5), ("thinking", 0, 5), ("parked", 0, 5)) == []


# -- what comes back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("warm_mb", [64, 0])
def test_an_exact_tail_comes_back_bit_by_bit_wherever_it_was_kept(prism, dtype: torch.dtype, warm_mb: int) -> None:
    layout = replace(prism.layout, dtype=dtype)
    pool, parking = TailPool(layout, 160, 2), Parking(layout, Journal())
    memory = make_profile(memory={"stored": "exact", "warm_mb": warm_mb}).memory
    torch.manual_seed(1)
    shape = (layout.kv_heads, 75, layout.head_dim)  # two blocks and a part of one
    keys, values = ([torch.randn(shape, dtype=dtype) for _ in range(layout.layers)] for _ in range(2))
    positions = torch.cat([torch.tensor([3, 4, 90]), torch.arange(200, 272)])  # a focus set has positions of its own
    tail = pool.take()
    tail.append(keys, values, positions)
    stream = make_stream(prism)
    stream.work.tail = tail

    parking.park(stream, memory)
    assert (stream.state, stream.tail, pool.taken) == ("parked", None, 0)
    tiers = parking.tiers
    assert (tiers["hot"].blocks, tiers["warm"].blocks, tiers["cold"].blocks) == ((0, 3, 0) if warm_mb else (0, 1, 2))
    assert stream.kv_bytes == sum(t.bytes for t in tiers.values()) >= 75 * layout.bytes_per_token

    parking.resume(stream, pool.take())
    assert stream.state == "thinking" and stream.tail is not None
    back = stream.tail.freeze(0, 75)
    assert torch.equal(back.positions, positions)
    assert all(torch.equal(a, b) for a, b in zip((*back.keys, *back.values), (*keys, *values), strict=True))
    assert stream.kv_bytes == stream.tail.nbytes and not any(t.blocks for t in parking.tiers.values())


def make_stream(prism) -> Stream:
    stream = Stream(1, make_profile().roles[0], "ropes", {}, 0.0)
    brief = Brief(1, stream.role, stream.task)
    stream.begin(brief, ModelWorker(Host(prism, None, 0)).take(brief))  # type: ignore[arg-type]
    stream.state = StreamState.THINKING
    return stream


def test_the_profile_says_how_parked_tails_are_stored(prism) -> None:
    sizes = {}
    for stored in ("exact", "8", "4/4"):
        session = half_way(prism, memory={"stored": stored})
        make_way(session)
        sizes[stored] = session.stream(1).kv_bytes
    assert sizes["exact"] > 2 * sizes["8"] and sizes["8"] > 1.3 * sizes["4/4"]


# -- in the engine ----------------------------------------------------------------------------------------------------


def with_urgent(profile: Profile) -> Profile:
    """The same, with a role of higher priority besides."""
    urgent = profile.roles[0].model_copy(update={"name": "urgent", "priority": 1, "max_tokens": 6})
    return profile.model_copy(update={"roles": (*profile.roles, urgent)})


def half_way(prism, *, writes: int = 5, role: dict | None = None, **changes) -> Session:
    """A session whose one Stream, with the only seat, has written a few tokens."""
    settings = {"limits": LIMITS, **EXACT, **changes}
    profile = with_urgent(make_profile(trigger="<(?P<task>[^>]+)>", role={**ROLE, **(role or {})}, **settings))
    session = Session(prism, profile, seed=2)
    session.load_notes(NOTES)
    spawn(session, 0)
    while session.stream(1).tokens < writes:
        assert session.step() and session.stream(1).state == "thinking"
    return session


def spawn(session: Session, role: int) -> None:
    session.conversation.crew.spawn(session.profile.roles[role], "the ropes of Mara")


def make_way(session: Session) -> Stream:
    """Has the first Stream parked by an urgent one; returns the first."""
    spawn(session, 1)
    session.step()
    first = session.stream(1)
    assert first.state == "parked" and session.stream(2).state == "thinking"
    return first


def finish(session: Session) -> None:
    for _ in range(500):
        session.step()
    assert not session.conversation.alive


def nothing_is_left(session: Session) -> bool:
    engine = session.conversation
    kept = any(t.blocks or t.bytes for t in engine.crew.parking.tiers.values())
    return not (kept or engine.crew.parking._kept or engine.crew.parking._store or engine.crew.writer.tails_in_use)


VARIANTS = {
    "greedy": {},
    "with a focus set of its own": {"synapse": {"landmarks": 24, "focus": 60}},
    "drawn": {"stream_sampling": {"temperature": 0.9, "top_p": 0.9}},
    "in int8": {"limits": {**LIMITS, "stream_tail_stored": "int8"}},
    "on disk": ON_DISK,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_parked_stream_goes_on_as_if_it_had_not_been(prism, variant: str) -> None:
    undisturbed = half_way(prism, **VARIANTS[variant])
    finish(undisturbed)
    plain = undisturbed.conversation.crew.streams[1]
    assert plain.tokens > 10

    session = half_way(prism, **VARIANTS[variant])
    engine, first = session.conversation, session.stream(1)
    synapse, position, pending = first.synapse, first.work.position, list(first.work.pending)
    assert first.tail is not None and synapse is not None
    if "focus" in variant:
        assert first.focus and first.tail.positions.tolist() != list(range(first.tail.length))
    make_way(session)
    assert first.tail is None and engine.crew.writer.tails_in_use == 1  # that is the urgent one's
    assert (first.synapse, first.work.position, first.work.pending) == (synapse, position, pending)
    seen = session.snapshot()
    assert seen.streams[0].state == "parked"
    assert seen.streams[0].kv_bytes == sum(t.bytes for t in seen.memory.tiers.values()) > 0
    while engine.crew.streams[2] in engine.alive:
        assert first.state == "parked" and first.tokens == 5
        session.step()
    finish(session)
    assert (first.work.builder.ids, first.thought, first.state) == (plain.work.builder.ids, plain.thought, plain.state)
    assert nothing_is_left(session) and not any(t.blocks for t in session.snapshot().memory.tiers.values())


def test_events_say_who_was_parked_and_when_it_went_on(prism) -> None:
    session = half_way(prism)
    first, seen = session.stream(1), []
    session.listen(seen.append)
    assert first.tail is not None
    tokens = first.tail.length
    make_way(session)
    stored = first.kv_bytes
    finish(session)
    kinds = (ev.StreamParked, ev.StreamResumed, ev.StreamStarted, ev.StreamEnded)
    told = [e for e in seen if isinstance(e, kinds)]
    assert [(e.name, e.id) for e in told] == [
        ("stream_parked", 1),
        ("stream_started", 2),
        ("stream_ended", 2),
        ("stream_resumed", 1),
        ("stream_ended", 1),
    ]
    assert (told[0].tokens, told[0].bytes, told[3].tokens) == (tokens, stored, tokens)  # type: ignore[union-attr]


def test_a_deadline_goes_on_while_parked_and_all_is_freed(prism, monkeypatch: pytest.MonkeyPatch) -> None:
    session = half_way(prism, role={"deadline_seconds": 100})
    first = make_way(session)
    synapse = weakref.ref(first.synapse)
    session.conversation.crew.river_changed()
    monkeypatch.setattr(session.stream(2), "spawned", 99.0)
    now = session.conversation.journal.now()
    monkeypatch.setattr(session.conversation.journal, "now", lambda: now + 101)
    session.step()
    assert first.state == "expired" and session.stream(2).state == "thinking"
    assert not session.conversation.crew.parking._kept and session.conversation.crew.parking._store is None
    finish(session)
    gc.collect()
    assert synapse() is None and nothing_is_left(session)


def test_cancelled_while_parked_it_leaves_nothing(prism) -> None:
    session = half_way(prism, **ON_DISK)
    first = make_way(session)
    assert session.conversation.crew.parking.tiers["cold"].blocks
    session.conversation.crew.cancel_all("test")
    assert first.state == "cancelled" and nothing_is_left(session)


@pytest.mark.parametrize("error", [DamagedError("damaged"), KeyError(3), OSError("no disk"), RuntimeError("memory")])
def test_a_stream_that_does_not_come_back_fails_alone(prism, monkeypatch: pytest.MonkeyPatch, error) -> None:
    session = half_way(prism)
    first = make_way(session)
    spawn(session, 0)

    def get(store: BlockStore, number: int) -> None:
        raise error

    monkeypatch.setattr(BlockStore, "get", get)
    finish(session)
    assert first.state == "failed" and "parked" in first.reason
    assert [session.stream(n).state for n in (2, 3)] == ["injected", "injected"]
    assert nothing_is_left(session)


def test_a_stream_that_cannot_be_parked_fails_alone(prism, monkeypatch: pytest.MonkeyPatch) -> None:
    session = half_way(prism)

    def put(store: BlockStore, number: int, keys, values) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(BlockStore, "put", put)
    spawn(session, 1)
    finish(session)
    assert [session.stream(n).state for n in (1, 2)] == ["failed", "injected"]
    assert nothing_is_left(session)


def test_a_disk_that_takes_nothing_is_told_and_parking_goes_on(prism, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(**options) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", nowhere)
    session = half_way(prism, **ON_DISK)
    make_way(session)
    assert session.conversation.crew.parking.tiers["warm"].blocks > 1
    finish(session)
    assert session.stream(1).state == "injected"
    assert "kept in memory" in session.snapshot().memory.failure


def test_after_a_profile_of_shorter_tails_what_does_not_fit_fails(prism) -> None:
    session = half_way(prism)
    first = make_way(session)
    limits = session.profile.limits.model_copy(update={"stream_tail_tokens": 16})
    session.set_profile(session.profile.model_copy(update={"limits": limits}))
    finish(session)
    assert first.state == "failed" and session.stream(2).state == "injected" and nothing_is_left(session)


def test_after_a_profile_of_another_kind_of_tail_it_goes_on(prism) -> None:
    session = half_way(prism)
    first = make_way(session)
    limits = session.profile.limits.model_copy(update={"stream_tail_tokens": 200, "stream_tail_stored": "int8"})
    session.set_profile(session.profile.model_copy(update={"limits": limits}))
    finish(session)
    assert first.state == "injected" and first.tokens > 10 and nothing_is_left(session)


# -- beside the River -------------------------------------------------------------------------------------------------


def crowded(**changes) -> Profile:
    """Random text asks for Streams of three priorities, which share two seats."""
    profile = make_profile(limits={"streams": 2, "stream_tail_tokens": 64}, river={"max_tokens": 120}, **changes)
    plain = profile.roles[0].model_copy(update={"max_tokens": 6})
    roles = [
        plain.model_copy(update={"name": name, "trigger": f"(?P<task>{letters}[a-z]{{3}})", "priority": priority})
        for name, letters, priority in (("low", "[a-h]", -1), ("middle", "[i-p]", 0), ("high", "[q-z]", 7))
    ]
    return profile.model_copy(update={"roles": tuple(roles)})


def river_text(events: list[ev.Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, ev.RiverText))


def test_the_river_is_not_disturbed(prism) -> None:
    alone = run(Session(prism, crowded(), streams=False))
    events = run(Session(prism, crowded(injection={"enabled": False})))
    assert sum(isinstance(e, ev.StreamParked) for e in events) > 1
    assert river_text(events) == river_text(alone)


def test_every_stream_still_ends_once_and_seats_go_by_priority(prism) -> None:
    session = Session(prism, crowded())
    seated: list[int] = []

    def watch(event: ev.Event) -> None:
        seated.append(sum(s.state in ("thinking", "gating") for s in session.conversation.alive))

    session.listen(watch)
    events = run(session)
    parked = [e.id for e in events if isinstance(e, ev.StreamParked)]
    resumed = [e.id for e in events if isinstance(e, ev.StreamResumed)]
    assert parked and resumed and set(resumed) <= set(parked) and max(seated) == 2
    assert "high" not in {session.stream(n).role.name for n in parked}
    ended = {e.id: e.state for e in events if isinstance(e, ev.StreamEnded)}
    assert sorted(ended) == [e.id for e in events if isinstance(e, ev.StreamSpawned)]
    assert set(ended.values()) <= FINAL and nothing_is_left(session)
    for n in set(parked):
        own = [e for e in events if getattr(e, "id", None) == n]
        after = [b for a, b in pairwise(own) if isinstance(a, ev.StreamParked)]
        assert after and all(isinstance(e, ev.StreamResumed | ev.StreamEnded) for e in after)
