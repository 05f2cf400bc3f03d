"""Calibrates the Gate for a model on conversations of pocket's world, and keeps the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, stdev

from warpcortex_cli.engine.calibration import Calibration
from warpcortex_cli.engine.gate import Gate, garbled
from warpcortex_cli.eval.gate import auc, run
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import GateSettings, Profile

_FEWEST = 10  # relevant thoughts, and as many others


def calibrate(
    prism: Prism,
    profile: Profile,
    n: int,
    notes: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration | None:
    """Centring and threshold from `n` conversations; None if the model had too few relevant thoughts in them."""
    judged = list(run(prism, profile, n, notes, seed, progress))
    unrelated = [j.gain for j in judged if j.label == "irrelevant"]
    if min(len(unrelated), sum(j.label == "relevant" for j in judged)) < _FEWEST:
        return None
    found = Calibration(fmean(unrelated), stdev(unrelated), 0.5, 0.0, 0)
    gate = Gate(GateSettings(), found)
    good = [gate.score(j.gain) for j in judged if j.label == "relevant"]
    bad = [0.0 if garbled(j.thought) else gate.score(j.gain) for j in judged if j.label in ("irrelevant", "garbled")]
    return replace(found, threshold=best_threshold(good, bad), area=auc(good, bad), thoughts=len(good) + len(bad))


def best_threshold(good: Sequence[float], bad: Sequence[float]) -> float:
    """The threshold that best separates good from bad (Youden's index), in the middle of the gap."""
    values = sorted({*good, *bad})

    def gain(limit: float) -> float:
        return sum(g >= limit for g in good) / len(good) - sum(b >= limit for b in bad) / len(bad)

    best = max(values, key=gain)
    below = [v for v in values if v < best]
    middle = (best + below[-1]) / 2 if below else best
    return middle if not below or middle > below[-1] else best  # between neighbouring floats there is no middle
