"""A calibration lets the Gate judge from the first tokens on, and is only ever used as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from warpcortex_cli.engine.calibration import Calibration
from warpcortex_cli.engine.gate import Gate
from warpcortex_cli.eval.calibrate import best_threshold
from warpcortex_cli.profile import GateSettings

SIZE = 24
scores = st.lists(st.floats(0, 1), min_size=1, max_size=20)


def calibration(threshold: float = 0.7) -> Calibration:
    return Calibration(torch.full((SIZE,), 3.0), torch.full((SIZE,), 2.0), 0.1, 0.2, threshold, 0.97, 40)


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "c.safetensors"
    assert Calibration.load(path) is None
    calibration().save(path)
    back = Calibration.load(path)
    assert back is not None and torch.equal(back.mean, calibration().mean)
    assert (back.threshold, back.null_mean, back.thoughts) == (0.7, 0.1, 40)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError):
        Calibration.load(path)


def test_a_short_river_is_judged_by_what_is_known_of_the_model() -> None:
    """A few River tokens: without a calibration everything passes with 0.5, with one a stranger does not."""
    torch.manual_seed(0)
    topic = torch.randn(SIZE)
    river = 3 + 1.4 * topic + 0.3 * torch.randn(20, SIZE)
    friend, stranger = 3 + 1.4 * topic + 0.3 * torch.randn(6, SIZE), 3 - 1.4 * topic + 0.3 * torch.randn(6, SIZE)
    plain, told = Gate(GateSettings()), Gate(GateSettings(), calibration())
    for gate in (plain, told):
        gate.observe(river)
    assert plain.decide("47", stranger, river).score == 0.5
    assert told.decide("47", friend, river).passed
    assert not told.decide("47", stranger, river).passed


def test_a_threshold_that_was_set_goes_before_the_calibrated_one() -> None:
    assert Gate(GateSettings(), calibration(0.8)).threshold == 0.8
    assert Gate(GateSettings(threshold=0.5), calibration(0.8)).threshold == 0.5
    assert Gate(GateSettings(mode="raw"), calibration(0.8)).threshold == 0.5
    gate = Gate(GateSettings(), calibration(0.8))
    gate.use(gate.settings.model_copy(update={"threshold": 0.3}))  # as /gate does
    assert gate.threshold == 0.3


@given(good=scores, bad=scores)
def test_no_other_threshold_separates_better(good: list[float], bad: list[float]) -> None:
    def gain(limit: float) -> float:
        return sum(g >= limit for g in good) / len(good) - sum(b >= limit for b in bad) / len(bad)

    best = gain(best_threshold(good, bad))
    assert all(gain(limit) <= best + 1e-9 for limit in (0, 1.1, *good, *bad))
