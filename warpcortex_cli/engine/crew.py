"""The Streams of a conversation: which there are, which worker does each one's work, and how each ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import NamedTuple

from warpcortex_cli.engine.brief import Thought
from warpcortex_cli.engine.briefing import Briefing
from warpcortex_cli.engine.entrance import Entrance
from warpcortex_cli.engine.gate import Gate
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.parking import Parking, seating
from warpcortex_cli.engine.roster import Roster
from warpcortex_cli.engine.states import StreamState
from warpcortex_cli.engine.stepper import Part
from warpcortex_cli.engine.stream import Stream
from warpcortex_cli.engine.workers import WORKERS
from warpcortex_cli.engine.workers.base import Host, Work, Worker, WorkError
from warpcortex_cli.engine.workers.model import ModelWorker
from warpcortex_cli.events import StreamEnded, StreamSpawned, StreamStarted, StreamText
from warpcortex_cli.prism.rows import RowResult
from warpcortex_cli.profile import Profile, Role

STEP_PREFILL_TOKENS = 512  # over all Streams: bounds the activations when many start at once


# What is injected by somebody else has a role, too, so that it is seen and counted as other thoughts are.
_GIVEN = Role.model_validate({"name": "given", "starts": "turn", "judged": False, "synapse": False})


class Ready(NamedTuple):
    """A Stream that wants `wanted` tokens in the next step."""

    stream: Stream
    work: Work
    wanted: int


class Crew:
    """All Streams, and the workers that do their work.

    Args:
        host: what workers may use of the conversation.
        profile: the first one; call `use` next.
        gate: judges their thoughts.
        spawning: if False, requests start nothing.
        as_text: as in `Entrance`.
        entrance: where their thoughts go: into the River, unless it is another kind.

    Attributes:
        streams: all of them.
        workers: by the name in `Role.work`; made on first use.
        writer: the worker that writes with the model.
        entrance: where their thoughts go.
    """

    def __init__(
        self,
        host: Host,
        profile: Profile,
        gate: Gate,
        journal: Journal,
        spawning: bool,
        as_text: Callable[[Stream], bool] = lambda stream: False,
        entrance: type[Entrance] = Entrance,
    ) -> None:
        self.streams = Roster()
        self.briefing = Briefing(host.prism)
        self.parking = Parking(host.prism.layout, journal)
        self.writer = ModelWorker(host)
        self.workers: dict[str, Worker] = {"model": self.writer}
        self.entrance = entrance(host.river, gate, journal, self.contained, self.end, as_text)
        self.spawning = spawning
        self._host, self._profile, self._journal = host, profile, journal

    def use(self, profile: Profile) -> None:
        """Applies the settings of a profile."""
        self._profile = profile
        if self.spawning:
            self.briefing.prepare(profile)
        for worker in self.workers.values():
            worker.use(profile)
        self.entrance.use(profile.injection)

    def river_changed(self) -> None:
        """Drops what was made from the River's KV for later Streams: the KV has changed."""
        self.briefing.forget()
        for worker in self.workers.values():
            worker.forget()

    @property
    def alive(self) -> list[Stream]:
        return list(self.streams.alive)

    @property
    def shared_bytes(self) -> int:
        """Bytes of keys and values that Streams starting now share: the newest Synapse, and the roles' instructions."""
        return (self.briefing.synapse.nbytes if self.briefing.synapse else 0) + self.writer.instructions.nbytes

    # -- their beginning ----------------------------------------------------------------------------------------

    def wants(self, role: Role, task: str, groups: Mapping[str, str]) -> bool:
        """Whether a self-starting role finds work in a task."""
        return self._worker(role).wants(role, task, groups)

    def spawn(
        self, role: Role, task: str, groups: Mapping[str, str] | None = None, at: int | None = None
    ) -> Stream | None:
        """Starts a Stream.

        Args:
            groups: what else its role's prompt may use, by name.
            at: where in River text it was requested; None: it starts by itself.
        """
        if not self.spawning:
            return None
        number = self.streams.spawned + 1
        stream = Stream(number, role, task, groups or {}, self._journal.now(), at)
        stream.judged = not WORKERS[role.work].exact if role.judged is None else role.judged
        self.streams.add(stream)
        self._journal.write(StreamSpawned(id=number, role=stream.role.name, task=stream.task))
        if len(self.streams.alive) > self._profile.limits.queue:
            self.end(stream, StreamState.CANCELLED, "the queue of Streams is full")
        return stream

    def give(self, text: str, role: Role | None = None) -> Stream:
        """A Stream whose thought is given from outside, and goes to the River as any other, without being judged.

        Args:
            role: whose thought it is; None: nobody's.
        """
        stream = Stream(self.streams.spawned + 1, role or _GIVEN, "", {}, self._journal.now())
        stream.judged = False
        self.streams.add(stream)
        self._journal.write(StreamSpawned(id=stream.id, role=stream.role.name, task=stream.task))
        with self.contained(stream):
            self.offer(stream, Thought(text))
        return stream

    def admit(self) -> None:
        """Starts queued Streams: at once if their work takes no seat, else when a seat is free."""
        alive = self.alive
        seated = [s for s in alive if WORKERS[s.role.work].seated]
        at_once: list[Stream] = []
        if len(seated) < len(alive):
            at_once = [s for s in alive if s.state == StreamState.QUEUED and s not in seated]
        for stream in (*at_once, *seating(seated, self._profile.limits.streams)):
            with self.contained(stream):
                if stream.state == StreamState.QUEUED:
                    self._begin(stream)
                elif stream.state == StreamState.PARKED:
                    self.parking.resume(stream, self.writer.new_tail())
                else:
                    self.parking.park(stream, self._profile.memory)

    def _begin(self, stream: Stream) -> None:
        """Gives a Stream its Brief, and the Brief to a worker."""
        worker = self._worker(stream.role)
        brief = self.briefing.task(stream.id, stream.role, stream.task, stream.groups, self.entrance.weighed)
        if worker.reads:
            brief = self.briefing.full(brief, self._host.river, self._profile, self._journal)
        work = worker.take(brief)
        stream.begin(brief, work)
        work.start()
        stream.state = StreamState.THINKING
        self._journal.write(
            StreamStarted(
                id=stream.id,
                synapse=brief.synapse.version if brief.synapse else 0,
                landmarks=brief.landmarks,
                focus=len(brief.focus),
                reads=str(work.reads or ""),
            )
        )

    def _worker(self, role: Role) -> Worker:
        """The worker of a role."""
        if role.work not in self.workers:
            self.workers[role.work] = worker = WORKERS[role.work](self._host)
            worker.use(self._profile)
        return self.workers[role.work]

    # -- their work ---------------------------------------------------------------------------------------------

    def ready(self) -> list[Ready]:
        """The Streams that want rows in the next step, in the order in which they are served.

        If not all fit, the oldest go first: one finished Stream is worth more than many half done.
        """
        found = [Ready(s, s.work, s.work.wanted) for s in self.streams.alive if _at_work(s) and s.work is not None]
        return sorted((r for r in found if r.wanted), key=lambda r: -r.stream.role.priority)

    def parts(self, ready: list[Ready], width: int) -> list[Part]:
        """Their rows, with at most `width` tokens."""
        parts: list[Part] = []
        prefill = STEP_PREFILL_TOKENS
        for stream, work, wanted in ready:
            room = min(wanted, width, prefill if wanted > 1 else 1)
            if room <= 0:
                continue
            with self.contained(stream):
                row = work.row(room)
                width -= len(row.tokens)
                prefill -= len(row.tokens) if len(row.tokens) > 1 else 0
                parts.append(Part(row, self._absorbing(stream, work), self._containing(stream), _living(stream)))
        return parts

    def _absorbing(self, stream: Stream, work: Work) -> Callable[[RowResult], None]:
        def absorb(result: RowResult) -> None:
            if stream.final:
                return
            text = work.absorb(result)
            if text is not None:
                self._journal.write(StreamText(id=stream.id, text=text, tokens=stream.tokens))
            self._poll(stream, work)
            if stream.role.offers == "line" and text and "\n" in text and _at_work(stream):
                self._offer_lines(stream, work)

        return absorb

    def _offer_lines(self, stream: Stream, work: Work) -> None:
        """Offers what a Stream has so far, if a line has changed that."""
        thought = work.so_far()
        if thought is not None and thought.text != stream.offered:
            stream.offered = thought.text
            self.entrance.offer_part(stream, thought)

    def collect(self) -> None:
        """Takes the thoughts of work that needs no rows."""
        for stream in self.alive:
            if _at_work(stream) and stream.work is not None and not stream.work.wanted:
                with self.contained(stream):
                    self._poll(stream, stream.work)

    def _poll(self, stream: Stream, work: Work) -> None:
        """Asks for a Stream's thought. If the work ended without one, the Stream expires."""
        thought = work.poll()
        if thought is None:
            return
        if thought.text:
            self.offer(stream, thought)
        else:
            stream.thought = thought
            self.end(stream, StreamState.EXPIRED, thought.why)

    def offer(self, stream: Stream, thought: Thought) -> None:
        """Takes a Stream's thought to the Gate and the River."""
        self.entrance.offer(stream, thought)

    # -- their end ----------------------------------------------------------------------------------------------

    def contained(self, stream: Stream) -> AbstractContextManager[None]:
        """A context for work on a Stream's behalf: any error in it ends that Stream, and nobody else notices.

        All work for Streams is done in this context.
        """
        return _Contained(self, stream)

    def _containing(self, stream: Stream) -> Callable[[], AbstractContextManager[None]]:
        return lambda: self.contained(stream)

    def expire(self) -> None:
        """Ends the Streams whose deadline has passed."""
        now = self._journal.now()
        for stream in self.alive:
            if now - stream.spawned > stream.role.deadline_seconds:
                self.end(stream, StreamState.EXPIRED, f"its deadline of {stream.role.deadline_seconds:g} s passed")

    def end(self, stream: Stream, state: StreamState, reason: str) -> None:
        """The one place where a Stream ends. One whose thought is not taken may have brought in a part of it."""
        if stream.final:
            return
        if state in (StreamState.REJECTED, StreamState.EXPIRED) and self.entrance.holds(stream):
            stream.state = StreamState.GATING
            state, reason = StreamState.INJECTED, f"{reason}; what it had offered before stays"
        stream.state, stream.reason = state, reason
        stream.ended = self._journal.now()
        its = self.entrance.drop(stream)
        self.streams.close(stream)
        for give_back in (stream.release, *(i.release for i in its), lambda: self.parking.forget(stream)):
            with self.contained(stream):  # it has ended already, so an error here changes nothing
                give_back()
        seconds = stream.ended - stream.spawned
        self._journal.write(
            StreamEnded(
                id=stream.id, state=stream.state, reason=reason, tokens=stream.tokens, seconds=seconds,
                thought=stream.thought.text,
            )
        )  # fmt: skip

    def cancel_all(self, reason: str) -> None:
        """Cancels all Streams that are alive."""
        for stream in self.alive:
            self.end(stream, StreamState.CANCELLED, reason)

    def close(self) -> None:
        """Ends all Streams and closes the workers."""
        self.cancel_all("the conversation is over")
        for worker in self.workers.values():
            worker.close()


class _Contained(AbstractContextManager[None]):
    """`Crew.contained`. A class, because each row of a step enters it twice, and a generator costs several times it."""

    def __init__(self, crew: Crew, stream: Stream) -> None:
        self._crew, self._stream = crew, stream

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False
        said = (str(error).strip().splitlines() or ["no reason given"])[0]
        why = said if isinstance(error, WorkError) else f"{type(error).__name__}: {said}"
        self._crew.end(self._stream, StreamState.FAILED, why[:200])
        return True


def _at_work(stream: Stream) -> bool:
    return stream.state == StreamState.THINKING


def _living(stream: Stream) -> Callable[[], bool]:
    return lambda: not stream.final
