"""The Gate: scores that mean something, and thoughts that never get one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from warpcortex_cli.engine.gate import WINDOW, Gate, RiverStates, garbled
from warpcortex_cli.engine.stream import certainty
from warpcortex_cli.profile import GateSettings

HIDDEN = 64


class World:
    """Hidden states as models have them: a common offset, a loud dimension, and a topic that changes."""

    def __init__(self, seed: int = 0, scale: float = 1.0) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.scale = scale
        self.offset = 10 * torch.randn(HIDDEN, generator=self.random)
        self.offset[5] = 300
        self.topics = torch.randn(40, HIDDEN, generator=self.random)

    def states(self, topic: int, tokens: int) -> torch.Tensor:
        noise = torch.randn(tokens, HIDDEN, generator=self.random)
        noise[:, 5] *= 20
        return self.scale * (self.offset + self.topics[topic] + noise)

    def river(self, gate: Gate, topics: range) -> torch.Tensor:
        for topic in topics:
            for _ in range(4):  # in pieces, as prefill and decoding bring them
                newest = self.states(topic, 12)
                gate.observe(newest)
        return newest


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_calibrated_tells_related_thoughts_from_others_and_raw_does_not(scale: float) -> None:
    world, gate, raw = World(scale=scale), Gate(GateSettings()), Gate(GateSettings(mode="raw"))
    river = world.river(gate, range(20))
    related = [gate.decide("47 ropes", world.states(19, 10), river) for _ in range(5)]
    others = [gate.decide("47 ropes", world.states(t, 10), river) for t in range(25, 40)]
    assert all(d.passed and d.score > 0.95 for d in related)
    assert sum(d.score for d in others) / len(others) == pytest.approx(0.5, abs=0.25)
    assert min(d.score for d in related) > max(d.score for d in others)
    assert all(raw.decide("47 ropes", world.states(t, 10), river).passed for t in range(25, 40))


def test_unrelated_pairs_score_half_on_average_at_any_scale() -> None:
    means = []
    for scale in (0.01, 1.0, 1000.0):
        world, gate = World(3, scale), Gate(GateSettings())
        river = world.river(gate, range(20))
        scores = [gate.states.score(world.states(t, 16), river).score for t in range(20, 40)]
        means.append(sum(scores) / len(scores))
    assert all(m == pytest.approx(means[0], abs=1e-3) for m in means)
    assert means[0] == pytest.approx(0.5, abs=0.2)


def test_every_decision_says_why() -> None:
    world, gate = World(), Gate(GateSettings(threshold=0.6))
    river = world.river(gate, range(20))
    decision = gate.decide("47", world.states(19, 4), river)
    assert decision.reason == f"score {decision.score:.2f} >= 0.60 (calibrated)"
    assert (decision.mode, decision.threshold) == ("calibrated", 0.6)
    strict = gate.decide("47", world.states(30, 4), river, threshold=0.999)
    assert not strict.passed
    assert strict.threshold == 0.999
    assert " < " in strict.reason


@pytest.mark.parametrize("seen", [0, 1, 40])
def test_too_little_data_is_not_held_against_a_thought(seen: int) -> None:
    world, gate = World(), Gate(GateSettings(threshold=0.9))
    gate.observe(world.states(0, seen))
    decision = gate.decide("47", world.states(1, 4), world.states(0, max(1, seen)))
    assert decision.passed
    assert decision.score == 0.5
    assert f"{seen} River tokens" in decision.reason
    assert not gate.decide("47", world.states(1, 4), world.states(0, 4), threshold=1.0).passed


def test_a_threshold_of_one_lets_nothing_pass() -> None:
    world, gate = World(), Gate(GateSettings(threshold=1.0))
    river = world.river(gate, range(20))
    assert not gate.decide("47", river, river).passed


def test_modes_raw_and_off() -> None:
    raw = Gate(GateSettings(mode="raw", threshold=0.5))
    a, b = torch.randn(3, 8), torch.randn(5, 8)
    expected = float(torch.cosine_similarity(a[-1], b[-1], dim=0))
    assert raw.decide("47", a, b).score == pytest.approx(expected)
    assert raw.decide("47", torch.zeros(0, 8), b).score == 0.5
    off = Gate(GateSettings(mode="off", threshold=1.0))
    assert off.decide("no no no no no", a, b).passed
    assert not off.decide("  \n", a, b).passed
    assert not off.decide("47", a * torch.nan, b).passed
    raw.use(GateSettings(mode="off"))
    assert raw.decide("47", -b, b).mode == "off"


@pytest.mark.parametrize(
    "text",
    [
        "", " \n ", "... !", "ropes \ufffd\ufffd", "the the the the", "I am. I am. I am. I am.",
        "ropropropropropes", "aaaaaaaaaa", "47 47 47 47 47", "5 + " * 9,
    ],
)  # fmt: skip
def test_garbled_thoughts_get_no_score(text: str) -> None:
    decision = Gate(GateSettings(threshold=0.0)).decide(text, torch.randn(3, 8), torch.randn(3, 8))
    assert not decision.passed
    assert decision.score == 0.0
    assert "garbled" in decision.reason or "empty" in decision.reason


@pytest.mark.parametrize(
    "text",
    [
        "47 + 86 = 133", "5 + 5 + 5 + 5 = 20", "10000000", "1111111", "no, no", "Bookkeeper", "naïve façade",
        "Mara keeps ropes: 47, brown, in the mill.", "Mara: 4, Otto: 4, Ida: 4", "четыре", "四十七",
    ],
)  # fmt: skip
def test_plain_thoughts_are_not_garbled(text: str) -> None:
    assert garbled(text) == ""


def test_hidden_states_that_are_not_finite_reject_the_thought() -> None:
    hidden = torch.randn(3, 8)
    hidden[1, 2] = torch.inf
    decision = Gate(GateSettings()).decide("47", hidden, torch.randn(3, 8))
    assert not decision.passed
    assert "not finite" in decision.reason


@given(cuts=st.lists(st.integers(1, 70), max_size=8))
@settings(max_examples=20, deadline=None)
def test_moments_and_windows_do_not_depend_on_the_pieces(cuts: list[int]) -> None:
    states = World().states(0, 200)
    whole, pieces = RiverStates(), RiverStates()
    whole.observe(states)
    start = 0
    for cut in [*cuts, 200]:
        pieces.observe(states[start : start + cut])
        start = min(200, start + cut)
    assert pieces.tokens == whole.tokens == 200
    torch.testing.assert_close(pieces._mean, states.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pieces._squares / 200, states.var(0, correction=0), rtol=1e-3, atol=1e-3)
    assert [end for end, _ in pieces._windows] == list(range(WINDOW, 201, WINDOW))
    for (end, mean), (_, other) in zip(pieces._windows, whole._windows, strict=True):
        torch.testing.assert_close(mean, states[end - WINDOW : end].mean(0), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mean, other, rtol=1e-4, atol=1e-4)


def test_what_is_remembered_is_bounded_and_broken_states_are_left_out() -> None:
    states = RiverStates()
    states.observe(torch.full((4, 8), torch.nan))
    assert states.tokens == 0
    for _ in range(40):
        states.observe(torch.randn(WINDOW * 20, 8))
        states.remember(torch.randn(3, 8))
    assert len(states._windows) <= 128
    ends = [end for end, _ in states._windows]
    assert ends[0] == WINDOW
    assert ends[-1] > 0.9 * states.tokens
    assert states.null_cosines().isfinite().all()


def test_a_stream_that_was_not_sure_is_rejected_where_the_profile_asks_for_it() -> None:
    world = World()
    for asked, sure, unsure in ((0.5, 0.4, True), (0.5, 0.6, False), (0.0, 0.01, False)):
        gate = Gate(GateSettings(certainty=asked, threshold=0.0))
        river = world.river(gate, range(6))
        decision = gate.decide("Mara keeps 47 ropes", world.states(5, 8), river, certainty=sure)
        assert ("unsure" in decision.reason) == unsure and decision.passed != unsure
    assert certainty([]) == 1.0
    assert certainty([0.0] * 40 + [math.log(0.5)] * 3) == pytest.approx(0.5)  # the least probable ones count
