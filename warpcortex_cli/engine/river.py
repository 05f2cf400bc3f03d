"""The River: the main agent, which owns the growing context and whatever was injected into it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import re2
import torch

from warpcortex_cli.engine.router import Match, Router
from warpcortex_cli.engine.sampling import Sampler
from warpcortex_cli.engine.text import Sentences, TextBuilder
from warpcortex_cli.events import RiverText
from warpcortex_cli.memory.segment import Segment, join
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row, RowResult
from warpcortex_cli.profile import Profile

PREFILL_CHUNK = 512
QUERY_WINDOW = 32  # newest tokens whose queries say what the River is at


@dataclass(frozen=True)
class Aside:
    """An injected thought: its KV at virtual positions, and the Stream it came from."""

    stream: int
    text: str
    segment: Segment

    @property
    def tokens(self) -> int:
        return self.segment.tokens


@dataclass(frozen=True)
class Mark:
    """A point to return to."""

    tokens: int
    asides: tuple[Aside, ...]
    turns: int
    open_user: bool
    needs_close: bool


class River:
    """State of the main agent between steps.

    Its own tokens stand at positions 0, 1, 2, ...; asides stand beside them and never move them. `state` is one of
    "idle", "reading" (what it does not answer), "prefill", "writing", "waiting" (at a pause point) and "held" (at the
    end of its turn).
    """

    def __init__(self, prism: Prism, profile: Profile, seed: int) -> None:
        self.prism = prism
        self.tail = prism.new_tail(None)
        self.sentences = Sentences(prism)
        self.asides: list[Aside] = []
        self._joined_from: tuple[Segment, ...] = ()
        self._joined: tuple[Segment, ...] = ()
        self.pending: deque[int] = deque()
        self.state = "idle"
        self.sampler = Sampler(profile.sampling.temperature, profile.sampling.top_p, seed)
        self.hidden = torch.zeros(0, prism.hidden_size)  # last hidden state of its newest token, [<= 1, hidden_size]
        self.queries: torch.Tensor | None = None  # the newest, rotated, [layers, heads, <= QUERY_WINDOW, head_dim]
        self.needs_close = False
        self.open_user = False
        self.unchanged = 0  # first tokens that are what they were when somebody last set this to `position`
        self.use(profile)
        self.begin_turn()

    def use(self, profile: Profile) -> None:
        """Takes router and pause points from a profile; the context stays."""
        self.settings = profile.river
        self.router = Router(profile.roles)
        self._pause = re2.compile(f"(?:{profile.river.pause})\\z") if profile.river.pause else None

    @property
    def position(self) -> int:
        """The position of the next token, and the number of tokens in the KV cache."""
        return self.tail.length

    def begin_turn(self) -> None:
        self.builder = TextBuilder(self.prism)
        self.router.reset()
        self._shown = 0
        self._requests: list[tuple[int, int]] = []
        self._paused_at = 0
        self.written = 0

    def queue(self, ids: list[int]) -> None:
        """Tokens to prefill before the River writes on."""
        self.pending.extend(ids)

    # -- rows ---------------------------------------------------------------------------------------------------

    def row(self) -> Row | None:
        """What the River contributes to the next step, if anything."""
        if self.state not in ("reading", "prefill", "writing") or not self.pending:
            return None
        count = min(PREFILL_CHUNK, len(self.pending))
        tokens = [self.pending.popleft() for _ in range(count)]
        return Row(
            tokens=tokens,
            positions=list(range(self.position, self.position + count)),
            tail=self.tail,
            reads=self.beside(),
            logits="none" if self.pending or self.state == "reading" else "last",
            queries=True,
        )

    def absorb(self, row: Row, result: RowResult) -> None:
        """Remembers hidden states and sentence borders of the tokens that are now in the cache."""
        self.sentences.extend(row.tokens, own=self.state == "writing")
        self.hidden = result.hidden[-1:].clone()  # a view would keep the whole step's states alive
        if result.queries is not None:
            queries = result.queries if self.queries is None else torch.cat([self.queries, result.queries], 2)
            self.queries = queries[:, :, -QUERY_WINDOW:]

    def beside(self) -> tuple[Segment, ...]:
        """The asides as one segment: many cost one multiplication a layer. Joined anew only when they change."""
        now = tuple(a.segment for a in self.asides)
        if now != self._joined_from:
            self._joined_from, self._joined = now, (join(now),) if now else ()
        return self._joined

    # -- text ---------------------------------------------------------------------------------------------------

    def write(self, token: int) -> list[Match]:
        """Takes a sampled token as the next one and returns the requests it completed."""
        self.pending.append(token)
        self.written += 1
        return self._route(self.builder.add(token))

    def _route(self, new: str) -> list[Match]:
        if not new:
            return []
        matches = self.router.feed(new)
        self._requests.extend((m.start, m.end) for m in matches)
        return matches

    def at_pause(self) -> bool:
        """Whether the text since the last pause ends in a pause point."""
        text = self.builder.text
        return bool(self._pause and len(text) > self._paused_at and self._pause.search(text[self._paused_at :]))

    def mark_pause(self) -> None:
        self._paused_at = len(self.builder.text)

    def show(self, *, all_of_it: bool = False) -> list[RiverText]:
        """Text that has not been shown yet, cut where requests begin and end; a half-written request is held back."""
        text = self.builder.text
        stop = len(text)
        if not all_of_it:
            open_from = self.router.pending_from()
            stop = stop if open_from is None else max(self._shown, min(stop, open_from))
        out: list[RiverText] = []
        while self._requests and self._requests[0][0] < stop:
            start, end = self._requests.pop(0)
            if start > self._shown:
                out.append(RiverText(text=text[self._shown : start]))
            out.append(RiverText(text=text[start:end], request=True))
            self._shown = end
        if stop > self._shown:
            out.append(RiverText(text=text[self._shown : stop]))
            self._shown = stop
        return out

    def finish_text(self) -> list[RiverText]:
        self._route(self.builder.finish())
        return self.show(all_of_it=True)

    # -- going back ---------------------------------------------------------------------------------------------

    def mark(self, turns: int) -> Mark:
        return Mark(self.position, tuple(self.asides), turns, self.open_user, self.needs_close)

    def rewind(self, mark: Mark) -> None:
        """Returns to a mark: KV and asides are then what they were."""
        self.tail.truncate(mark.tokens)
        self.unchanged = min(self.unchanged, mark.tokens)
        self.sentences.truncate(mark.tokens)
        self.asides = list(mark.asides)
        self.pending.clear()
        self.open_user, self.needs_close = mark.open_user, mark.needs_close
        self.state = "idle"
        self.begin_turn()
