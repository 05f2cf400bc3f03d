"""What agents give to a step of the model, and what they get back."""

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
        logits: for no token, the last one, or all; "largest": only the last token's largest logit, for greedy sampling.
        queries: whether to return the tokens' rotated queries.
        logsumexp: whether to return `logsumexp`.
        adapter: the LoRA adapter that it is computed with, one that `Prism.open_adapter` has read.
    """

    tokens: list[int]
    positions: list[int]
    tail: Tail
    reads: tuple[Segment | TailView, ...] = ()
    logits: Literal["none", "largest", "last", "all"] = "last"
    queries: bool = False
    logsumexp: bool = False
    adapter: str | None = None


@dataclass(frozen=True)
class RowResult:
    """A row's result.

    Attributes:
        logits: [wanted tokens, vocabulary] in the model's dtype; None if none, or only the largest, were asked for.
        largest: the last token's largest logit and its index; NaN if any logit is. None if no logits were asked for.
        logsumexp: over the last token's logits, if asked for and `logits` is None.
        hidden: [tokens, hidden_size], after the model's last norm.
        queries: [layers, heads, tokens, head_dim], rotated, if asked for.
    """

    logits: Tensor | None
    largest: tuple[float, int] | None
    logsumexp: float | None
    hidden: Tensor
    queries: Tensor | None

    @property
    def newest(self) -> Tensor | None:
        """Logits of the last token [vocabulary], or None."""
        return None if self.logits is None else self.logits[-1]
