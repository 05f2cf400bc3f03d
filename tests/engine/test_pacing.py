"""The River keeps its share, on a simulated machine whose steps cost what the test says."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.engine.conftest import make_profile
from warpcortex_cli.engine.brief import Thought
from warpcortex_cli.engine.pacing import READING, SHARE, Pacer, pacer
from warpcortex_cli.engine.session import Session
from warpcortex_cli.prism.prism import Prism


def simulate(
    share: float | Pacer, cost: Callable[[int], float], agents: int, steps: int = 3000
) -> tuple[float, float, float]:
    """The River's speed as part of its own, Stream tokens for each River token, and the longest step."""
    pacer = share if isinstance(share, Pacer) else Pacer(share)
    seconds, tokens, longest = 0.0, 0, 0.0
    for _ in range(steps):
        width = pacer.width(agents, river_writes=True)
        took = cost(width)
        pacer.observe(width, took, river_writes=True)
        seconds, tokens, longest = seconds + took, tokens + width, max(longest, took)
    return steps * cost(0) / seconds, tokens / steps, longest


MACHINES: dict[str, Callable[[int], float]] = {
    "bound by compute": lambda w: 0.05 * (1 + w),
    "bound by memory": lambda w: 0.1 + 0.001 * w,
    "waiting for weights": lambda w: 0.1 + 0.003 * min(w, 3) + 0.013 * max(0, w - 3),
    "with a knee": lambda w: 0.1 + 0.0005 * w + 0.01 * max(0, w - 16),
    "with a fixed price": lambda w: 0.1 + (0.03 if w else 0.0) + 0.002 * w,
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("share", [0.5, 0.85, 0.95])
def test_the_river_keeps_its_share(machine: str, share: float) -> None:
    cost = MACHINES[machine]
    kept, tokens, _ = simulate(share, cost, agents=100)
    assert kept >= share - 0.02
    # What the share leaves over is spent: no width does much better, run as often as it may be.
    allowed = cost(0) * (1 / share - 1)
    best = max(w * min(1.0, allowed / (cost(w) - cost(0))) for w in range(1, 101) if cost(w) <= 3 * cost(0))
    assert tokens >= 0.8 * best


@pytest.mark.parametrize("scale", [0.05, 0.3, 1.0, 3.0])
def test_who_reads_along_gets_what_can_be_read_or_a_part_of_the_rivers_own_speed(scale: float) -> None:
    """Of a River that is faster than anybody reads, Streams have most."""
    for cost in MACHINES.values():
        kept, tokens, longest = simulate(pacer(None, True), lambda w, cost=cost: scale * cost(w), agents=100)
        own = 1 / (scale * cost(0))
        assert kept * own >= min(SHARE * own, READING) - 0.03 * own
        assert longest <= max(3 / own, 1.1 / READING) * 1.01
        if own > 4 * READING:
            assert kept < 0.6 and tokens > simulate(SHARE, lambda w, cost=cost: scale * cost(w), agents=100)[1]


def test_the_promise_is_the_profiles_or_a_readers() -> None:
    assert [pacer(share, watched).share for share, watched in ((0.85, False), (0.85, True), (0.0, True))] == [
        0.85
    ] * 2 + [0]
    assert pacer(None, False).share == 0 and pacer(None, True).share == SHARE
    assert pacer(0.85, True).enough == float("inf")  # what somebody has written is kept to the letter


def test_a_slow_step_now_and_then_teaches_little() -> None:
    """Of the machine with a knee one step in thirty takes twice as long, as where something else ran for a moment."""
    smooth = MACHINES["with a knee"]
    without = simulate(0.85, smooth, agents=100)[1]

    def interrupted(seed: int) -> Callable[[int], float]:
        chance = random.Random(seed)
        return lambda w: smooth(w) + (0.1 if w and chance.random() < 0.03 else 0.0)

    found = [simulate(0.85, interrupted(seed), agents=100)[1] for seed in range(10)]
    assert sum(found) / len(found) >= 0.75 * without  # such steps alone are a sixth of what may be spent


def test_streams_have_every_step_without_a_promise_and_while_the_river_waits() -> None:
    assert Pacer(0.0).width(100, river_writes=True) == 100
    pacer = Pacer(0.9)
    assert pacer.width(100, river_writes=False) == 100
    assert pacer.width(100, river_writes=True) == 0  # nothing is known yet: the River goes first


def test_a_cheap_width_is_preferred_to_a_dear_one() -> None:
    _, tokens, longest = simulate(0.85, MACHINES["with a knee"], agents=400)
    assert longest <= 3 * 0.1  # a River step is never drawn out much
    assert tokens >= 1


class Narrow(Pacer):
    """Grants two tokens a step and notes what it is told."""

    def __init__(self) -> None:
        super().__init__(0.5)
        self.seen: list[tuple[int, bool]] = []

    def width(self, wanted: int, river_writes: bool) -> int:
        return min(wanted, 2)

    def observe(self, width: int, seconds: float, river_writes: bool, besides: float = 0.0) -> None:
        self.seen.append((width, river_writes))


def test_the_engine_asks_the_pacer_and_the_oldest_streams_come_first(prism: Prism) -> None:
    limits = {"streams": 4, "stream_tail_tokens": 64, "river_share": 0.85}
    profile = make_profile(trigger=r"<(?P<task>[^>]{1,20})>", role={"synapse": False}, limits=limits)
    session = Session(prism, profile)
    engine = session.conversation
    assert session.stepper.pacer.share == 0.85
    session.stepper.pacer = narrow = Narrow()
    for task in "abcd":
        engine.crew.spawn(profile.roles[0], task)
    engine.begin_turn(prism.encode("Mara keeps ropes."))
    for _ in range(600):
        session.step()
        if not engine.alive:
            break
    assert any(writes for _, writes in narrow.seen)
    assert max(width for width, _ in narrow.seen) == 2  # thoughts on their way in come in pieces, too
    ended = [engine.crew.streams[i].ended for i in (1, 2, 3, 4)]
    assert ended == sorted(ended) and len(set(ended)) > 2


@pytest.mark.parametrize("watched", [True, False])
def test_a_promise_is_kept_where_somebody_reads_along(prism: Prism, watched: bool) -> None:
    profile = make_profile(limits={"streams": 4, "stream_tail_tokens": 64})
    session = Session(prism, profile, watched=watched)
    assert session.stepper.pacer.share == (SHARE if watched else 0)
    session.set_profile(profile.model_copy(update={"limits": profile.limits.model_copy(update={"river_share": 0.9})}))
    assert session.stepper.pacer.share == 0.9
    session.set_profile(profile)
    assert session.stepper.pacer.share == (SHARE if watched else 0)


def test_what_matters_more_comes_first(prism: Prism) -> None:
    limits = {"streams": 4, "stream_tail_tokens": 64, "river_share": 0.85}
    profile = make_profile(trigger=r"<(?P<task>[^>]{1,20})>", role={"synapse": False}, limits=limits)
    urgent = profile.roles[0].model_copy(update={"name": "urgent", "priority": 5})
    session = Session(prism, profile)
    engine = session.conversation
    session.stepper.pacer = Narrow()
    for role in (profile.roles[0], profile.roles[0], urgent):
        engine.crew.spawn(role, "a")
    engine.begin_turn(prism.encode("Mara keeps ropes."))
    for _ in range(600):
        session.step()
        if not engine.alive:
            break
    ended = [engine.crew.streams[i].ended for i in (3, 1, 2)]
    assert ended == sorted(ended) and len(set(ended)) == 3


class Closed(Narrow):
    """Grants nothing while the River writes."""

    def width(self, wanted: int, river_writes: bool) -> int:
        return 0 if river_writes else wanted


def test_thoughts_on_their_way_in_are_paced_too(prism: Prism) -> None:
    limits = {"streams": 4, "stream_tail_tokens": 64, "river_share": 0.85}
    profile = make_profile(trigger=r"<(?P<task>[^>]{1,20})>", role={"synapse": False}, limits=limits)
    session = Session(prism, profile)
    engine = session.conversation
    engine.begin_turn(prism.encode("Mara keeps ropes."))
    while engine.river.state == "prefill":
        session.step()
    engine.crew.spawn(profile.roles[0], "a")
    engine.crew.offer(engine.crew.streams[1], Thought("47 ropes"))
    open_pacer, session.stepper.pacer = session.stepper.pacer, Closed()
    written = engine.turn.written
    for _ in range(4):
        session.step()
    assert engine.turn.written > written and len(engine.crew.entrance.injections) == 1 and not engine.river.asides
    session.stepper.pacer = open_pacer
    for _ in range(100):
        session.step()
        if not engine.crew.entrance.injections:
            break
    assert not engine.crew.entrance.injections and len(engine.river.asides) == 1


@pytest.mark.parametrize("length", [1, 25])
@pytest.mark.parametrize(("share", "price"), [(0.7, 0.002), (0.85, 0.02)])  # few steps are solo, or most of them
def test_what_disturbs_the_machine_whoever_thinks_is_not_what_streams_cost(
    length: int, share: float, price: float
) -> None:
    """Now and then steps take half as long again, in spells of a length: the River would be as slow alone."""
    chance, pacer = random.Random(3), Pacer(share)
    seconds = alone = 0.0
    tokens, steps = 0, 6000
    for number in range(steps):
        if number % length == 0:
            disturbance = 0.05 if chance.random() < 0.3 else 0.0
        width = pacer.width(100, river_writes=True)
        took = 0.1 + price * width + disturbance
        pacer.observe(width, took, river_writes=True)
        seconds, alone, tokens = seconds + took, alone + 0.1 + disturbance, tokens + width
    assert alone / seconds >= share - 0.02
    assert tokens >= 0.85 * alone * (1 / share - 1) / price


def test_a_river_that_is_never_alone_is_still_known() -> None:
    """Twice as fast a machine leaves half the time to the Streams, though until then all of them were in each step."""
    pacer, seconds, steps = Pacer(0.5), 0.0, 0
    for number in range(3000):
        solo = 0.1 if number < 1000 else 0.05
        width = pacer.width(200, river_writes=True)
        took = solo + 0.0004 * width
        pacer.observe(width, took, river_writes=True)
        if number >= 2000:
            seconds, steps = seconds + took, steps + 1
    assert steps * 0.05 / seconds >= 0.48


def test_a_first_step_that_loads_something_is_not_the_rivers_own_speed() -> None:
    pacer, seconds = Pacer(0.85), 0.0
    for number in range(400):
        width = pacer.width(100, river_writes=True)
        took = 0.1 + 0.002 * width if number else 1.0
        pacer.observe(width, took, river_writes=True)
        seconds += took if number else 0.0
    assert 399 * 0.1 / seconds >= 0.83


def test_no_solo_step_is_waited_for_while_the_river_reads() -> None:
    pacer = Pacer(0.85)
    while not pacer.width(1, river_writes=True):
        pacer.observe(0, 0.1, river_writes=True)
    for _ in range(40):  # so many steps beside it that its own speed has to be measured again
        pacer.observe(1, 0.1, river_writes=True)
    assert not pacer.width(1, river_writes=True)
    pacer.observe(0, 0.5, river_writes=False)
    assert pacer.width(1, river_writes=True)


def test_a_width_that_was_unlucky_once_is_tried_again() -> None:
    pacer, tokens, unlucky = Pacer(0.85), 0, 0
    for number in range(4000):
        width = pacer.width(100, river_writes=True)
        unlucky += bool(width)
        took = 0.1 + 0.001 * width + (0.6 if width and unlucky == 1 else 0.0)
        pacer.observe(width, took, river_writes=True)
        tokens += width if number >= 1000 else 0
    assert tokens / 3000 >= 0.7 * (0.1 * (1 / 0.85 - 1) / 0.001)


def test_what_is_done_beside_the_forward_is_paid_but_is_no_cost_of_a_width() -> None:
    spent: list[int] = []
    for besides in (0.0, 0.4):
        pacer = Pacer(0.85)
        while not pacer.width(4, river_writes=True):
            pacer.observe(0, 0.1, river_writes=True)
        pacer.observe(4, 0.11, river_writes=True, besides=besides)
        waited = 0
        while not pacer.width(100, river_writes=True):
            pacer.observe(0, 0.1, river_writes=True)
            waited += 1
        spent.append(waited)
        assert pacer.width(100, river_writes=True) > 4
    assert spent[0] == 0 and spent[1] >= 20


@pytest.mark.parametrize("share", [0.7, 0.85])
def test_what_the_river_does_besides_its_steps_alone_is_not_paid_by_streams(share: float) -> None:
    """Planning its own row takes a twentieth of its step; only what Streams add to that is theirs."""
    pacer, tokens, seconds = Pacer(share), 0, 0.0
    for number in range(3000):
        width = pacer.width(100, river_writes=True)
        took, besides = 0.1 + 0.01 * width, 0.005 + (1.0 if number == 5 else 0.0)
        pacer.observe(width, took, river_writes=True, besides=besides)
        tokens, seconds = tokens + width, seconds + took + besides
    assert share - 0.02 <= 3000 * 0.105 / seconds <= share + 0.03
    assert tokens / 3000 >= 0.93 * 0.1 * (1 / share - 1) / 0.01
