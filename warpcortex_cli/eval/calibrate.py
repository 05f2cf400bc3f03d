"""Calibrating the Gate for a model: conversations of pocket's world are held, and what is found in them is kept."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch

from warpcortex_cli.engine.calibration import Calibration
from warpcortex_cli.engine.gate import RiverStates
from warpcortex_cli.eval.gate import Judged, Writing, auc, judge_case
from warpcortex_cli.eval.pocket import make_case
from warpcortex_cli.eval.thoughts import KINDS
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile

_FEWEST = 10  # relevant thoughts, and as many others


def calibrate(
    prism: Prism,
    profile: Profile,
    n: int,
    notes: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration | None:
    """Centring and threshold from `n` conversations; None if the model thought too little of use in them."""
    rng = random.Random(seed)
    strangers: list[Writing] = []
    judged: list[Judged] = []
    rivers: list[RiverStates] = []
    for i in range(n):
        judge = judge_case(prism, profile, make_case(KINDS[i % len(KINDS)], notes, rng), strangers, rng)
        states = judge.session.engine.gate.states
        if judge.known:
            judged += judge.judged
            rivers.append(states)
        progress(i + 1, n)
    good = [j.calibrated for j in judged if j.label == "relevant"]
    bad = [j.calibrated for j in judged if j.label in ("irrelevant", "garbled")]
    if min(len(good), len(bad)) < _FEWEST:
        return None
    mean, variance = _pooled(rivers)
    null = torch.cat([r.null_cosines().cpu() for r in rivers])
    return Calibration(
        mean,
        variance,
        float(null.mean()),
        float(null.std()),
        best_threshold(good, bad),
        auc(good, bad),
        len(good) + len(bad),
    )


def _pooled(rivers: Sequence[RiverStates]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance per dimension over the tokens of all Rivers."""
    moments = [r.moments() for r in rivers]
    weights = torch.tensor([float(r.tokens) for r in rivers])[:, None]
    means, variances = (torch.stack([m[i].cpu() for m in moments]) for i in (0, 1))
    mean = (weights * means).sum(0) / weights.sum()
    return mean, (weights * (variances + (means - mean).square())).sum(0) / weights.sum()


def best_threshold(good: Sequence[float], bad: Sequence[float]) -> float:
    """Where most good ones lie at or above and most bad ones below (Youden's index), in the middle of the gap."""
    values = sorted({*good, *bad})

    def gain(limit: float) -> float:
        return sum(g >= limit for g in good) / len(good) - sum(b >= limit for b in bad) / len(bad)

    best = max(values, key=gain)
    below = [v for v in values if v < best]
    return (best + below[-1]) / 2 if below else best
