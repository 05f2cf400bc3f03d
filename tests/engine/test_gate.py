"""The Gate: scores that mean something, and thoughts that never get one."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from warpcortex_cli.engine.calibration import Calibration
from warpcortex_cli.engine.gate import Gate, GateDecision, gained, garbled
from warpcortex_cli.engine.stream import certainty
from warpcortex_cli.profile import GateSettings

STATES = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
gains = st.floats(-40, 40)


def judge(gate: Gate, gain: float | None, **more: float) -> GateDecision:
    return gate.decide("47 ropes", STATES, STATES, gain, **more)


@given(a=gains, b=gains)
def test_what_the_river_makes_more_likely_scores_higher(a: float, b: float) -> None:
    gate = Gate(GateSettings())
    low, high = sorted((a, b))
    assert 0 <= gate.score(low) <= gate.score(high) < 1
    assert gate.score(0.0) == 0.5


@given(gain=gains, centre=st.floats(-5, 5), spread=st.floats(0.1, 5))
def test_a_calibration_scores_by_the_share_of_unrelated_thoughts_below(
    gain: float, centre: float, spread: float
) -> None:
    gate = Gate(GateSettings(), Calibration(centre, spread, 0.7, 0.97, 40))
    below = NormalDist(centre, spread).cdf(gain)
    assert gate.score(gain) == pytest.approx(min(below, 0.9999), abs=1e-6)


def test_one_expected_word_does_not_make_up_for_an_unexpected_one() -> None:
    alone = torch.full((4,), -3.0)
    usual, mixed = torch.tensor([1.0, 1, 1, 1]), torch.tensor([9.0, 9, -4, -4])
    assert gained(alone + usual, alone) == pytest.approx(1.0)
    assert gained(alone + mixed, alone) == pytest.approx(-1.0)
    assert gained(alone - torch.tensor([0.0, 0, 0, 60]), alone) == pytest.approx(-1.0)  # nor is one the end of it
    assert gained(None, alone) is None and gained(alone, None) is None


def test_every_decision_says_why() -> None:
    gate = Gate(GateSettings(threshold=0.6))
    decision = judge(gate, 1.0)
    assert decision.passed and decision.reason == f"score {decision.score:.2f} >= 0.60 (calibrated)"
    assert (decision.mode, decision.threshold) == ("calibrated", 0.6)
    strict = judge(gate, 1.0, threshold=0.999)
    assert not strict.passed and strict.threshold == 0.999 and " < " in strict.reason
    assert (gate.passed, gate.rejected) == (1, 1)


def test_what_cannot_be_known_is_not_held_against_a_thought() -> None:
    gate = Gate(GateSettings(threshold=0.9))
    for unknown in (None, float("nan")):
        decision = judge(gate, unknown)
        assert decision.passed and decision.score == 0.5 and "nothing to compare" in decision.reason
        assert not judge(gate, unknown, threshold=1.0).passed


def test_a_threshold_of_one_lets_nothing_pass() -> None:
    assert not judge(Gate(GateSettings(threshold=1.0)), 1000.0).passed


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


def test_a_stream_that_was_not_sure_is_rejected_where_the_profile_asks_for_it() -> None:
    for asked, sure, unsure in ((0.5, 0.4, True), (0.5, 0.6, False), (0.0, 0.01, False)):
        gate = Gate(GateSettings(certainty=asked, threshold=0.0))
        decision = judge(gate, 1.0, certainty=sure)
        assert ("unsure" in decision.reason) == unsure and decision.passed != unsure
    assert certainty([]) == 1.0
    assert certainty([0.0] * 40 + [math.log(0.5)] * 3) == pytest.approx(0.5)  # the least probable ones count
