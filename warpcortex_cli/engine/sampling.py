"""Choosing the next token: greedy, temperature, top-p; each agent with a generator of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

_FIRST_SORTED = 512  # most probable tokens looked at before all of the vocabulary is sorted


class SamplingError(ValueError):
    """One row's logits allow no choice. It is returned for that row, so that the others are not disturbed."""


class Sampler:
    """How one agent chooses its tokens.

    Its generator lives on the CPU and gives one number a token, so that what an agent writes depends on its
    seed and its logits, never on who else is in the batch.

    Args:
        temperature: divides the logits; 0 is greedy.
        top_p: the smallest set of most probable tokens with at least this probability is drawn from.
        seed: any integer.

    Raises:
        ValueError: temperature is negative or not finite, or top_p not in (0, 1].
    """

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0) -> None:
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ValueError(f"temperature must be 0 or more, not {temperature}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {top_p}")
        self.temperature = temperature
        self.top_p = top_p
        self._generator = torch.Generator().manual_seed(seed % (1 << 63)) if temperature else None

    @property
    def greedy(self) -> bool:
        """Whether it always takes the most probable token."""
        return self.temperature == 0

    @property
    def asks(self) -> Literal["largest", "last"]:
        """What a row wants whose next token it draws."""
        return "largest" if self.greedy else "last"

    def draw(self, logits: Tensor) -> int:
        """A token for finite-or-minus-infinity logits [vocabulary]; at least one is finite."""
        if self.greedy:
            return int(logits.argmax())
        row = logits.detach().to("cpu", torch.float64)
        # Shifted before the division: a tiny temperature then gives -inf, not NaN.
        weights = ((row - row.max()) / self.temperature).exp()
        number = float(torch.rand((), generator=self._generator, dtype=torch.float64))
        if self.top_p >= 1:
            return _pick(weights, None, number)
        total = float(weights.sum())
        size = min(_FIRST_SORTED, len(weights))
        best, order = weights.topk(size)
        if float(best.sum()) < self.top_p * total:
            best, order = weights.sort(descending=True, stable=True)
        # A token stays while those before it do not reach top_p; the first one always does.
        kept = int((best.cumsum(0) - best < self.top_p * total).sum())
        return _pick(best[:kept], order[:kept], number)


def _pick(weights: Tensor, order: Tensor | None, number: float) -> int:
    """The token at the share `number` (0 <= number < 1) of all weights."""
    cumulative = weights.cumsum(0)
    place = int(torch.searchsorted(cumulative, number * float(cumulative[-1]), right=True))
    # Rounding can put the number on the very end, or behind the last token with any weight.
    place = min(place, int(weights.nonzero()[-1]))
    return place if order is None else int(order[place])


def chosen(scores: Tensor, ids: Sequence[int]) -> Tensor:
    """The log-probability of each token that came, [n]. `scores`: from which it was chosen, [n, vocabulary]."""
    return scores.gather(1, torch.tensor(ids, device=scores.device)[:, None])[:, 0]


def sample(logits: Tensor | None, largest: tuple[float, int], sampler: Sampler) -> int | SamplingError:
    """A token for one row, or what is wrong with its logits.

    Args:
        logits: [vocabulary]; greedy sampling does without.
        largest: of them, and its place; NaN if one of them is, as `RowResult` has it.
    """
    value, token = largest
    # The largest logit is infinite if one is or all are minus infinity.
    if not math.isfinite(value):
        return SamplingError(f"the logits are {'not a number' if math.isnan(value) else 'infinite'}")
    if sampler.greedy:
        return token
    assert logits is not None
    return sampler.draw(logits)
