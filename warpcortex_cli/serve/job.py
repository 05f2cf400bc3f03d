"""One reply on its way: what is asked for, the session that writes it, and the events that wait for the reader."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from warpcortex_cli.engine.contents import Said
from warpcortex_cli.engine.sampling import ReplyOptions
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.steps import Steps
from warpcortex_cli.events import Event
from warpcortex_cli.prism.chat_format import Tools
from warpcortex_cli.profile import Profile


@dataclass(frozen=True)
class Ask:
    """What one reply is asked for.

    Attributes:
        profile: the server's, with the request's system prompt, sampling and lengths.
        turns: the conversation, as the client knows it; empty for a bare text.
        ids: the tokens of a bare text that is gone on with.
        tools: what the model may call, where its template shows that.
        sent_back: how the client will write an answer when it sends the conversation again.
    """

    profile: Profile
    turns: tuple[Said, ...] = ()
    ids: tuple[int, ...] = ()
    options: ReplyOptions = field(default_factory=ReplyOptions)
    tools: Tools = ()
    sent_back: Callable[[str], str] = str.strip


@dataclass(frozen=True)
class Failed:
    """The reply ended by an error. What a reader gets in the place of further events."""

    error: Exception


class Over:
    """The last thing that a reader gets."""


Item = Event | Failed | Over


class Outbox:
    """From the thread that steps to the one reader of a request. Nothing is ever dropped; see `full`.

    Args:
        size: how many events make it full. Its replies then pause, so that a slow reader costs no memory.
    """

    def __init__(self, size: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.there = asyncio.Event()
        self._lock = threading.Lock()
        self._items: deque[tuple[int, Item]] = deque()
        self._size = size
        self.emptied: Callable[[], None] = lambda: None  # called in the event loop when a full one has been read

    @property
    def full(self) -> bool:
        return len(self._items) >= self._size

    def put(self, choice: int, items: Sequence[Item]) -> bool:
        """Adds events of a choice, from any thread. Returns whether its reader has to be told, by `ring`."""
        with self._lock:
            was_empty = not self._items
            self._items.extend((choice, item) for item in items)
        return was_empty and bool(items)

    async def take(self) -> list[tuple[int, Item]]:
        """All that is there, at least one, each with its choice."""
        await self.there.wait()
        with self._lock:
            self.there.clear()
            full, found = self.full, list(self._items)
            self._items.clear()
        if full:
            self.emptied()
        return found


def ring(outboxes: Sequence[Outbox]) -> None:
    """Tells readers that there is something for them; each event loop once, because to wake one is a system call."""
    for loop in {outbox.loop for outbox in outboxes}:
        there = [outbox.there.set for outbox in outboxes if outbox.loop is loop]
        with suppress(RuntimeError):  # it is closed, and nobody reads any more
            loop.call_soon_threadsafe(lambda there=there: [tell() for tell in there])  # type: ignore[misc]


class Job:
    """One reply. Only the thread that steps touches it, but for `outbox`.

    Args:
        choice: its number in the request.
        after: the first choice of the same request, whose prompt is read first.

    Attributes:
        session: that writes it; None before it begins.
        paused: since when its outbox is full, in `time.monotonic`; None: it is not.
    """

    def __init__(self, ask: Ask, outbox: Outbox, choice: int = 0, after: Job | None = None) -> None:
        self.ask, self.outbox, self.choice, self.after = ask, outbox, choice, after
        self.session: Session | None = None
        self.steps: Steps | None = None
        self.asked = time.monotonic()
        self.paused: float | None = None
        self.over = False

    @property
    def may_begin(self) -> bool:
        """Whether the prompt that it shares with another choice has been read."""
        first = self.after
        if first is None or first.over:
            return True
        return first.session is not None and first.session.conversation.turn.written > 0
