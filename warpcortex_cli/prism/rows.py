"""What agents hand to a step of the model, and what they get back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.memory.tail import Tail, TailView


@dataclass
class Row:
    """Tokens of one agent in a step.

    A token sees all of `reads`, its agent's whole tail, and the tokens before it in this row.

    Attributes:
        tokens: at least one token id.
        positions: a rotary position for each token; data, not the place in the cache.
        tail: where the tokens' keys and values are appended.
        reads: shared keys and values; rows with the same ones are computed together.
        logits: for no token, for the last one, or for all; or of the last one only what greedy sampling asks for.
        queries: whether to keep the tokens' rotated queries.
        logsumexp: whether the result's `logsumexp` is asked for.
    """

    tokens: list[int]
    positions: list[int]
    tail: Tail
    reads: tuple[Segment | TailView, ...] = ()
    logits: Literal["none", "largest", "last", "all"] = "last"
    queries: bool = False
    logsumexp: bool = False


@dataclass(frozen=True)
class RowResult:
    """What a row got out of a step.

    Attributes:
        logits: [wanted tokens, vocabulary] in the dtype of the model, or None if none were wanted, or not all of them.
        largest: the largest logit of the last token, and its place; NaN if one of them is. None if none were wanted.
        logsumexp: of all its logits, if asked for, where there are no logits to find it in.
        hidden: [tokens, hidden_size], behind the model's last norm.
        queries: [layers, heads, tokens, head_dim] rotated, if the row asked for them.
    """

    logits: Tensor | None
    largest: tuple[float, int] | None
    logsumexp: float | None
    hidden: Tensor
    queries: Tensor | None

    @property
    def newest(self) -> Tensor | None:
        """Logits of the last token [vocabulary], where there are any."""
        return None if self.logits is None else self.logits[-1]
