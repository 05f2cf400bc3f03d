"""A calibration is only ever used as it was written, and its threshold where none was set."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from warpcortex_cli.engine.calibration import Calibration
from warpcortex_cli.engine.gate import Gate
from warpcortex_cli.eval.calibrate import best_threshold
from warpcortex_cli.profile import GateSettings

scores = st.lists(st.floats(0, 1), min_size=1, max_size=20)


def calibration(threshold: float = 0.7) -> Calibration:
    return Calibration(centre=-0.8, spread=0.5, threshold=threshold, area=0.97, thoughts=40)


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "c.json"
    assert Calibration.load(path) is None
    calibration().save(path)
    assert Calibration.load(path) == calibration()
    whole = path.read_text()
    for damaged in (whole[:40], "[]", "{}", whole.replace('"version": 2', '"version": 9')):
        path.write_text(damaged)
        with pytest.raises(ValueError):
            Calibration.load(path)


def test_a_threshold_that_was_set_goes_before_the_calibrated_one() -> None:
    assert Gate(GateSettings(), calibration(0.8)).threshold == 0.8
    assert Gate(GateSettings(threshold=0.5), calibration(0.8)).threshold == 0.5
    assert Gate(GateSettings(mode="raw"), calibration(0.8)).threshold == 0.5
    gate = Gate(GateSettings(), calibration(0.8))
    gate.use(gate.settings.model_copy(update={"threshold": 0.3}))  # as /gate does
    assert gate.threshold == 0.3


@given(good=scores, bad=scores)
@example(good=[5e-324], bad=[0.0])
def test_no_other_threshold_separates_better(good: list[float], bad: list[float]) -> None:
    def gain(limit: float) -> float:
        return sum(g >= limit for g in good) / len(good) - sum(b >= limit for b in bad) / len(bad)

    best = gain(best_threshold(good, bad))
    assert all(gain(limit) <= best + 1e-9 for limit in (0, 1.1, *good, *bad))
