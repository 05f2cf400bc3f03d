"""What an agent's rows attend to beside their own tail. The same value makes the rows and checks their bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.memory.tail import Tail, TailView
from warpcortex_cli.prism.rows import Row


@dataclass(frozen=True)
class Reads:
    """Segments in order, the position of the next token, and how much a row may attend to.

    Attributes:
        parts: the segments in the order of attention, each with a name for people.
        first: the position of the next token.
        bound: the most tokens that a row attends to, its tail and its own included.
        adapter: the LoRA adapter of whoever reads.
    """

    parts: tuple[tuple[str, Segment | TailView], ...]
    first: int
    bound: int
    adapter: str | None = None

    @property
    def segments(self) -> tuple[Segment | TailView, ...]:
        return tuple(segment for _, segment in self.parts)

    @property
    def tokens(self) -> int:
        """Tokens of all parts."""
        return sum(segment.tokens for _, segment in self.parts)

    def row(
        self,
        tokens: list[int],
        tail: Tail,
        logits: Literal["none", "largest", "last", "all"] = "last",
        *,
        positions: Sequence[int] | None = None,
        queries: bool = False,
        logsumexp: bool = False,
    ) -> Row:
        """A row of these tokens.

        Args:
            positions: of the tokens; None: from `first` on.

        Raises:
            AssertionError: it would attend to more than its bound. That is a bug.
        """
        read = self.tokens + tail.length + len(tokens)
        assert read <= self.bound, f"a row attends to {read} tokens: {self}"
        at = range(self.first, self.first + len(tokens)) if positions is None else positions
        return Row(tokens, list(at), tail, self.segments, logits, queries, logsumexp, self.adapter)

    def __str__(self) -> str:
        parts = [f"{segment.tokens:,} {name}" for name, segment in self.parts]
        return f"{' + '.join(parts) or 'nothing'}, at position {self.first:,}, at most {self.bound:,} tokens"
