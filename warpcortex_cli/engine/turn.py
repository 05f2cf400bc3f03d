"""A turn: the state of one reply of the River, from what it is asked to its last shown character."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import re2
from torch import Tensor

from warpcortex_cli.engine.router import Match, Router
from warpcortex_cli.engine.states import RiverState
from warpcortex_cli.engine.text import TextBuilder, begun
from warpcortex_cli.engine.thinking import Thoughtful
from warpcortex_cli.events import RiverText
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import LOOP_SPAN, LOOP_WINDOW, RiverSettings, Role

if TYPE_CHECKING:
    from warpcortex_cli.engine.stream import Stream

_SENTENCE_END = re2.compile(r"[.!?]+[\"')\]]*\s|\n")


@dataclass(frozen=True)
class Asked:
    """What a turn asks for: the numbers of its words, and its unrotated queries, per layer [heads, W, head_dim]."""

    words: tuple[int, ...] = ()
    queries: Sequence[Tensor] | None = None


class Turn:
    """One reply while it is written.

    Args:
        router: finds requests in its text; it is reset.

    Attributes:
        prompt_total: tokens of the prompt that is, or last was, read for it.
        asked: what is recalled for it.
        written: tokens written so far.
        wait_until: when a River that waits for Streams goes on without them.
        thoughts: how many thoughts had been injected when it began, or last wanted to end.
        awaited: a reader follows it and will end it; until then nothing goes on behind its end.
        finish_reason: why it ended: "stop", "length" or "loop".
        due: roles that start by themselves when the prompt has been read, each with its task and groups.
        awaiting: Streams whose thoughts must arrive before the next token.
        goes_on: the River's state after that.
        started: by role, the token counts at which its Streams were started.
        question: tokens of its prompt from the user's question on; a page before it is read first.
        before: tokens of the exchange before it, which a follow-up may refer to.
        reworded: its prompt's tokens with a passage before the question; None if it cannot stand there.
        passages: thoughts that stand there, as text.
    """

    def __init__(self, prism: Prism, settings: RiverSettings, router: Router) -> None:
        self.settings = settings
        self.router = router
        self.prompt_total = 0
        self.asked = Asked()
        self.written = 0
        self.wait_until = 0.0
        self.thoughts = 0
        self.awaited = False
        self.finish_reason = "stop"
        self.due: list[tuple[Role, str, dict[str, str]]] = []
        self.awaiting: list[Stream] = []
        self.goes_on = RiverState.WRITING
        self.started: dict[str, list[int]] = {}
        self.question = self.before = 0
        self.reworded: Callable[[str], list[int] | None] = lambda passage: None
        self.passages: list[str] = []
        self.builder = TextBuilder(prism)
        router.reset()
        self._stops = (*settings.stop, *prism.stops)
        self._thinking = Thoughtful(prism.chat.thinking, bool(prism.chat.opened(settings.thinking)))
        self._pause = re2.compile(f"(?:{settings.pause})\\z") if settings.pause else None
        self._shown = 0
        self._requests: list[tuple[int, int]] = []
        self._inlined: list[tuple[int, int, int]] = []  # (start, end, Stream) of text that came from a Stream
        self._sentence_from = 0
        self._paused_at = 0
        self._stopped_at: int | None = None

    # -- what comes ---------------------------------------------------------------------------------------------

    def write(self, token: int) -> list[Match]:
        """Takes a token as its next one and returns the requests it completed."""
        self.written += 1
        return self._route(self.builder.add(token))

    def take(self, ids: Sequence[int], stream: int) -> None:
        """Takes a Stream's thought as its own next words. They complete no request, but one may begin in them."""
        before = len(self.builder.text)
        for token in ids:
            self.write(token)
        self._inlined.append((before, len(self.builder.text), stream))

    @property
    def held_back(self) -> int:
        """How many of the prompt's last tokens wait for roles that are due."""
        arrives = {role.arrives for role, _, _ in self.due}
        return self.question if "prompt" in arrives else int("aside" in arrives)

    def may_begin(self, role: Role) -> bool:
        """Whether a role that is due may start, now that the prompt is read up to what is held back."""
        return role.arrives == "prompt" or all(other.arrives != "prompt" for other, _, _ in self.due)

    def may_start(self, role: Role) -> bool:
        """Whether a role may start another Stream in this reply: its limit and its pause between starts allow it."""
        before = self.started.get(role.name, [])
        rested = not before or self.written - before[-1] >= role.rest_tokens
        return rested and (role.most is None or len(before) < role.most)

    def sentences(self) -> list[str]:
        """Sentences that have ended since the last time."""
        text, found = self.builder.text, []
        for match in _SENTENCE_END.finditer(text, self._sentence_from):
            found.append(text[self._sentence_from : match.end()].strip())
            self._sentence_from = match.end()
        return [sentence for sentence in found if sentence]

    @property
    def text(self) -> str:
        """The text written so far, up to a stop text."""
        return self.builder.text[: self._stopped_at]

    @property
    def stopped(self) -> bool:
        """Whether a stop text has been written."""
        return self._stopped_at is not None

    @property
    def full(self) -> bool:
        """Whether it has reached its token limit."""
        return self.written >= self.settings.max_tokens

    def repeats(self, token: int) -> bool:
        """Whether it would repeat itself too often with this as its next token."""
        most = self.settings.most_repeats
        return most is not None and repetitions([*self.builder.ids[-LOOP_WINDOW + 1 :], token], LOOP_SPAN) >= most

    def _route(self, new: str) -> list[Match]:
        if not new:
            return []
        if self._stopped_at is None:
            self._look_for_stop(new)
        matches = self.router.feed(new)
        self._requests.extend((m.start, m.end) for m in matches if not m.role.visible)
        return matches

    def _look_for_stop(self, new: str) -> None:
        """Finds the first stop text; the newest characters may complete one that began before them."""
        text, stops = self.builder.text, self._stops
        found = [text.find(stop, max(0, len(text) - len(new) - len(stop) + 1)) for stop in stops]
        self._stopped_at = min((place for place in found if place >= 0), default=None)

    # -- pauses -------------------------------------------------------------------------------------------------

    def at_pause(self) -> bool:
        """Whether the text since the last pause ends in a pause point."""
        text = self.builder.text
        return bool(self._pause and len(text) > self._paused_at and self._pause.search(text[self._paused_at :]))

    def mark_pause(self) -> None:
        """Notes that the pause is over."""
        self._paused_at = len(self.builder.text)

    # -- what is shown ------------------------------------------------------------------------------------------

    def show(self, *, all_of_it: bool = False) -> list[RiverText]:
        """Text that has not been shown yet, cut where requests and thinking begin and end.

        A half-written request or tag is held back.
        """
        if self.stopped and not all_of_it:
            return []  # `finish` shows its end
        text = self.text
        self._thinking.look(text)
        stop = len(text)
        if not all_of_it:
            open_from = self.router.pending_from()
            stop = min(stop, self._thinking.settled, stop if open_from is None else open_from)
            stop -= max((begun(text[:stop], end) for end in self._stops), default=0)
            stop = max(self._shown, min([stop, *(start for start, end in self._requests if end > stop)]))
        out: list[RiverText] = []
        while self._requests and self._requests[0][0] < stop:
            start, end = self._requests.pop(0)
            out += self._parts(self._shown, start)
            out += self._parts(start, end, request=True)
            self._shown = end
        out += self._parts(self._shown, stop)
        self._shown = stop
        return out

    def _parts(self, start: int, end: int, request: bool = False) -> list[RiverText]:
        text, found = self.text, []
        for first, last, thinks in self._thinking.cut(start, end):
            inner = {border for a, b, _ in self._inlined for border in (a, b) if first < border < last}
            for a, b in pairwise(sorted({first, last} | inner)):
                whose = next((stream for begin, stop, stream in self._inlined if begin <= a < stop), None)
                found.append(RiverText(text=text[a:b], request=request, thinking=thinks, stream=whose))
        return found

    def finish(self, cut: bool) -> list[RiverText]:
        """The rest of a reply that ended by itself or was `cut`. A half-written request is marked as a request."""
        self._route(self.builder.finish())
        if self.stopped:  # a stop text may stand within a request
            self.router.reset()
            self.router.feed(self.text)
        start = self.router.unfinished_from(cut or self.stopped)
        if start is not None and (not self._requests or start >= self._requests[-1][1]):
            self._requests.append((max(start, self._shown), len(self.text)))
        return self.show(all_of_it=True)


def repetitions(tokens: Sequence[int], span: int) -> int:
    """How often the last `span` tokens occur in all of them. Occurrences may overlap, as in a run of one token."""
    newest = list(tokens[-span:])
    if len(newest) < span:
        return 0
    return sum(list(tokens[i : i + span]) == newest for i in range(len(tokens) - span + 1))
