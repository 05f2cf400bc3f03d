"""A model's head for greedy sampling: the largest logit of each row, without holding all logits at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

_PART = 128  # tokens of the vocabulary
_LOGITS = 1 << 22  # held at once: enough for a few rows over the whole vocabulary, which are then one product
_WIDE = 1 << 18  # of these, converted to fp32 at once

Summary = tuple[float, int, float | None]  # the largest logit, its first index, the logsumexp


class Head(Protocol):
    """The last layer of a model whose output is the logits."""

    def summarize(self, x: Tensor, total: bool) -> Sequence[Summary]:
        """For each of [n, hidden_size]: the largest logit, its index and, if asked for, the logsumexp of all.

        The largest is NaN if any logit is.
        """
        ...

    def logits_bytes(self, rows: int) -> int:
        """Bytes of logits held at once while it summarizes this many rows."""
        ...


class PlainHead:
    """A torch linear layer, computed for one part of the vocabulary after another.

    The logits of 1,000 rows of a vocabulary of 151,936 tokens are 290 MiB in bf16: as much as 400 agents.
    """

    def __init__(self, linear: nn.Linear) -> None:
        self._linear = linear

    def summarize(self, x: Tensor, total: bool) -> list[Summary]:
        size, vocabulary = part_size(len(x), self._linear.out_features), self._linear.out_features
        parts = [self._part(x, slice(start, start + size), total) for start in range(0, vocabulary, size)]
        values, places = torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts])
        value, best = values.max(0)  # the first of equal ones, and NaN before all others
        totals = torch.stack([p[2] for p in parts]).logsumexp(0).tolist() if total else [None] * len(x)
        return list(zip(value.tolist(), places.gather(0, best[None])[0].tolist(), totals, strict=True))

    def _part(self, x: Tensor, some: slice, total: bool) -> tuple[Tensor, Tensor, Tensor]:
        """For part of the vocabulary: each row's largest logit, its index, and the logsumexp. Logits are freed here."""
        weight, bias = self._linear.weight, self._linear.bias
        logits = nn.functional.linear(x, weight[some], None if bias is None else bias[some])
        value, place = _by_parts(logits)
        few = logits.split(max(1, _WIDE // logits.shape[1])) if total else ()
        return value, place + some.start, torch.cat([f.float().logsumexp(1) for f in few]) if total else value

    def logits_bytes(self, rows: int) -> int:
        weight = self._linear.weight
        return rows * part_size(rows, len(weight)) * weight.itemsize


def part_size(rows: int, vocabulary: int) -> int:
    """How many tokens of a vocabulary are computed at once for this many rows."""
    return min(vocabulary, max(_PART, _LOGITS // rows // _PART * _PART))


def largest(logits: Tensor) -> list[tuple[float, int]]:
    """The largest of each row of [n, vocabulary] and its first index; NaN if the row has one."""
    if not len(logits):
        return []
    value, place = _by_parts(logits)
    return list(zip(value.tolist(), place.tolist(), strict=True))


def _by_parts(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Largest values and their indices, by parts: torch finds an index much more slowly than a value."""
    rows, size = logits.shape
    whole = size - size % _PART
    if not whole:
        return torch.max(logits, 1)
    parts = logits[:, :whole].view(rows, -1, _PART).amax(2)
    if whole < size:
        parts = torch.cat([parts, logits[:, whole:].amax(1, True)], 1)
    value, part = parts.max(1)
    places = part[:, None] * _PART + torch.arange(_PART, device=logits.device)
    inside = logits.gather(1, places.clamp_max_(size - 1)).max(1).indices
    return value, (part * _PART + inside).clamp_max_(size - 1)
