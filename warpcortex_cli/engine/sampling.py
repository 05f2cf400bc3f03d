"""Choosing the next token: greedy, temperature, top-p; each agent with a generator of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_PART = 128  # of the vocabulary
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


def _largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of each row and its place, both [n]; NaN where there is one.

    Found by parts first: torch looks for a place much slower than for a value.
    """
    rows, size = logits.shape
    whole = size - size % _PART
    if not whole:
        return logits.max(1)
    parts = logits[:, :whole].view(rows, -1, _PART).amax(2)
    if whole < size:
        parts = torch.cat([parts, logits[:, whole:].amax(1, True)], 1)
    value, part = parts.max(1)
    places = part[:, None] * _PART + torch.arange(_PART, device=logits.device)
    inside = logits.gather(1, places.clamp_max_(size - 1)).max(1).indices
    return value, (part * _PART + inside).clamp_max_(size - 1)


def sample(logits: Tensor, samplers: Sequence[Sampler]) -> list[int | SamplingError]:
    """A token for each row, or the error of that row alone.

    Args:
        logits: [n, vocabulary].
        samplers: n of them.

    Raises:
        ValueError: not as many samplers as rows.
    """
    if len(samplers) != len(logits):
        raise ValueError(f"{len(logits)} rows of logits and {len(samplers)} samplers")
    if not len(logits):
        return []
    top, greedy = (t.tolist() for t in _largest(logits))
    out: list[int | SamplingError] = []
    for row, sampler in enumerate(samplers):
        # The largest logit is NaN if any is, and infinite if one is or all are minus infinity.
        if not math.isfinite(top[row]):
            what = "not a number" if math.isnan(top[row]) else "infinite"
            out.append(SamplingError(f"the logits are {what}"))
        else:
            out.append(int(greedy[row]) if sampler.greedy else sampler.draw(logits[row]))
    return out
