"""Referential Injection: a thought's KV beside the River, at virtual positions that end at the River's current one.

The thought is forwarded in the River's context into a buffer of its own. The River's tokens, positions and KV bytes
stay what they were; later tokens also attend to the buffer. The Gate judges the thought between the two steps.
"""

from __future__ import annotations

from warpcortex_cli.engine.river import Aside, River
from warpcortex_cli.engine.stream import Stream
from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.memory.tail import TailView
from warpcortex_cli.prism.rows import Row


def virtual_positions(position: int, tokens: int) -> list[int]:
    """`tokens` positions ending just before `position`; none is negative, so a very early aside starts at 0."""
    first = max(0, position - tokens)
    return [min(first + i, max(position - 1, i)) for i in range(tokens)]


class Injection:
    """A thought on its way into the River: its tokens, and the row that computes their KV."""

    def __init__(self, stream: Stream, river: River) -> None:
        self.stream = stream
        self.text = stream.role.injected_as.format(thought=stream.thought)
        self.ids = river.prism.encode(self.text)
        self.positions = virtual_positions(river.position, len(self.ids))
        self.tail = river.prism.new_tail(len(self.ids))
        # The length of what it reads is fixed here: a River token of the same step is not seen.
        self._reads: tuple[Segment | TailView, ...] = (river.tail.view(river.position), *river.beside())

    def row(self) -> Row:
        return Row(tokens=self.ids, positions=self.positions, tail=self.tail, reads=self._reads, logits="none")

    def aside(self) -> Aside:
        """The finished aside; its KV is copied out of the working buffer."""
        return Aside(self.stream.id, self.stream.thought, self.tail.freeze(0, self.tail.length))

    def release(self) -> None:
        self.tail.release()
