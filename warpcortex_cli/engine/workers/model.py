"""`work: model`: a Stream writes with the model, in rows of the step, over a short private tail of KV."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from warpcortex_cli.engine.brief import Brief, Thought
from warpcortex_cli.engine.instructions import Instructions, before_fields
from warpcortex_cli.engine.sampling import Sampler, SamplingError, sample
from warpcortex_cli.engine.text import TextBuilder
from warpcortex_cli.engine.thinking import Thoughtful
from warpcortex_cli.engine.workers.base import Host, Work, Worker, WorkError, picked
from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.memory.tail import Tail, TailPool
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.reads import Reads
from warpcortex_cli.prism.rows import Row, RowResult
from warpcortex_cli.profile import Limits, Profile, Role, Sampling

LARGEST_SLAB = 128  # tails in one slab attend in one batched product
PREFILL_CHUNK = 128  # tokens of a prompt in one step
_SEED_STRIDE = 1_000_003


class ModelWorker(Worker):
    """Runs Streams that write. Owns their tails and the instructions that they share."""

    seated: ClassVar[bool] = True
    reads: ClassVar[bool] = True

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.instructions = Instructions(host.prism)
        self._pool: TailPool | None = None
        self._limits = Limits()
        self._sampling = Sampling()

    def use(self, profile: Profile) -> None:
        self._limits, self._sampling = profile.limits, profile.stream_sampling

    def take(self, brief: Brief) -> Writing:
        return Writing(self, brief)

    def forget(self) -> None:
        self.instructions.forget()

    def sampler(self, number: int) -> Sampler:
        """A Stream's own sampler, so that batching does not change what it writes."""
        return Sampler.of(self._sampling, self.host.prism.sampling, self.host.seed * _SEED_STRIDE + number)

    def new_tail(self) -> Tail:
        """An empty tail for a Stream."""
        capacity, stored = self._limits.stream_tail_tokens, self._limits.stream_tail_stored
        if self._pool is None or (self._pool.capacity, self._pool.stored) != (capacity, stored):
            self._pool = self.host.prism.new_pool(capacity, min(self._limits.streams, LARGEST_SLAB), stored)
        return self._pool.take()

    @property
    def tails_in_use(self) -> int:
        return self._pool.taken if self._pool else 0


