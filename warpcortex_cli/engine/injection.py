"""Referential Injection: a thought's KV stands beside the River, at virtual positions that end where it was offered.

The thought is forwarded in the River's context into a buffer of its own. The River's tokens, positions and KV bytes do
not change; later tokens also attend to the buffer. The Gate judges the thought in between. If the River was promised
its speed, a thought is read a few tokens at a time, in the same steps as the River's own tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from warpcortex_cli.engine.asides import Aside, virtual_positions
from warpcortex_cli.engine.brief import Thought
from warpcortex_cli.engine.gate import gained
from warpcortex_cli.engine.river import River
from warpcortex_cli.engine.sampling import chosen
from warpcortex_cli.engine.stream import Stream
from warpcortex_cli.memory.tail import Tail
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.reads import Reads
from warpcortex_cli.prism.rows import Row, RowResult


class Reading:
    """Tokens that are read into a tail of their own, in one piece or in several.

    Args:
        logits: "all": to say how likely each token is; "last": to say what follows.

    Attributes:
        newest: logits of the last token that was read [vocabulary], if any were asked for.
    """

    def __init__(
        self,
        prism: Prism,
        tokens: list[int],
        positions: list[int],
        reads: Reads,
        logits: Literal["none", "last", "all"] = "none",
    ) -> None:
        self.tail: Tail | None = None  # made when it is needed: many thoughts may wait at once
        self.finite = True
        self.hidden = torch.zeros(0, prism.hidden_size)
        self._prism, self._tokens, self._positions, self._reads = prism, tokens, positions, reads
        self.newest: Tensor | None = None
        self._logits = logits
        self._read = 0
        self._scores: list[Tensor] = []

    @property
    def left(self) -> int:
        """Tokens still to be read."""
        return len(self._tokens) - self._read

    def row(self, room: int) -> Row:
        """The next tokens, at most `room`."""
        if self.tail is None:
            self.tail = self._prism.new_tail(len(self._tokens))
        piece = slice(self._read, self._read + room)
        return self._reads.row(self._tokens[piece], self.tail, self._logits, positions=self._positions[piece])

    def absorb(self, result: RowResult) -> None:
        """Takes the result of its last row."""
        first, self._read = self._read, self._read + len(result.hidden)
        self.finite = self.finite and bool(torch.isfinite(result.hidden).all())
        self.hidden = result.hidden[-1:].clone().float()  # a view would keep the whole step's states alive
        if result.newest is not None:
            self.newest = result.newest.clone()
        if result.logits is not None and self._logits == "all":
            following = self._tokens[first + 1 : self._read + 1]
            scores = torch.log_softmax(result.logits[: len(following)].float(), -1)
            self._scores.append(chosen(scores, following))

    def likelihood(self, tokens: int) -> Tensor | None:
        """Log-probabilities of the last `tokens` tokens, in nats; None if there are none, or none were asked for."""
        return torch.cat(self._scores)[-tokens:] if tokens > 0 and self._scores else None

    def release(self) -> None:
        """Releases its tail."""
        if self.tail is not None:
            self.tail.release()
            self.tail = None


class Injection:
    """A thought on its way into the River. It is read in the River's context and, if the Gate weighs it, also alone.

    Attributes:
        part: whether it is what its Stream has so far, which goes on.
        there: its reading in the River's context.
    """

    def __init__(self, stream: Stream, river: River, weighs: bool, part: Thought | None = None) -> None:
        self.stream = stream
        self.thought, self.part = part or stream.thought, part is not None
        prism = river.prism
        self._ids = prism.encode(stream.role.injected_as.format(thought=self.thought.text))
        self.positions = virtual_positions(river.position, len(self._ids))
        self._anchor = river.length
        reads = river.reads_behind(len(self._ids))  # it sees no River token of this step or a later one
        self.there = Reading(prism, self._ids, self.positions, reads, "all" if weighs else "none")
        self._readings = [self.there]
        if weighs:  # its KV is not kept
            alone = [*prism.chat.opening(""), *self._ids]
            nothing = replace(reads, parts=(), first=0, bound=len(alone))
            self._readings.insert(0, Reading(prism, alone, list(range(len(alone))), nothing, "all"))

    @property
    def left(self) -> int:
        """Tokens that are still to be read."""
        return sum(r.left for r in self._readings)

    def rows(self, room: int) -> list[tuple[Reading, Row]]:
        """The next rows, with at most `room` tokens, each with the reading that it is for."""
        found = []
        for reading in self._readings:
            if room > 0 and reading.left:
                found.append((reading, reading.row(room)))
                room -= len(found[-1][1].tokens)
        return found

    def absorb(self, reading: Reading, result: RowResult) -> None:
        """Takes the result of one of its rows."""
        reading.absorb(result)
        if reading is not self.there and not reading.left:
            reading.release()

    def gain(self) -> float | None:
        """How much more likely the thought is after the River than alone, in nats a token; None if not known."""
        if len(self._readings) < 2:
            return None
        by_itself, there = (r.likelihood(len(self._ids) - 1) for r in self._readings)
        return gained(there, by_itself)

    def aside(self) -> Aside:
        """The finished aside, still in its own buffer; `Asides.keep` puts it beside the others."""
        tail, self.there.tail = self.there.tail, None
        assert tail is not None and not self.there.left
        return Aside(self.stream.id, self.thought.text, self._anchor, tail.segment())

    def release(self) -> None:
        for reading in self._readings:
            reading.release()
