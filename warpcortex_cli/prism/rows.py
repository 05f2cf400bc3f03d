"""What agents hand to a step of the model, and what they get back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.memory.tail import Tail, TailView

LOGITS_BLOCK = 32  # rows of logits in memory at once


@dataclass
class Row:
    """Tokens of one agent in a step.

    A token sees all of `reads`, its agent's whole tail, and the tokens before it in this row.

    Attributes:
        tokens: at least one token id.
        positions: a rotary position for each token; data, not the place in the cache.
        tail: where the tokens' keys and values are appended.
        reads: shared keys and values; rows with the same ones are computed together.
        logits: for no token, for the last one, or for all.
        queries: whether to keep the tokens' rotated queries.
    """

    tokens: list[int]
    positions: list[int]
    tail: Tail
    reads: tuple[Segment | TailView, ...] = ()
    logits: Literal["none", "last", "all"] = "last"
    queries: bool = False


class StepLogits:
    """The logits of a step, made block by block when they are asked for; only the newest block is kept.

    A hundred rows over a large vocabulary would else be the largest thing in memory, and each is looked at once, in
    order.

    Args:
        head: hidden states [n, hidden_size] -> logits [n, vocabulary].
        hidden: of the tokens that want logits, [wanted, hidden_size].
    """

    def __init__(self, head: Callable[[Tensor], Tensor], hidden: Tensor) -> None:
        self._head = head
        self._hidden = hidden
        self._number = -1
        self._block: Tensor | None = None

    def rows(self, start: int, end: int) -> Tensor:
        """[end - start, vocabulary]"""
        parts = []
        while start < end:
            number = start // LOGITS_BLOCK
            first = number * LOGITS_BLOCK
            if self._block is None or number != self._number:
                self._block = None  # freed before the next one is made
                self._block, self._number = self._head(self._hidden[first : first + LOGITS_BLOCK]), number
            parts.append(self._block[start - first : end - first])
            start = first + LOGITS_BLOCK
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class RowResult:
    """What a row got out of a step.

    Attributes:
        hidden: [tokens, hidden_size], behind the model's last norm.
        queries: [layers, heads, tokens, head_dim] rotated, if the row asked for them.
        wanted: the row's share of the step's logits, from and to.
    """

    hidden: Tensor
    queries: Tensor | None
    wanted: tuple[int, int]
    step: StepLogits

    @property
    def logits(self) -> Tensor | None:
        """[wanted tokens, vocabulary] in the dtype of the model, or None if none were wanted."""
        start, end = self.wanted
        return self.step.rows(start, end) if end > start else None
