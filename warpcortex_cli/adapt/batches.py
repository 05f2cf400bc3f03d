"""Examples in batches: those of about one length together, so that little is padded, in an order that a seed gives."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from warpcortex_cli.adapt.conversations import Example

_ALIKE = 8  # batches whose examples are sorted by length together


@dataclass(frozen=True)
class Batch:
    """Padded at the right, where no token attends to.

    Attributes:
        ids: [examples, tokens].
        learnt: [examples, tokens - 1]; where the next token is learnt.
        targets: [learnt tokens]; those next tokens, row by row.
    """

    ids: Tensor
    learnt: Tensor
    targets: Tensor

    @classmethod
    def of(cls, examples: Sequence[Example], device: torch.device) -> Batch:
        width = max(map(len, examples))
        ids = torch.zeros(len(examples), width, dtype=torch.long)
        learnt = torch.zeros(len(examples), width, dtype=torch.bool)
        for row, one in enumerate(examples):
            ids[row, : len(one)] = torch.tensor(one.ids)
            learnt[row, : len(one)] = torch.tensor(one.learnt)
        learnt = learnt[:, 1:]
        return cls(ids.to(device), learnt.to(device), ids[:, 1:][learnt].to(device))


def epoch(examples: Sequence[Example], tokens: int, seed: int) -> list[list[int]]:
    """All examples once, by number: batches of at most so many padded tokens, one example at least."""
    rng = random.Random(seed)
    order = list(range(len(examples)))
    rng.shuffle(order)
    mean = max(1, sum(map(len, examples)) // len(examples))
    together = max(1, _ALIKE * tokens // mean)
    found: list[list[int]] = []
    for start in range(0, len(order), together):
        batch: list[int] = []
        for n in sorted(order[start : start + together], key=lambda n: len(examples[n])):
            if batch and (len(batch) + 1) * len(examples[n]) > tokens:
                found.append(batch)
                batch = []
            batch.append(n)
        found.append(batch)
    rng.shuffle(found)
    return found
