"""The largest logit of each row: all that greedy sampling asks for."""

from __future__ import annotations

import torch
from torch import Tensor

_PART = 128  # of the vocabulary


def largest(logits: Tensor) -> list[tuple[float, int]]:
    """The largest of each row of [n, vocabulary] and the first place that has it; NaN where there is one.

    Found by parts first: torch looks for a place much slower than for a value.
    """
    if not len(logits):
        return []
    value, place = _by_parts(logits)
    return list(zip(value.tolist(), place.tolist(), strict=True))


def _by_parts(logits: Tensor) -> tuple[Tensor, Tensor]:
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
