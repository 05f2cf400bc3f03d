"""Referential Injection: a thought's KV beside the River, at virtual positions that end at the River's current one.

The thought is forwarded in the River's context into a buffer of its own. The River's tokens, positions and KV bytes
stay what they were; later tokens also attend to the buffer. The Gate judges the thought between the two steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from warpcortex_cli.engine.river import Aside, River
from warpcortex_cli.engine.sampling import chosen
from warpcortex_cli.engine.stream import Stream
from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.memory.tail import Tail, TailView
from warpcortex_cli.prism.rows import Row, RowResult


def virtual_positions(position: int, tokens: int) -> list[int]:
    """`tokens` positions ending just before `position`; none is negative, so a very early aside starts at 0."""
    first = max(0, position - tokens)
    return [min(first + i, max(position - 1, i)) for i in range(tokens)]


class Injection:
    """A thought on its way into the River: its tokens, the row that computes their KV, and one to compare it with."""

    def __init__(self, stream: Stream, river: River) -> None:
        self.stream = stream
        self._river = river
        self.by_itself: Tensor | None = None  # how likely its tokens are without the River, once it is known
        self.text = stream.role.injected_as.format(thought=stream.thought)
        self.ids = river.prism.encode(self.text)
        self.positions = virtual_positions(river.position, len(self.ids))
        self._tail: Tail | None = None  # made when its turn comes: many thoughts may wait at once
        # The length of what it reads is fixed here: a River token of the same step is not seen.
        self._reads: tuple[Segment | TailView, ...] = (river.tail.view(river.tail.length), *river.beside())

    def row(self, weigh: bool) -> Row:
        """The thought in the River's context. `weigh`: with the logits that say how likely it is there."""
        if self._tail is None:
            self._tail = self._river.prism.new_tail(len(self.ids))
        return Row(self.ids, self.positions, self._tail, self._reads, "all" if weigh else "none")

    def alone(self) -> Row:
        """The thought by itself, which says how likely it is without the River. Its KV is not kept."""
        opening = self._river.prism.chat.opening("")
        tokens = [*opening, *self.ids]
        tail = self._river.prism.new_tail(len(tokens))
        return Row(tokens, list(range(len(tokens))), tail, logits="all")

    def likelihood(self, result: RowResult) -> Tensor | None:
        """Log-probabilities of the thought's tokens after the first, [n - 1] nats, from either row's result."""
        if result.logits is None or len(self.ids) < 2:
            return None
        scores = torch.log_softmax(result.logits[-len(self.ids) : -1].float(), -1)
        return chosen(scores, self.ids[1:])

    def aside(self) -> Aside:
        """The finished aside, after its row was forwarded; its KV is copied out of the working buffer."""
        assert self._tail is not None
        return Aside(self.stream.id, self.stream.thought, self._tail.freeze(0, self._tail.length))

    def release(self) -> None:
        if self._tail is not None:
            self._tail.release()
            self._tail = None
