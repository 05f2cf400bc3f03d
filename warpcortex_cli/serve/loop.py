"""The thread that steps: all replies of all clients in one forward. Handlers hand jobs in, and read their outboxes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TypeVar

from warpcortex_cli.engine.calibration import Calibration
from warpcortex_cli.engine.contents import Said
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.stepper import Stepper
from warpcortex_cli.errors import MemoryLimitError, RunError, UsageError, WarpError
from warpcortex_cli.events import Event, RiverFinished, RiverStarted, RiverText, StreamEnded
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile
from warpcortex_cli.serve.faults import BusyError, TooLongError
from warpcortex_cli.serve.job import Ask, Failed, Item, Job, Outbox, Over, ring
from warpcortex_cli.serve.limits import Limits
from warpcortex_cli.serve.shelf import Kept, Shelf, prompt_ids
from warpcortex_cli.ui.answer import Answer, Shown

_T = TypeVar("_T")
_LETTERS = 16  # in a token, at most on average: longer texts are not even encoded
_TICK = 0.5  # seconds after which waiting readers are looked at again, where nobody writes


@dataclass
class Counters:
    """What has happened since the start. Only the thread that steps counts."""

    replies: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    held_tokens: int = 0
    reply_tokens: int = 0
    streams: int = 0
    stream_tokens: int = 0
    steps: int = 0


class Writing:
    """What the loop notes about a reply while it is written: what the client gets to see of it."""

    def __init__(self, shown: Shown, prompt: str) -> None:
        self.shown, self.prompt = shown, prompt
        self.answer = Answer()


class Loop:
    """Steps the conversations of all clients.

    Args:
        profile: of sessions before a request changes it.
        streams, programs, calibration: as in `Session`.
    """

    def __init__(
        self,
        prism: Prism,
        profile: Profile,
        limits: Limits,
        *,
        streams: bool = True,
        programs: tuple[str, ...] = (),
        calibration: Calibration | None = None,
    ) -> None:
        self.prism, self.profile, self.limits = prism, profile, limits
        self.stepper = Stepper(prism)
        self.counters = Counters()

        def new() -> Session:
            return Session(
                prism, profile, streams=streams, programs=programs, calibration=calibration, stepper=self.stepper
            )  # fmt: skip

        self.shelf = Shelf(prism, limits.kept, new)
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._running: dict[Job, Writing] = {}
        self.kept_bytes = 0
        self._filled: list[Outbox] = []  # whose readers have not been told yet
        self._stopping = False
        self._asked = 0  # jobs that were handed in and are not over; counted where they are handed in
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="warpcortex-steps", daemon=True)

    # -- from any thread ------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends all replies, and the thread."""
        self._order(self._stop)
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def load(self) -> tuple[int, int]:
        """How many replies are written, and how many requests wait."""
        return len(self._running), len(self._waiting)

    def submit(self, jobs: list[Job]) -> None:
        """Hands the choices of a request in.

        Raises:
            BusyError: too many wait already.
        """
        with self._lock:
            if self._asked + len(jobs) > self.limits.replies + self.limits.waiting:
                raise BusyError("too many requests are waiting.", "Try again in a few seconds.")
            self._asked += len(jobs)
        for outbox in {job.outbox for job in jobs}:
            outbox.emptied = lambda: self._order(lambda: self._resume(jobs))
        self._order(lambda: self._waiting.extend(jobs))

    def cancel(self, job: Job) -> None:
        """Ends a reply whose reader is gone. Of no effect if it is over."""
        self._order(lambda: self._cancel(job))

    @property
    def most(self) -> int:
        """The most tokens of a prompt."""
        return self.limits.prompt or self.prism.max_context

    def check_letters(self, letters: int) -> None:
        """Raises TooLongError for texts that are too long to be worth encoding."""
        if letters > _LETTERS * self.most:
            said = f"the prompt has {letters:,} letters, and {self.most:,} tokens are the most."
            raise TooLongError(said, "Shorten it.")

    async def apart(self, do: Callable[[], _T]) -> _T:
        """Runs something in the thread that steps: whatever uses the tokenizer, which serves one thread at a time."""
        future: Future[_T] = Future()

        def run() -> None:
            try:
                future.set_result(do())
            except Exception as error:
                future.set_exception(error)

        self._order(run)
        return await asyncio.wrap_future(future)

    def _order(self, do: Callable[[], None]) -> None:
        self._orders.put(do)
        self.stepper.wake()

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._turn()
            except Exception as error:  # a fault of ours: replies end with it, and the server goes on
                for job in list(self._running):
                    self._fail(job, error)
        self._ring()
        self.shelf.close()

    def _turn(self) -> None:
        """What was ordered, who waits, and one step."""
        self._obey()
        self._admit()
        self._look_at_clock()
        self._ring()
        if all(job.paused is not None for job in self._running):
            return  # `_obey` waits for orders
        stepped = self.stepper.step()
        self.counters.steps += 1
        for job in [job for job in self._running if job.paused is None]:
            self._advance(job, stepped)
        self._ring()
        if not stepped and self._running:
            self.stepper.rest()

    def _obey(self) -> None:
        """Carries out what was ordered. Waits for an order if there is nothing to step."""
        idle = all(job.paused is not None for job in self._running) and not self._ready()
        try:
            while True:
                order = self._orders.get(timeout=_TICK) if idle else self._orders.get_nowait()
                order()
                idle = False
        except Empty:
            pass

    def _ready(self) -> bool:
        return len(self._running) < self.limits.replies and any(job.may_begin for job in self._waiting)

    def _admit(self) -> None:
        """Begins replies that wait, in order, while there is room."""
        for job in list(self._waiting):
            if len(self._running) >= self.limits.replies:
                return
            if job.may_begin:
                self._waiting.remove(job)
                self._begin(job)

    def _begin(self, job: Job) -> None:
        ask = job.ask
        try:
            ids = self._prompt(ask)
            busy = [other.session for other in self._running if other.session is not None]
            session, shown = self.shelf.take(ask, ids, busy)
            job.session = session
            self._running[job] = Writing(shown, ask.profile.river.prompt)
            if session.profile != ask.profile:
                session.set_profile(ask.profile)
            steps = session.answer(shown.meant(ask.turns), ask.options, ask.tools) if ask.turns else None
            job.steps = steps or session.complete(ask.ids, ask.options)
            self._deliver(job, next(job.steps))
        except Exception as error:
            self._fail(job, error)

    def _prompt(self, ask: Ask) -> list[int]:
        """The tokens of a prompt. Raises TooLongError."""
        self.check_letters(sum(len(said.text) for said in ask.turns) + len(ask.profile.river.prompt))
        ids, most = prompt_ids(self.prism, ask), self.most
        if len(ids) > most:
            raise TooLongError(f"the prompt has {len(ids):,} tokens, and {most:,} are the most.", "Shorten it.")
        return ids

    def _advance(self, job: Job, stepped: bool) -> None:
        """Takes what the step has brought to a reply."""
        assert job.steps is not None
        try:
            self._deliver(job, job.steps.send(stepped))
        except StopIteration:
            self._end(job)
        except Exception as error:
            self._fail(job, error)

    def _deliver(self, job: Job, events: Sequence[Event]) -> None:
        writing = self._running[job]
        for event in events:
            self._count(event)
            if isinstance(event, RiverText):
                writing.answer.feed(event)
        self._put(job, events)
        if job.outbox.full and job.paused is None and job.session is not None:
            job.paused = time.monotonic()
            self.stepper.leave(job.session.conversation)

    def _put(self, job: Job, items: Sequence[Item]) -> None:
        if job.outbox.put(job.choice, items):
            self._filled.append(job.outbox)

    def _ring(self) -> None:
        """Tells the readers of what was put since the last time."""
        if self._filled:
            ring(self._filled)
            self._filled = []

    def _count(self, event: Event) -> None:
        counters = self.counters
        match event:
            case RiverStarted():
                counters.prompt_tokens += event.prompt_tokens + event.held
                counters.held_tokens += event.held
            case RiverFinished():
                counters.reply_tokens += event.tokens
            case StreamEnded():
                counters.streams += 1
                counters.stream_tokens += event.tokens

    def _resume(self, jobs: list[Job]) -> None:
        """Lets replies go on whose reader has caught up."""
        for job in jobs:
            if job.paused is not None and not job.over and job.session is not None:
                job.paused = None
                self.stepper.join(job.session.conversation)

    def _look_at_clock(self) -> None:
        now, limits = time.monotonic(), self.limits
        for job in [*self._running, *self._waiting]:
            if job.paused is not None and now - job.paused > limits.patience:
                self._cancel(job)
            elif now - job.asked > limits.seconds:
                self._fail(job, RunError(f"the reply took longer than {limits.seconds:g} seconds."))

    # -- the end of a reply ---------------------------------------------------------------------------------------

    def _end(self, job: Job) -> None:
        self.counters.replies += 1
        self._close(job, keep=True, turns=True)
        self._put(job, [Over()])

    def _cancel(self, job: Job) -> None:
        if not job.over:
            self.counters.cancelled += 1
            self._close(job, keep=True)
            self._put(job, [Over()])

    def _fail(self, job: Job, error: Exception) -> None:
        self.counters.failed += 1
        self._close(job, keep=isinstance(error, UsageError))
        if isinstance(error, MemoryError):
            error = MemoryLimitError("there is not enough memory for another reply.", "Try again later.")
        elif not isinstance(error, WarpError):
            error = RunError(f"internal error ({type(error).__name__}: {str(error)[:200]}).")
        self._put(job, [Failed(error), Over()])

    def _close(self, job: Job, *, keep: bool, turns: bool = False) -> None:
        """Takes a reply off the steps. Its session is kept for those who go on from there, or begin alike."""
        job.over = True
        with self._lock:
            self._asked -= 1
        if job in self._waiting:
            self._waiting.remove(job)
        writing = self._running.pop(job, None)
        session, job.session = job.session, None
        if session is None or writing is None:
            return
        if job.paused is not None:
            self.stepper.join(session.conversation)
        try:
            if job.steps is not None:
                job.steps.close()
        except Exception:
            keep = False
        if not keep:
            session.close()
            return
        writing.answer.finish()
        known: tuple[Said, ...] | None = None
        if turns and job.ask.turns and session.turns:
            known = (*job.ask.turns, Said("assistant", job.ask.sent_back(writing.answer.text)))
            writing.shown.note(len(known) - 1, known[-1].text, session.turns[-1].text)
        self.shelf.keep(Kept(session, known, writing.prompt, job.ask.tools, writing.shown))
        self.kept_bytes = self.shelf.nbytes

    def _stop(self) -> None:
        self._stopping = True
        for job in [*self._running, *self._waiting]:
            self._fail(job, RunError("the server is stopping."))