class Writing(Work):
    """One Stream's tail, prompt and text.

    Its tail holds, in this order: the focus tokens, copied from the River at their own positions (unless the prompt
    shows them as text), the prompt, and what it writes. `pending` are the tokens to prefill.
    """

    def __init__(self, worker: ModelWorker, brief: Brief) -> None:
        self.number = brief.number
        self.sampler = Sampler()
        self.shared: Segment | None = None  # the start of its prompt, if Streams of its role share it
        self.position = 0
        self.pending: list[int] = []
        self.builder = TextBuilder(worker.host.prism)
        self.log_probabilities: list[float] = []
        self._worker = worker
        self._brief: Brief | None = brief  # its Synapse is freed with the last Stream that holds it
        self._role = brief.role
        self._weighed = brief.weighed
        self._hidden: torch.Tensor | None = None
        self._over = ""  # why it stopped writing

    # -- life cycle -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Takes a tail and copies the focus tokens into it.

        Raises:
            ValueError: its task does not fit into the tail.
        """
        brief, worker = self._brief, self._worker
        assert brief is not None
        self.sampler = worker.sampler(self.number)
        prompt = list(brief.prompt)
        alike = turn(self._prism, brief.role, before_fields(brief.role.prompt))
        self.shared = worker.instructions.shared(brief.role, alike, prompt, brief.synapse)
        shared = self.shared.tokens if self.shared else 0
        self.pending = prompt[shared:]
        self.position = (brief.synapse.position if brief.synapse else 0) + shared
        self.tail = tail = worker.new_tail()
        self.kv_bytes = tail.nbytes
        if brief.copied:
            worker.host.river.copy(brief.copied, tail)
        if len(self.pending) >= tail.capacity - tail.length:
            raise ValueError(
                f"the task is too long: {len(self.pending)} tokens do not fit into a tail of {tail.capacity}"
            )

    def poll(self) -> Thought | None:
        if not self._over:
            return None
        return Thought(self._concluded(), self._over, tuple(self.log_probabilities), self._hidden)

    def so_far(self) -> Thought | None:
        text = self._picked(self.builder.text.rpartition("\n")[0])
        return Thought(text, "", tuple(self.log_probabilities), self._hidden) if text else None

    def close(self) -> None:
        """Frees everything but the text."""
        self._brief = self.shared = self._hidden = None
        tail, self.tail = self.tail, None
        if tail is not None:
            tail.release()

    def leave(self, nbytes: int) -> None:
        """Parks: frees its tail, whose KV is stored elsewhere in `nbytes` bytes. Keeps the shared segment."""
        assert self.tail is not None
        self.tail.release()
        self.tail, self.kv_bytes = None, nbytes

    def resume(self, tail: Tail) -> None:
        """Continues after parking, with its KV in another tail."""
        self.tail, self.kv_bytes = tail, tail.nbytes

    # -- rows ---------------------------------------------------------------------------------------------------

    @property
    def reads(self) -> Reads:
        """What its rows read besides its tail."""
        synapse = self._brief.synapse if self._brief else None
        parts: list[tuple[str, Segment]] = []
        if synapse and synapse.landmarks:
            parts.append(("landmarks", synapse.segment))
        if self.shared:
            parts.append(("that others share", self.shared))
        room = self.tail.capacity if self.tail else 0
        bound = sum(p.tokens for _, p in parts) + room
        return Reads(tuple(parts), self.position, bound, self._role.adapter)

    @property
    def tokens(self) -> int:
        return len(self.builder.ids)

    @property
    def text(self) -> str:
        return self.builder.text

    @property
    def wanted(self) -> int:
        return min(len(self.pending), PREFILL_CHUNK) if self.tail is not None else 0

    def row(self, room: int) -> Row:
        """A row of up to `room` prompt tokens, or of the last written token."""
        assert self.tail is not None
        chunk = min(room, self.wanted)
        tokens, self.pending = self.pending[:chunk], self.pending[chunk:]
        logits: Literal["none", "largest", "last"] = "none" if self.pending else self.sampler.asks
        row = self.reads.row(tokens, self.tail, logits, logsumexp=self._weighed)
        self.position += len(tokens)
        return row

    def absorb(self, result: RowResult) -> str | None:
        """Chooses its next token.

        Raises:
            WorkError: no token can be chosen, or hidden states are not finite.
        """
        if self.tokens:
            # A copy: the result is a view that would keep the whole step's states alive.
            self._hidden = result.hidden[-1:].clone()
        if result.largest is None:
            if not torch.isfinite(result.hidden).all():  # quantized KV would hide it from the logits
                raise WorkError("the hidden states of its prompt are not finite")
            return None
        token = sample(result.newest, result.largest, self.sampler, self.seen, self.builder.ids)
        if isinstance(token, SamplingError):
            raise WorkError(str(token))
        if token in self._prism.eos_ids:
            self._over = "it ended without a thought"
            return None
        if self._weighed:
            self.weigh(token, result)
        new = self.write(token)
        if self.spent:
            self._over = "its token budget was used up before a thought was finished"
        return new

    # -- text ---------------------------------------------------------------------------------------------------

    @property
    def seen(self) -> list[int]:
        """The tokens that a repetition penalty counts: its prompt and what it has written."""
        if not self.sampler.penalizes or self._brief is None:
            return []
        return [*self._brief.prompt, *self.builder.ids]

    @property
    def spent(self) -> bool:
        """Whether its token limit, its tail or the model's context is used up."""
        assert self.tail is not None
        room = min(self.tail.capacity - self.tail.length, self._prism.max_context - self.position)
        return self.tokens >= self._role.max_tokens or room <= 0

    def write(self, token: int) -> str:
        """Appends a token; returns the new text."""
        self.pending = [token]
        return self.builder.add(token)

    def weigh(self, token: int, result: RowResult) -> None:
        """Records the log-probability of the token sampled from a result."""
        if result.newest is not None:
            scores = result.newest.float()
            self.log_probabilities.append(float(scores[token] - scores.logsumexp(0)))
        elif result.largest is not None and result.logsumexp is not None:  # of that token
            self.log_probabilities.append(result.largest[0] - result.logsumexp)

    def _concluded(self) -> str:
        """The thought in the finished text, without the model's thinking block; empty if there is none."""
        self.builder.finish()
        return self._picked(self.builder.text)

    def _picked(self, text: str) -> str:
        chat = self._prism.chat
        return picked(self._role, Thoughtful(chat.thinking, bool(chat.opened(thinking=False))).shown(text))

    @property
    def _prism(self) -> Prism:
        return self._worker.host.prism


def turn(prism: Prism, role: Role, words: str) -> list[int]:
    """A Stream's prompt as a user turn, in tokens.

    With a Synapse it follows and closes the River's unfinished answer. Thinking is turned off if the template allows,
    because a Stream has few tokens.
    """
    return prism.chat.turn(words, thinking=False) if role.synapse else prism.chat.prompt(words, thinking=False)
