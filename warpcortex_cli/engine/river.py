"""The River: the main agent, which owns the growing context and the thoughts injected into it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

import torch

from warpcortex_cli.engine.asides import Aside, Asides
from warpcortex_cli.engine.past import Past
from warpcortex_cli.engine.sampling import AS_USUAL, ReplyOptions, Sampler, SamplingError, sample
from warpcortex_cli.engine.states import RIVER_MOVES, RiverState, moved
from warpcortex_cli.engine.text import Sentences, words_of
from warpcortex_cli.engine.turn import Asked
from warpcortex_cli.errors import ModelError, RunError
from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.memory.store import BLOCK
from warpcortex_cli.memory.tail import Tail, TailView
from warpcortex_cli.pattern import compile_re2
from warpcortex_cli.prism.chat_format import Message
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.reads import Reads
from warpcortex_cli.prism.rows import Row, RowResult
from warpcortex_cli.profile import Profile, RiverSettings, Sampling

PREFILL_CHUNK = 512
QUERY_WINDOW = 32  # newest tokens, whose queries show what the River is about
_AT_WORK = frozenset({RiverState.READING, RiverState.PREFILL, RiverState.WRITING})
_ASKED = 128  # last tokens of a turn, which say what is asked


def check_context(prism: Prism, profile: Profile) -> None:
    """Refuses a model whose context is too short for the River of a profile.

    Raises:
        ModelError: with the context that would be enough.
    """
    opening = opening_of(prism, profile.river)
    if _has_room(prism.max_context, profile, opening):
        return
    enough = next(n for n in count(prism.max_context) if _has_room(n, profile, opening))
    raise ModelError(
        f"{prism.name} has a context of {prism.max_context} tokens, and the profile {profile.name} needs {enough}.",
        "Choose a model with a longer context.",
    )


def opening_of(prism: Prism, settings: RiverSettings) -> int:
    """Tokens of the system prompt, and of the examples that always stand behind it."""
    return prism.chat.pinned(settings.prompt, shown(settings))


def shown(settings: RiverSettings, words: str | None = None) -> list[Message]:
    """The examples as turns of a conversation. A River with an adapter needs none: it has learnt from thousands.

    Args:
        words: those that stand before these words of a user; None: those that stand before the whole conversation.
    """
    if settings.examples_when:
        wanted = words is not None and all(compile_re2(p).search(words) for p in settings.examples_when)
    else:
        wanted = words is None
    examples = settings.examples if wanted and settings.adapter is None else ()
    return [m for e in examples for m in (Message("user", e.user), Message("assistant", e.assistant))]


def _has_room(context: int, profile: Profile, opening: int) -> bool:
    """Whether a full tail can always give up a block and still keep a third of itself."""
    base = min(opening, context // 8) + min(profile.memory.recall, context // 4)
    room = context - base - min(profile.river.max_tokens, context // 4)
    limit = min(profile.memory.window or room, room)
    return limit + 1 - _chunk(limit) >= limit // 3 + BLOCK


def _chunk(limit: int) -> int:
    """Tokens of a row: as many as fit beside the third that stays, less a block."""
    return max(1, min(PREFILL_CHUNK, limit // 2 - BLOCK))


@dataclass(frozen=True)
class Mark:
    """A point to return to. `tokens`: how many the whole River has there."""

    tokens: int
    asides: tuple[Aside, ...]
    turns: int


class River:
    """The main agent's state between steps.

    Its newest tokens are in its tail, at positions `past.base`, `past.base` + 1, ...; asides stand beside them and
    never move them; older tokens are in its past. The reply that it writes is a `Turn`.

    Attributes:
        holding: how many of the last tokens of a prompt are held back for now.
        options: what is asked of its reply.
        mixed_from: the number of the first token that was read beside a thought; None: there is none.
    """

    def __init__(self, prism: Prism, profile: Profile, seed: int) -> None:
        check_context(prism, profile)
        self.prism = prism
        self.tail = prism.new_tail(None)
        self.sentences = Sentences(prism)
        self.past = Past(prism, profile.memory, self.sentences)
        self.asides = Asides(prism, self.position_of)
        self.pending: deque[int] = deque()
        self.holding = 0
        self._prompted = 0  # how many of the first ones are prompt, not written by itself
        self._state = RiverState.IDLE
        self._seed = seed
        self._sampling: Sampling | None = None
        self.sampler = Sampler()
        self.options = AS_USUAL
        self.mixed_from: int | None = None
        self.hidden = torch.zeros(0, prism.hidden_size)  # last hidden state of its newest token, [<= 1, hidden_size]
        self._queries: list[torch.Tensor] = []  # of its newest rows
        self.unchanged = 0  # first tokens that have not changed since they were saved
        self.use(profile)

    @property
    def state(self) -> RiverState:
        return self._state

    @state.setter
    def state(self, new: RiverState) -> None:
        self._state = moved(self._state, new, RIVER_MOVES)

    @property
    def idle(self) -> bool:
        """Whether it has nothing to read or write."""
        return self._state == RiverState.IDLE

    def use(self, profile: Profile) -> None:
        """Applies the River's part of a profile. Its context stays, laid out for the new budgets.

        Stored blocks keep their format.
        """
        if self._sampling != profile.sampling:
            self._sampling = profile.sampling
            self.sampler = Sampler.of(profile.sampling, self.prism.sampling, self._seed)
        self.settings = profile.river
        self._window = profile.memory.window
        self.opened = self.prism.chat.opened(self.settings.thinking)
        self.past.use(profile.memory, self.settings.adapter)
        self.lay_out()

    def asked(self, options: ReplyOptions) -> None:
        """Takes what is asked of its next reply."""
        self.options = options
        if options.seed is not None:
            assert self._sampling is not None
            self.sampler = Sampler.of(self._sampling, self.prism.sampling, options.seed)
        self.sampler.change = options.changed if options.changes else None

    @property
    def position(self) -> int:
        """The position of the next token."""
        return self.past.base + self.tail.length

    def position_of(self, token: int) -> int:
        """The position of a token, by its number; for one in the past, where it would stand before the base."""
        return self.past.base + token - self.past.tokens

    @property
    def length(self) -> int:
        """The number of its tokens, those in its past included."""
        return self.past.tokens + self.tail.length

    @property
    def shareable(self) -> int:
        """How many of its first tokens have keys and values that depend on these tokens alone."""
        if self.past.tokens:  # what has been recalled stood beside the others
            return 0
        return self.tail.length if self.mixed_from is None else self.mixed_from

    def inject(self, asides: Iterable[Aside]) -> None:
        """Makes these thoughts what its next tokens are read beside. Raises as `Asides.keep` does."""
        self.asides.keep(asides)
        if self.mixed_from is None:
            self.mixed_from = self.length

    def queue(self, ids: list[int]) -> None:
        """Tokens to prefill before the River writes on."""
        self.pending.extend(ids)
        self._prompted += len(ids)

    def drop_pending(self) -> tuple[list[int], int]:
        """Drops the tokens not read yet. Returns them, and how many of the last ones it wrote itself."""
        left, own = list(self.pending), len(self.pending) - self._prompted
        self.pending.clear()
        self._prompted, self.holding = 0, 0
        return left, own

    # -- rows ---------------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> int:
        """Tokens of its row of the next step; 0: it takes no part."""
        at_work = self.state in _AT_WORK and self.pending
        return max(0, min(self._chunk, len(self.pending) - self.holding)) if at_work else 0

    def row(self, room: int = PREFILL_CHUNK) -> Row:
        """Its row of the next step, with at most `room` tokens."""
        tokens = [self.pending.popleft() for _ in range(min(self.wanted, room))]
        assert self.position + len(tokens) <= self.prism.max_context, "a step reads more than its tail may hold"
        silent = self.pending or self.state == RiverState.READING
        asks: Literal["largest", "last"] = "last" if self.options.likeliest is not None else self.sampler.asks
        return self.reads().row(tokens, self.tail, "none" if silent else asks, queries=True)

    def absorb(self, row: Row, result: RowResult) -> None:
        """Takes its row's result: the tokens are in the cache now."""
        prompted = min(self._prompted, len(row.tokens))
        self._prompted -= prompted
        self.sentences.extend(row.tokens[:prompted])
        self.sentences.extend(row.tokens[prompted:], own=True)
        self.hidden = result.hidden[-1:].clone()  # a view would keep the whole step's states alive
        if result.queries is not None:
            self._queries.append(result.queries[:, :, -QUERY_WINDOW:].clone())
            while sum(q.shape[2] for q in self._queries[1:]) >= QUERY_WINDOW:
                self._queries.pop(0)

    def newest_like(self, other: River) -> None:
        """Takes over what another one's newest rows gave, for the same tokens."""
        self.hidden, self._queries = other.hidden.clone(), list(other._queries)

    @property
    def queries(self) -> torch.Tensor | None:
        """The newest, rotated, [layers, heads, <= QUERY_WINDOW, head_dim]."""
        if len(self._queries) > 1:
            self._queries = [torch.cat(self._queries, 2)[:, :, -QUERY_WINDOW:]]
        return self._queries[0] if self._queries else None

    def reads(self) -> Reads:
        """What its next row reads beside its tail: its past as one segment, and its asides as another."""
        past = (("of its past", part) for part in self.past.working())
        thoughts = (("of thoughts", part) for part in self.asides.view())
        bound = self.bound + self.asides.tokens
        return Reads((*past, *thoughts), self.position, bound, self.settings.adapter)

    def reads_behind(self, tokens: int) -> Reads:
        """What a row of others' `tokens` reads behind all that the River has read: its tail, too.

        It is fixed now: when the River moves its tail on, the old tail stays as it is.
        """
        beside = self.reads()
        parts = (("of its tail", self.tail.view(self.tail.length)), *beside.parts)
        return replace(beside, parts=parts, bound=beside.bound + tokens)

    def beside(self) -> tuple[Segment | TailView, ...]:
        """The segments of `reads`."""
        return self.reads().segments

    @property
    def bound(self) -> int:
        """The most tokens that a row attends to, its own included, without asides."""
        return self.past.base + self.limit

    # -- the past -----------------------------------------------------------------------------------------------

    @property
    def limit(self) -> int:
        """Tokens that the tail may hold. Room for a reply is left free in the model's context."""
        room = self.prism.max_context - self.past.base - min(self.settings.max_tokens, self.prism.max_context // 4)
        return min(self._window or room, room)

    @property
    def _chunk(self) -> int:
        return _chunk(self.limit)

    @property
    def full(self) -> bool:
        """Whether the tail has to make room before the next row."""
        return bool(self.pending) and self.tail.length + min(self._chunk, len(self.pending)) > self.limit

    def make_room(self, stays: int | None = None) -> None:
        """Moves all but the newest tokens of the tail into the past. Readers of the old tail go on reading it.

        Args:
            stays: how many of them stay at least; None: a third of what the tail may hold.
        """
        stays = self.limit // 3 if stays is None else stays
        if self.tail.length - stays < BLOCK:
            if self.full:
                said = f"a context of {self.prism.max_context} tokens is too short for what is to be read."
                raise RunError(said, "Choose another model.")
            return
        if not self.past.tokens:
            self.past.begin(opening_of(self.prism, self.settings))
        leaving = (self.tail.length - stays) // BLOCK * BLOCK
        self.tail, by = self.past.take(self.tail, leaving)
        self._moved(by)

    def lay_out(self) -> None:
        """Moves everything to its place under the current budgets."""
        by = self.past.lay_out()
        if by:
            self.tail = self.tail.without(0, self.prism.rope, by)
            self._moved(by)
        if self.tail.length > self.limit:
            self.make_room()

    def _moved(self, by: int) -> None:
        """Updates what depends on the tail after it was moved by `by` positions or lost its first tokens."""
        self.unchanged = min(self.unchanged, self.past.tokens)
        self.asides.keep(self.asides)
        if by and self.queries is not None:
            turns = torch.full((self.queries.shape[2],), by, device=self.queries.device)
            self._queries = [torch.stack(self.prism.rope.turn(list(self.queries), turns))]

    def queries_of(self, ids: list[int], context: int) -> torch.Tensor:
        """Rotated queries of tokens, read behind the first `context` tokens of the tail and not kept.

        Returns:
            [layers, heads, tokens, head_dim], for positions from `past.base` + `context` on.
        """
        probe = self.prism.new_tail(len(ids))
        past = (("of its past", part) for part in self.past.working())
        parts: tuple[tuple[str, Segment | TailView], ...] = (*past, ("of its tail", self.tail.view(context)))
        reads = Reads(parts, self.past.base + context, self.bound + len(ids), self.settings.adapter)
        row = reads.row(ids, probe, "none", queries=True)
        queries = self.prism.forward([row])[0].queries
        probe.release()
        assert queries is not None
        return queries

    def look_for(
        self, words: Sequence[int], queries: torch.Tensor, first: int, budget: int, among: range, least: float = 0.0
    ) -> list[int]:
        """As `Past.look_for`, for rotated queries at positions from `first` on, in past and tail."""
        plain = self.unrotated(queries, first)
        if among.stop <= self.past.tokens:
            return self.past.look_for(words, plain, budget, among, least)
        return self.past.look_for(words, plain, budget, among, least, self.tail)

    def unrotated(self, queries: torch.Tensor, first: int) -> list[torch.Tensor]:
        """Queries [layers, heads, W, head_dim] at positions from `first` on, with their rotation undone."""
        positions = torch.arange(first, first + queries.shape[2], device=queries.device)
        return self.prism.rope.unrotated(list(queries), positions)

    def recall(self, ids: list[int]) -> Asked:
        """Recalls what a turn asks for, before the turn is read."""
        self.past.brought.clear()
        if not self.past.tokens:
            return Asked()
        newest = ids[-min(_ASKED, self.prism.max_context - self.position) :]
        queries = self.unrotated(self.queries_of(newest, self.tail.length), self.position)
        asked = Asked(tuple(words_of(self.prism, newest)), queries)
        self.past.recall(self._answering(asked, self.past.budget))
        return asked

    def recall_again(self, asked: Asked) -> None:
        """Recalls what its newest words ask for, and what the turn asked for."""
        if not self.past.tokens or self.queries is None:
            return
        newest = self.sentences.words.numbers[-QUERY_WINDOW:].tolist()
        first, budget = self.position - self.queries.shape[2], self.past.budget
        found = self.look_for(newest, self.queries, first, budget // 2, range(self.past.tokens))
        self.past.recall(sorted({*found, *self._answering(asked, budget - len(found))}))

    def _answering(self, asked: Asked, budget: int) -> list[int]:
        """Tokens of the past that the turn asks for."""
        return self.past.look_for(asked.words, asked.queries, budget, range(self.past.tokens))

    def copy(self, tokens: Sequence[int], into: Tail) -> None:
        """Copies tokens, by number, ascending, to a tail: at their positions or, from the past, before its base."""
        stored = [t for t in tokens if t < self.past.tokens]
        if stored:
            end = self.past.base
            found = self.past.gather(stored, torch.arange(end - len(stored), end, device=self.prism.device))
            into.append(list(found.keys), list(found.values), found.positions)
        rest = [t - self.past.tokens for t in tokens if t >= self.past.tokens]
        if rest:
            into.copy_from(self.tail, torch.tensor(rest))

    def choose(self, result: RowResult) -> int | SamplingError:
        """Its next token, chosen from the result of its last row."""
        assert result.largest is not None
        if not self.sampler.penalizes:
            return sample(result.newest, result.largest, self.sampler)
        ids = self.sentences.ids
        reply = ids[len(ids) - self.sentences.newest_own :]
        return sample(result.newest, result.largest, self.sampler, ids[self.past.tokens :], reply)

    # -- going back ---------------------------------------------------------------------------------------------

    def mark(self, turns: int) -> Mark:
        return Mark(self.length, tuple(self.asides), turns)

    def rewind(self, mark: Mark) -> None:
        """Returns to a mark: KV and asides are then what they were."""
        self.past.brought.clear()
        if mark.tokens < self.length:
            self.past.truncate(mark.tokens)
        if mark.tokens < self.past.tokens:
            self.past.give_back(self.tail, mark.tokens, self.limit // 3)
        else:
            self.tail.truncate(mark.tokens - self.past.tokens)
        self.sentences.truncate(mark.tokens)
        self.unchanged = min(self.unchanged, mark.tokens, self.past.tokens or mark.tokens)
        self.asides.keep(mark.asides)
        if self.mixed_from is not None and self.mixed_from >= mark.tokens:
            self.mixed_from = mark.tokens if len(self.asides) else None
        self.drop_pending()
        self.state = RiverState.IDLE
