"""A Stream: one task, a short private tail of KV, and exactly one end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import re2
import torch

from warpcortex_cli.engine.sampling import Sampler
from warpcortex_cli.engine.text import TextBuilder
from warpcortex_cli.engine.thinking import Thoughtful
from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.memory.tail import Tail
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row, RowResult
from warpcortex_cli.profile import Role
from warpcortex_cli.synapse.snapshot import Synapse

_LEAST_SURE = 3  # tokens of a thought that its certainty is the mean of
FINAL = frozenset({"injected", "rejected", "expired", "cancelled", "failed"})


class Stream:
    """Life of a side agent: queued -> thinking (-> parked -> thinking) -> gating -> one of `FINAL`, from any of them.

    Its tail holds, in this order: the focus tokens copied out of the River at their own positions (unless its prompt
    shows them), the prompt, and what it writes. `pending` is what remains to be prefilled. Making one does no work that
    could fail: that begins with its admission.
    """

    def __init__(
        self, number: int, role: Role, groups: dict[str, str], prism: Prism, sampler: Sampler, now: float
    ) -> None:
        self.id = number
        self.role = role
        self.task = groups["task"].strip()
        self._groups = groups
        self.prism = prism
        self.sampler = sampler
        self.spawned = now
        self.ended: float | None = None
        self.state = "queued"
        self.synapse: Synapse | None = None
        self._told: Segment | None = None
        self.tail: Tail | None = None
        self.position = 0
        self.focus_tokens: tuple[int, ...] = ()
        self.landmarks = 0
        self.pending: list[int] = []
        self._prompt: list[int] = []
        self.builder = TextBuilder(prism)
        self._opened = bool(prism.chat.opened(thinking=False))
        self._hidden: torch.Tensor | None = None
        self.thought = ""
        self.log_probabilities: list[float] = []  # of what it wrote, where the Gate asks for them
        self.gate_score: float | None = None
        self.reason = ""
        self.kv_bytes = 0  # of its tail, in the end of the last one that it had

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def tokens(self) -> int:
        """Tokens it has written."""
        return len(self.builder.ids)

    @property
    def seen(self) -> list[int]:
        """The tokens that a repetition penalty counts: its prompt and what it has written."""
        return [*self._prompt, *self.builder.ids] if self.sampler.penalizes else []

    @property
    def focus(self) -> int:
        """Tokens of its focus set."""
        return len(self.focus_tokens)

    def instruction(self, focus: str = "") -> str:
        """What it is told, with the sentences of its focus where the role's prompt has a place for them."""
        drop = self.role.drop
        asked = re2.sub(drop, "", self.task).strip() if drop else self.task
        return self.role.prompt.format(**{**self._groups, "task": asked or self.task, "focus": focus}).strip()

    def start(
        self, tail: Tail, synapse: Synapse | None, told: Segment | None, prompt: list[int], focus: Sequence[int] = ()
    ) -> None:
        """Admits the Stream. `told`: the beginning of its prompt, where others of its role are told the same; `focus`:
        River tokens that it may read besides landmarks.
        """
        shared = told.tokens if told else 0
        self.tail, self.synapse, self._told, self.pending = tail, synapse, told, prompt[shared:]
        self._prompt = prompt
        self.position, self.focus_tokens = (synapse.position if synapse else 0) + shared, tuple(focus)
        self.landmarks = synapse.landmarks if synapse else 0
        self.kv_bytes = tail.nbytes
        self.state = "thinking"

    def park(self, nbytes: int) -> None:
        """Gives its room back; its KV is kept elsewhere, in `nbytes`. What it shares with others it goes on holding."""
        assert self.tail is not None
        self.tail.release()
        self.tail, self.kv_bytes, self.state = None, nbytes, "parked"

    def resume(self, tail: Tail) -> None:
        """Goes on where it was parked, with its KV in another tail."""
        self.tail, self.kv_bytes, self.state = tail, tail.nbytes, "thinking"

    @property
    def reads(self) -> tuple[Segment, ...]:
        """What its rows attend to beside its tail."""
        landmarks = (self.synapse.segment,) if self.synapse and self.synapse.landmarks else ()
        return (*landmarks, self._told) if self._told else landmarks

    def row(self, chunk: int, weighed: bool) -> Row:
        """Up to `chunk` tokens of the prompt, or the token written last; `weighed` if the next one will be."""
        assert self.tail is not None
        tokens, self.pending = self.pending[:chunk], self.pending[chunk:]
        row = Row(
            tokens=tokens,
            positions=list(range(self.position, self.position + len(tokens))),
            tail=self.tail,
            reads=self.reads,
            logits="none" if self.pending else self.sampler.asks,
            total=weighed,
        )
        self.position += len(tokens)
        return row

    def absorb(self, result: RowResult) -> None:
        if self.tokens:
            # A copy: the result is a view that would keep the whole step's states alive.
            self._hidden = result.hidden[-1:].clone()

    def write(self, token: int) -> str:
        """Takes a sampled token as its next one; returns the new text."""
        self.pending = [token]
        return self.builder.add(token)

    def weigh(self, token: int, result: RowResult) -> None:
        """Notes how probable the token was that was sampled from a result."""
        if result.newest is not None:
            scores = result.newest.float()
            self.log_probabilities.append(float(scores[token] - scores.logsumexp(0)))
        elif result.largest is not None and result.total is not None:  # which is the token
            self.log_probabilities.append(result.largest[0] - result.total)

    @property
    def spent(self) -> bool:
        """Whether its token budget, its tail or the model's positions are used up."""
        assert self.tail is not None
        room = min(self.tail.capacity - self.tail.length, self.prism.max_context - self.position)
        return self.tokens >= self.role.max_tokens or room <= 0

    def conclude(self) -> bool:
        """Reads the thought out of the finished text, less what the model thinks first; False when there is none."""
        self.builder.finish()
        text = Thoughtful(self.prism.chat.thinking, self._opened).shown(self.builder.text)
        if self.role.thought is None:
            self.thought = text.strip()
        else:
            for match in _thought_pattern(self.role.thought).finditer(text):
                named = match.groupdict().get("thought")
                self.thought = (match.group(0) if named is None else named).strip()
        return bool(self.thought)

    def hidden(self) -> torch.Tensor:
        """The last hidden state of the newest token that it wrote, [1, hidden_size]; [0, hidden_size] before that."""
        return torch.zeros(0, self.prism.hidden_size) if self._hidden is None else self._hidden

    def rest(self) -> None:
        """Gives its tail back: its thought is written. Many may wait at the Gate at once."""
        tail, self.tail = self.tail, None
        if tail is not None:
            tail.release()

    def release(self) -> None:
        """Gives all back; the Synapse is freed with the last Stream that reads it."""
        self.synapse = self._told = self._hidden = None
        self.rest()


@lru_cache
def _thought_pattern(thought: str) -> re2._Regexp[str]:
    return re2.compile(f"(?m){thought}")


def certainty(log_probabilities: Sequence[float]) -> float:
    """How sure a Stream was of what it wrote: the geometric mean of its least probable tokens, 0..1."""
    least = sorted(log_probabilities)[:_LEAST_SURE]
    return math.exp(sum(least) / len(least)) if least else 1.0
