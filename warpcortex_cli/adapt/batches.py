"""Batches of examples of similar length, so that little is padding, in an order given by a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from warpcortex_cli.adapt.conversations import Example

_ALIKE = 8  # batches' worth of examples that are sorted by length together


@dataclass(frozen=True)
class Batch:
    """A batch, padded on the right, where no real token attends.

    Attributes:
        ids: [examples, tokens].
        learnt: [examples, tokens - 1]; True where the next token is learnt.
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
    """Batches of example indices that cover all examples once.

    Args:
        tokens: at most in a batch, padding included; a longer example is a batch of its own.
    """
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
