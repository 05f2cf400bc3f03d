"""The step loop. It alone runs the model; every agent hands it rows and takes back logits.

A step packs the River's row, the rows of all admitted Streams and the thoughts under way into one forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event as Flag

import torch

from warpcortex_cli.engine.brief import Thought
from warpcortex_cli.engine.briefing import Briefing
from warpcortex_cli.engine.calibration import Calibration
from warpcortex_cli.engine.gate import Gate
from warpcortex_cli.engine.injection import Injection, Reading
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.pacing import pacer
from warpcortex_cli.engine.parking import Parking, seating
from warpcortex_cli.engine.river import QUERY_WINDOW, River
from warpcortex_cli.engine.roster import Roster
from warpcortex_cli.engine.sampling import SamplingError
from warpcortex_cli.engine.stream import Stream, certainty
from warpcortex_cli.engine.workers import WORKERS
from warpcortex_cli.engine.workers.base import Host, Worker, WorkError
from warpcortex_cli.engine.workers.model import ModelWorker
from warpcortex_cli.errors import MemoryLimitError, RunError
from warpcortex_cli.events import (
    GateDecided,
    RiverPrefilled,
    RiverWaiting,
    StreamEnded,
    StreamSpawned,
    StreamStarted,
    StreamText,
    ThoughtInjected,
    ThoughtWithdrawn,
)
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row, RowResult
from warpcortex_cli.prism.support import more_exact
from warpcortex_cli.profile import Profile, Role

STEP_THOUGHT_TOKENS = 128  # on their way in: they come with all tails still full, and may ask for wide logits
STEP_PREFILL_TOKENS = 512  # over all Streams: bounds the activations when many start at once
_REST = 0.02  # seconds


@dataclass
class Work:
    """One row of a step and what to do with its result."""

    row: Row
    absorb: Callable[[Row, RowResult], None]
    stream: Stream | None = None


class Engine:
    """Owns a River and its Streams and steps them all at once.

    Args:
        watched: somebody reads along, so that the River keeps a part of its speed if the profile does not say how much.
    """

    def __init__(
        self,
        prism: Prism,
        profile: Profile,
        journal: Journal,
        *,
        seed: int = 0,
        streams: bool = True,
        calibration: Calibration | None = None,
        watched: bool = False,
    ) -> None:
        self.prism = prism
        self.journal = journal
        self.watched = watched
        self.river = River(prism, profile, seed)
        self.gate = Gate(profile.gate, calibration)
        self.briefing = Briefing(prism)
        self._woken = Flag()
        self._host = Host(prism, self.river, seed, self._woken.set)
        self.writer = ModelWorker(self._host)
        self.workers: dict[str, Worker] = {"model": self.writer}  # the others when they are first asked for
        self.parking = Parking(prism.layout, journal)
        self.streams = Roster()
        self.injections: list[Injection] = []
        self.spawning = streams
        self.finish_reason = "stop"
        self._prompt_total = 0
        self._wait_until = 0.0
        self._injected_since_end = False
        self.use(profile)

    def use(self, profile: Profile) -> None:
        """Takes a profile: the first one, or another one between turns. The conversation stays.

        It is the one way in which settings come to anything, so what a session begins with can also be changed.
        """
        self.profile = profile
        self.injecting = profile.injection.enabled
        self.pacer = pacer(profile.limits.river_share, self.watched)
        if self.spawning:
            self.briefing.prepare(profile)
        for worker in self.workers.values():
            worker.use(profile)
        self.gate.use(profile.gate)
        self.river.use(profile)
        self.river_changed()
        while self.river.asides.tokens > profile.injection.budget_tokens:
            self.withdraw(self.river.asides[0].stream, "budget")

    def river_changed(self) -> None:
        """Drops what was made of the River's KV for Streams that have not begun: it is not what it was."""
        self.briefing.forget()
        for worker in self.workers.values():
            worker.forget()

    @property
    def shared_bytes(self) -> int:
        """Keys and values that Streams starting now share: the newest Synapse, and what roles are told over it."""
        return (self.briefing.synapse.nbytes if self.briefing.synapse else 0) + self.writer.instructions.nbytes

    @property
    def alive(self) -> list[Stream]:
        return list(self.streams.alive)

    # -- the loop -----------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """One forward for every row there is. False when nobody has anything to do."""
        began = self.journal.now()
        self._expire()
        self._make_room()
        self._admit()
        self._collect()
        self._resume()
        work = self._plan()
        if work:
            decodes = work[0].stream is None and len(work[0].row.tokens) == 1
            width = sum(len(w.row.tokens) for w in work if w.stream is not None)
            forward = self.journal.now()
            for item, result in self._run(work):
                with self._contained(item.stream):
                    item.absorb(item.row, result)
            self.pacer.observe(width, self.journal.now() - forward, decodes, besides=forward - began)
        return bool(work)

    def rest(self) -> None:
        """Waits for work that is done elsewhere, a moment at most: deadlines pass meanwhile."""
        self._woken.wait(_REST)
        self._woken.clear()

    def _plan(self) -> list[Work]:
        work: list[Work] = []
        river_row = self.river.row()
        if river_row is not None:
            work.append(Work(river_row, self._absorb_river))
        prefill = STEP_PREFILL_TOKENS
        # Where not all may come, the oldest do: a Stream that is finished early is worth more than many half done.
        thinking = [(s, s.work, s.work.wanted) for s in self.alive if s.state == "thinking" and s.work is not None]
        thinking = sorted((t for t in thinking if t[2]), key=lambda t: -t[0].role.priority)
        wanted = sum(most for _, _, most in thinking) + sum(i.left for i in self.injections)
        width = self.pacer.width(wanted, river_row is not None)
        for item in self._injecting_rows(min(width, STEP_THOUGHT_TOKENS)):
            work.append(item)
            width -= len(item.row.tokens)
        for stream, its, most in thinking:
            room = min(most, width, prefill if most > 1 else 1)
            if room <= 0:
                continue
            with self._contained(stream):
                row = its.row(room)
                width -= len(row.tokens)
                prefill -= len(row.tokens) if len(row.tokens) > 1 else 0
                work.append(Work(row, self._absorbing_stream(stream), stream))
        return work

    def _injecting_rows(self, room: int) -> list[Work]:
        """Thoughts on their way in, the one that waits longest first."""
        work: list[Work] = []
        for injection in self.injections:
            with self._contained(injection.stream):
                for reading, row in injection.rows(room):
                    room -= len(row.tokens)
                    work.append(Work(row, self._absorbing(injection, reading), injection.stream))
        return work

    def _run(self, work: list[Work]) -> list[tuple[Work, RowResult]]:
        """Forwards all rows at once; if that fails, each row alone, so that only the guilty Stream ends."""
        lengths = [w.row.tail.length for w in work]
        try:
            return list(zip(work, self.prism.forward([w.row for w in work]), strict=True))
        except Exception as error:
            if not any(w.stream for w in work):
                raise _as_warp_error(error) from error
        done: list[tuple[Work, RowResult]] = []
        for item, length in zip(work, lengths, strict=True):
            with self._contained(item.stream):
                if item.stream is None or not item.stream.final:
                    done.append((item, self._alone(item.row, length, item.stream is None)))
        return done

    def _alone(self, row: Row, length: int, rivers: bool) -> RowResult:
        """Forwards one row onto its tail, which a step that failed may have left longer than `length`."""
        row.tail.truncate(length)
        try:
            return self.prism.forward([row])[0]
        except Exception as error:
            raise _as_warp_error(error) if rivers else error from error

    @contextmanager
    def _contained(self, stream: Stream | None) -> Iterator[None]:
        """Does some work for a Stream: if it fails, in whatever way, that Stream ends and nobody else knows of it.

        All work for Streams is done in here. `None`: it is the River's own, whose errors are the caller's.
        """
        try:
            yield
        except Exception as error:
            if stream is None:
                raise
            said = (str(error).strip().splitlines() or ["no reason given"])[0]
            self.end(
                stream, "failed", (said if isinstance(error, WorkError) else f"{type(error).__name__}: {said}")[:200]
            )

    # -- the River ----------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Moves the River's oldest tokens into its past once its tail is full; Streams keep what they read."""
        river = self.river
        if not river.full:
            return
        river.make_room()
        self.river_changed()
        if river.state != "reading":  # what a turn asks for may just have left the tail
            river.recall_again()

    def begin_turn(self, ids: list[int]) -> None:
        """Queues a user turn and lets the River write."""
        self.river.begin_turn()
        self.prefill(ids)
        self._make_room()  # before the recall, which looks among what has left the tail
        self.river.recall(ids)

    def read(self, ids: list[int]) -> None:
        """Queues tokens that the River reads without an answer."""
        self.prefill(ids)
        self.river.state = "reading"

    def prefill(self, ids: list[int]) -> None:
        self.river.queue(ids)
        self._prompt_total = len(self.river.pending)
        self._injected_since_end = False
        self.river.state = "prefill"

    def _absorb_river(self, row: Row, result: RowResult) -> None:
        river = self.river
        river.absorb(row, result)
        if river.state in ("prefill", "reading") and self._prompt_total > len(row.tokens):
            self.journal.write(RiverPrefilled(done=self._prompt_total - len(river.pending), total=self._prompt_total))
        if river.state == "reading" and not river.pending:
            river.state = "idle"
        if result.largest is None:
            return
        river.state = "writing"
        token = self._sample_river(result)
        if token in self.prism.eos_ids:
            self._at_end("stop")
            return
        if river.repeats(token):
            self._at_end("loop")
            return
        for match in river.write(token):
            self.spawn(match.role, match.task, match.groups)
        if river.written % QUERY_WINDOW == 0 or river.builder.text.endswith("\n"):
            river.recall_again()
        self._show()
        if river.stopped:  # whoever asks for a reply to end here wants no more of it, whatever Streams still think
            self.finish_reason, river.state = "stop", "idle"
        elif river.written >= river.settings.max_tokens:
            self._at_end("length")
        elif river.at_pause() and self.alive:
            self._wait("waiting")

    def _sample_river(self, result: RowResult) -> int:
        drawn = self.river.choose(result)
        if isinstance(drawn, SamplingError):
            hint = more_exact(self.prism.dtype, self.prism.quantize)
            raise RunError(f"the model produced no usable next token: {drawn}.", hint)
        return drawn

    def _show(self) -> None:
        for event in self.river.show():
            self.journal.write(event)

    def _wait(self, state: str) -> None:
        self.river.state = state
        self._wait_until = self.journal.now() + self.river.settings.wait_seconds
        self.journal.write(RiverWaiting(streams=tuple(s.id for s in self.alive)))

    def _at_end(self, reason: str) -> None:
        """The River wants to stop; it is held while Streams that it asked still think."""
        self.finish_reason = reason
        if reason == "stop" and self.alive:
            self._wait("held")
        else:
            self.river.state = "idle"

    def _resume(self) -> None:
        """Lets a waiting River go on once the Streams it asked are done, or the wait is over."""
        river = self.river
        if river.state not in ("waiting", "held"):
            return
        if self.alive and self.journal.now() < self._wait_until:
            return
        if river.state == "waiting":
            river.mark_pause()
            river.state = "writing"
        elif self._injected_since_end:
            # The end-of-turn token was never forwarded; a visible break stands in its place and the River goes on.
            self._injected_since_end = False
            for token in self.prism.chat.encoder.continued(river.builder.text, river.settings.resume):
                for match in river.write(token):
                    self.spawn(match.role, match.task, match.groups)
            self._show()
            river.state = "writing"
        else:
            river.state = "idle"

    # -- Streams ------------------------------------------------------------------------------------------------

    def spawn(self, role: Role, task: str, groups: Mapping[str, str] | None = None) -> None:
        """Starts a Stream. `groups`: what else its role's prompt may show, by name."""
        if not self.spawning:
            return
        number = self.streams.spawned + 1
        stream = Stream(number, role, task, groups or {}, self.journal.now())
        self.streams.add(stream)
        self.journal.write(StreamSpawned(id=number, role=stream.role.name, task=stream.task))
        if len(self.alive) > self.profile.limits.queue:
            self.end(stream, "cancelled", "the queue of Streams is full")

    def _worker(self, role: Role) -> Worker:
        """Who does the work of a role."""
        if role.work not in self.workers:
            self.workers[role.work] = worker = WORKERS[role.work](self._host)
            worker.use(self.profile)
        return self.workers[role.work]

    def _admit(self) -> None:
        """Gives Streams their turn: at once where their work takes no seat, else as seats are free."""
        alive = self.alive
        seated = [s for s in alive if WORKERS[s.role.work].seated]
        at_once = [s for s in alive if s.state == "queued" and s not in seated] if len(seated) < len(alive) else []
        for stream in (*at_once, *seating(seated, self.profile.limits.streams)):
            with self._contained(stream):
                if stream.state == "queued":
                    self._begin(stream)
                elif stream.state == "parked":
                    self.parking.resume(stream, self.writer.new_tail())
                else:
                    self.parking.park(stream, self.profile.memory)

    def _begin(self, stream: Stream) -> None:
        """Gives a Stream its Brief and has a worker begin it."""
        worker = self._worker(stream.role)
        weighed = self.gate.settings.certainty > 0
        brief = self.briefing.task(stream.id, stream.role, stream.task, stream.groups, weighed)
        if worker.reads:
            brief = self.briefing.full(brief, self.river, self.profile, self.journal)
        work = worker.take(brief)
        stream.begin(brief, work)
        work.start()
        stream.state = "thinking"
        self.journal.write(
            StreamStarted(
                id=stream.id,
                synapse=brief.synapse.version if brief.synapse else 0,
                landmarks=brief.landmarks,
                focus=len(brief.focus),
            )
        )

    def _collect(self) -> None:
        """Takes the thoughts of work that is done without rows of the step."""
        for stream in self.alive:
            if stream.state == "thinking" and stream.work is not None and not stream.work.wanted:
                with self._contained(stream):
                    self._poll(stream)

    def _absorbing_stream(self, stream: Stream) -> Callable[[Row, RowResult], None]:
        def absorb(row: Row, result: RowResult) -> None:
            if stream.final or stream.work is None:
                return
            text = stream.work.absorb(result)
            if text is not None:
                self.journal.write(StreamText(id=stream.id, text=text, tokens=stream.tokens))
            self._poll(stream)

        return absorb

    def _poll(self, stream: Stream) -> None:
        """Asks for a Stream's thought. Of some work that has none in the end, the Stream expires."""
        thought = stream.work.poll() if stream.work else None
        if thought is None:
            return
        if thought.text:
            self.offer(stream, thought)
        else:
            stream.thought = thought
            self.end(stream, "expired", thought.why)

    def offer(self, stream: Stream, thought: Thought) -> None:
        """Takes a Stream's thought to the Gate and the River."""
        stream.thought = thought
        if not self.injecting:
            self.end(stream, "rejected", "injection is off")
        else:
            stream.state = "gating"
            stream.rest()
            injection = Injection(stream, self.river, self.gate.weighs)
            if injection.positions:
                self.injections.append(injection)
            else:
                self.end(stream, "failed", "the thought has no tokens")

    def _absorbing(self, injection: Injection, reading: Reading) -> Callable[[Row, RowResult], None]:
        def absorb(row: Row, result: RowResult) -> None:
            injection.absorb(reading, result)
            if injection.left or injection.stream.final:
                return
            self.injections.remove(injection)
            self._judge(injection)
            injection.release()

        return absorb

    def _judge(self, injection: Injection) -> None:
        stream = injection.stream
        thought = stream.thought
        decision = self.gate.decide(
            thought.text,
            injection.there.hidden if thought.hidden is None else thought.hidden,
            self.river.hidden,
            injection.gain(),
            stream.role.gate_threshold,
            certainty(thought.log_probabilities),
        )
        stream.gate_score, stream.reason = decision.score, decision.reason
        self.journal.write(
            GateDecided(
                id=stream.id, thought=thought.text, passed=decision.passed, score=decision.score,
                threshold=decision.threshold, mode=decision.mode, reason=decision.reason,
            )
        )  # fmt: skip
        if not decision.passed:
            self.end(stream, "rejected", decision.reason)
        elif not injection.there.finite:
            self.end(stream, "failed", "the thought's hidden states are not finite")
        else:
            self._inject(injection)

    def _inject(self, injection: Injection) -> None:
        aside = injection.aside()
        budget = self.profile.injection.budget_tokens
        if aside.tokens > budget:
            self.end(
                injection.stream, "rejected", f"{aside.tokens} tokens are more than the injection budget of {budget}"
            )
            return
        staying, leaving = list(self.river.asides), []
        while staying and sum(a.tokens for a in staying) + aside.tokens > budget:
            leaving.append(staying.pop(0))
        self.river.asides.keep([*staying, aside])  # there may be no memory for it: then all is as it was
        self._injected_since_end = True
        for old in leaving:
            self.journal.write(ThoughtWithdrawn(id=old.stream, reason="budget"))
        positions = aside.kv.positions.tolist()  # an index made of a list would lie on the CPU
        self.journal.write(
            ThoughtInjected(id=aside.stream, tokens=aside.tokens, first=positions[0], last=positions[-1])
        )
        self.end(injection.stream, "injected", injection.stream.reason)

    def withdraw(self, stream: int, reason: str) -> None:
        """Takes a thought out of the River's attention; what the River wrote meanwhile stays."""
        self.river.asides.keep(a for a in self.river.asides if a.stream != stream)
        self.journal.write(ThoughtWithdrawn(id=stream, reason=reason))

    def _expire(self) -> None:
        now = self.journal.now()
        for stream in self.alive:
            if now - stream.spawned > stream.role.deadline_seconds:
                self.end(stream, "expired", f"its deadline of {stream.role.deadline_seconds:g} s passed")

    def end(self, stream: Stream, state: str, reason: str) -> None:
        """The one place where a Stream ends."""
        if stream.final:
            return
        stream.state, stream.reason = state, reason
        stream.ended = self.journal.now()
        its = [i for i in self.injections if i.stream is stream]
        self.injections = [i for i in self.injections if i.stream is not stream]
        self.streams.close(stream)
        for give_back in (stream.release, *(i.release for i in its), lambda: self.parking.forget(stream)):
            with self._contained(stream):  # it has ended: what fails here changes nothing
                give_back()
        self.journal.write(
            StreamEnded(
                id=stream.id, state=state, reason=reason, tokens=stream.tokens, seconds=stream.ended - stream.spawned
            )
        )

    def close(self) -> None:
        """The conversation is over."""
        for worker in self.workers.values():
            worker.close()
        self.river.past.close()

    def cancel_all(self, reason: str) -> None:
        for stream in self.alive:
            self.end(stream, "cancelled", reason)


def _as_warp_error(error: Exception) -> RunError | MemoryLimitError:
    said = str(error).strip().splitlines() or [type(error).__name__]
    out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if out_of_memory or "not enough memory" in said[0] or "can't allocate" in said[0]:
        return MemoryLimitError(
            "there is not enough memory for the River's next step.", "Shorten the notes or choose a smaller model."
        )
    return RunError(f"the forward pass failed: {said[0]}")
