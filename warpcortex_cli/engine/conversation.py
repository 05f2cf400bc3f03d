"""A conversation: a River and everything that belongs to it. It plans rows of a step and absorbs their results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from warpcortex_cli.engine.as_text import into_prompt, into_reply
from warpcortex_cli.engine.calibration import Calibration
from warpcortex_cli.engine.crew import Crew
from warpcortex_cli.engine.gate import Gate
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.pacing import Promise
from warpcortex_cli.engine.probing import Probes
from warpcortex_cli.engine.river import QUERY_WINDOW, Mark, River
from warpcortex_cli.engine.router import Router
from warpcortex_cli.engine.sampling import AS_USUAL, ReplyOptions, SamplingError, likeliest
from warpcortex_cli.engine.states import RiverState
from warpcortex_cli.engine.stepper import Part, Plan
from warpcortex_cli.engine.stream import Stream
from warpcortex_cli.engine.turn import Turn
from warpcortex_cli.engine.workers.base import Host
from warpcortex_cli.errors import RunError
from warpcortex_cli.events import RiverPrefilled, RiverToken, RiverWaiting
from warpcortex_cli.pattern import compile_re2
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row, RowResult
from warpcortex_cli.prism.support import more_exact
from warpcortex_cli.profile import Profile, Role

_WAITS = frozenset({RiverState.WAITING, RiverState.HELD})
_READS = frozenset({RiverState.READING, RiverState.PREFILL})


class Conversation:
    """A River, its Router and Gate, its Streams, asides, past and journal. A `Stepper` steps it.

    Args:
        watched: somebody reads along, so the River keeps part of its speed even if the profile does not say how much.
        wake: tells the Stepper that a worker has something, from any thread.
        programs: as in `Host`.

    Attributes:
        turn: the current reply, or the last one.
        crew: its Streams.
        fault: an error that ended the River's work and has not been reported yet.
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
        wake: Callable[[], None] = lambda: None,
        programs: frozenset[str] = frozenset(),
    ) -> None:
        self.prism = prism
        self.journal = journal
        self.watched = watched
        self.river = River(prism, profile, seed)
        self.gate = Gate(profile.gate, calibration)
        host = Host(prism, self.river, seed, wake, programs)
        self.crew = Crew(host, profile, self.gate, journal, streams, self._take_as_text)
        self.probes = Probes(self.river, journal, self._start_probed)
        self.fault: Exception | None = None
        self.use(profile)
        self.turn = self._new_turn()

    def use(self, profile: Profile) -> None:
        """Applies a profile: the first one, or another one between turns. The conversation stays.

        All settings take effect here and nowhere else, so whatever a session begins with can be changed later.
        """
        for name in profile.adapters:  # before anything has changed
            self.river.prism.open_adapter(name)
        self.profile = profile
        self.router = Router(profile.roles)
        self.gate.use(profile.gate)
        self.river.use(profile)
        self.crew.use(profile)
        self.crew.river_changed()

    @property
    def promise(self) -> Promise:
        return Promise(self.profile.limits.river_share, self.watched)

    @property
    def alive(self) -> list[Stream]:
        """Streams that have not ended."""
        return self.crew.alive

    # -- a turn -------------------------------------------------------------------------------------------------

    def begin_turn(
        self,
        ids: list[int],
        words: str = "",
        notes: str = "",
        question: int | None = None,
        before: int = 0,
        reworded: Callable[[str], list[int] | None] = lambda passage: None,
        options: ReplyOptions = AS_USUAL,
    ) -> None:
        """Queues a user turn and lets the River write.

        Args:
            words: the user's; they are the task of roles that start at a turn.
            notes: what the user loaded before.
            question, before, reworded: as in `Turn`; without `question` all tokens are the question's.
            options: what is asked of this reply.
        """
        self.probes.drop()
        self.river.asked(options)
        self.turn = self._new_turn()
        self.turn.question, self.turn.before = len(ids) if question is None else question, before
        self.turn.reworded = reworded
        self._queue(ids, RiverState.PREFILL)
        self.turn.due = list(self._starting("turn", words, notes))
        self._make_room()  # before the recall, which searches what has left the tail
        self.turn.asked = self.river.recall(ids)
        self.river.holding = self.turn.held_back

    def read(self, ids: list[int]) -> None:
        """Queues tokens that the River reads and does not answer."""
        self._queue(ids, RiverState.READING)

    def _queue(self, ids: list[int], state: RiverState) -> None:
        self.river.queue(ids)
        self.turn.prompt_total = len(self.river.pending)
        self.turn.thoughts = self.crew.entrance.injected
        self.river.state = state

    def _new_turn(self) -> Turn:
        return Turn(self.prism, self.river.settings, self.router)

    # -- a step -------------------------------------------------------------------------------------------------

    def plan(self) -> Plan | None:
        """Its part of the next step; None if the reply is over or failed, and the reader has not been told yet."""
        plan: Plan | None = None
        if self.fault is None and not (self.turn.awaited and self.river.idle):
            with self._contained():
                plan = self._planned()
        return plan

    def _planned(self) -> Plan:
        self.crew.expire()
        self._make_room()
        self._start_due()
        self.crew.admit()
        self.crew.collect()
        self._resume()
        ready = self.crew.ready()

        def others(width: int) -> list[Part]:
            # Thoughts on their way in come before Streams that go on: they are nearly done.
            first = self.crew.entrance.parts(width)
            first += self.probes.parts(width - sum(len(p.row.tokens) for p in first))
            return [*first, *self.crew.parts(ready, width - sum(len(p.row.tokens) for p in first))]

        wanted = sum(r.wanted for r in ready) + self.crew.entrance.wanted + self.probes.wanted
        return Plan(self.river.wanted, self._own_part, wanted, others)

    def _own_part(self, room: int) -> Part | None:
        """The River's row, unless it fails to be made."""
        part: Part | None = None
        with self._contained():
            row = self.river.row(room)
            part = Part(row, self._absorbing(row), self._contained, rivers=True)
        return part

    @contextmanager
    def _contained(self) -> Iterator[None]:
        """Runs the River's own work. An error is kept for the driver of this conversation; others go on."""
        try:
            yield
        except Exception as error:
            self.fault = error

    def raise_fault(self) -> None:
        """Raises the error that ended the River's work, if there is one, and clears it."""
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault

    def _make_room(self) -> None:
        """Moves the River's oldest tokens into its past once its tail is full; Streams keep what they read."""
        river = self.river
        if not river.full:
            return
        river.make_room()
        self.crew.river_changed()
        if river.state != RiverState.READING:  # what the turn asks for may just have left the tail
            river.recall_again(self.turn.asked)

    def _absorbing(self, row: Row) -> Callable[[RowResult], None]:
        return lambda result: self._absorb(row, result)

    def _absorb(self, row: Row, result: RowResult) -> None:
        river, turn = self.river, self.turn
        river.absorb(row, result)
        if river.state in _READS and turn.prompt_total > len(row.tokens):
            done = turn.prompt_total - len(river.pending)
            self.journal.write(RiverPrefilled(done=done, total=turn.prompt_total))
        if river.state == RiverState.READING and not river.pending:
            river.state = RiverState.IDLE
        if result.largest is None:
            return
        river.state = RiverState.WRITING
        token = self._chosen(result)
        if token in self.prism.eos_ids:
            self._at_end("stop")
        elif turn.repeats(token):
            self._at_end("loop")
        else:
            self._tell(token, result)
            self._write(token)

    def _tell(self, token: int, result: RowResult) -> None:
        """Tells how likely a token was, if that is asked for."""
        count = self.river.options.likeliest
        if count is None or result.newest is None:
            return
        own, best = likeliest(result.newest, token, count)
        decode = self.prism.decode
        told = tuple((other, decode([other]), round(score, 6)) for other, score in best)
        self.journal.write(RiverToken(token=token, text=decode([token]), log_probability=round(own, 6), likeliest=told))

    def _chosen(self, result: RowResult) -> int:
        drawn = self.river.choose(result)
        if isinstance(drawn, SamplingError) and self.river.options.changes:
            said = "nothing can follow that the grammar or the bias of this reply allows"
            raise RunError(f"{said}: {drawn}.", "The tokens of this model may be unable to write it.")
        if isinstance(drawn, SamplingError):
            hint = more_exact(self.prism.dtype, self.prism.quantize)
            raise RunError(f"the model produced no usable next token: {drawn}.", hint)
        return drawn

    # -- what the River writes ----------------------------------------------------------------------------------

    def _write(self, token: int) -> None:
        """Takes a token of the reply and acts on it: requests, pauses, the end."""
        river, turn = self.river, self.turn
        if river.options.grammar is not None:
            river.options.grammar.take(token)
        self._say(token)
        if turn.written % QUERY_WINDOW == 0 or turn.builder.text.endswith("\n"):
            river.recall_again(turn.asked)
        self._show()
        if turn.stopped:  # a stop text ends the reply, even while Streams think
            turn.finish_reason, river.state = "stop", RiverState.IDLE
        elif turn.full:
            self._at_end("length")
        elif turn.awaiting:
            self._await(RiverState.WRITING)
        elif turn.at_pause() and self.alive:
            self._wait(RiverState.WAITING)

    def _say(self, token: int) -> None:
        """Adds a token to the reply and starts the Streams that it requests."""
        self.river.pending.append(token)
        for match in self.turn.write(token):
            self._spawn(match.role, match.task, match.groups, match.end)
        for sentence in self.turn.sentences():
            for role, task, groups in self._starting("sentence", sentence):
                self._spawn(role, task, groups)
            for role, task, groups in self._starting("probe", sentence):
                if self.turn.may_start(role):
                    self.probes.ask(role, task, groups)

    def _start_probed(self, role: Role, task: str, groups: Mapping[str, str]) -> None:
        """Starts a role whose question was answered with yes, unless the reply has ended meanwhile."""
        if self.river.idle:
            return
        self._spawn(role, task, groups)
        if self.turn.awaiting and self.river.state == RiverState.WRITING:
            self._await(RiverState.WRITING)

    # -- Streams that it waits for, or that start by themselves -----------------------------------------------------

    def _spawn(self, role: Role, task: str, groups: Mapping[str, str], at: int | None = None) -> None:
        """Starts a Stream unless its role's limit is reached. `at`: where in the reply it was requested."""
        if not self.turn.may_start(role) or not self._may_come(role):
            return
        stream = self.crew.spawn(role, task, groups, at)
        if stream is not None:
            self.turn.started.setdefault(role.name, []).append(self.turn.written)
            if role.awaits:
                self.turn.awaiting.append(stream)

    def _may_come(self, role: Role) -> bool:
        """Whether its thoughts may arrive as they do: text that keeps to a grammar is the River's alone."""
        return self.river.options.grammar is None or role.arrives != "inline"

    def _starting(self, at: str, words: str, notes: str = "") -> Iterator[tuple[Role, str, dict[str, str]]]:
        """Roles that start by themselves at this moment, each with its task and groups, if the words fit."""
        for role in self.profile.roles if words and self.crew.spawning else ():
            found = matched(role, words) if role.starts == at and self._may_come(role) else None
            if found is not None:
                groups = {**found, "notes": notes}
                if self.crew.wants(role, found["task"], groups):
                    yield role, found["task"], groups

    def _start_due(self) -> None:
        """Starts the turn's roles: those that arrive inline at once, the others when what they wait for has been read.

        That is a page before the question where they arrive before that, and all but the last token for asides.
        """
        river, turn = self.river, self.turn
        if not turn.due or river.state != RiverState.PREFILL:
            return
        read = len(river.pending) <= river.holding
        due = [d for d in turn.due if d[0].arrives == "inline" or (read and turn.may_begin(d[0]))]
        turn.due = [d for d in turn.due if d not in due]
        river.holding = turn.held_back
        for role, task, groups in due:
            self._spawn(role, task, groups)
        if turn.awaiting:
            self._await(RiverState.PREFILL)

    def _await(self, then: RiverState) -> None:
        """Holds the River before its next token, at most for the longest deadline. `then`: its state afterwards."""
        river, turn = self.river, self.turn
        turn.goes_on, river.state = then, RiverState.AWAITING
        patience = max(s.role.deadline_seconds for s in turn.awaiting)
        turn.wait_until = self.journal.now() + min(river.settings.wait_seconds, patience)
        self.journal.write(RiverWaiting(streams=tuple(s.id for s in turn.awaiting)))

    def _take_as_text(self, stream: Stream) -> bool:
        """Takes a thought as text, if the River waits for it. One that is late arrives as an aside."""
        river, turn = self.river, self.turn
        if river.state != RiverState.AWAITING or stream not in turn.awaiting:
            return False
        event = (into_prompt if stream.role.arrives == "prompt" else into_reply)(river, turn, stream)
        if event is None:
            return False
        self.journal.write(event)
        if event.into == "prompt" and river.past.tokens:
            # An accidental rest of a long text leads a small model astray.
            river.make_room(turn.before)
            self.crew.river_changed()
        self._show()
        if turn.stopped or (stream.role.ends and event.into == "reply"):
            turn.finish_reason, river.state = "stop", RiverState.IDLE
        return True

    def _show(self) -> None:
        for event in self.turn.show():
            self.journal.write(event)

    def _wait(self, state: RiverState) -> None:
        self.river.state = state
        self.turn.wait_until = self.journal.now() + self.river.settings.wait_seconds
        self.journal.write(RiverWaiting(streams=tuple(s.id for s in self.alive)))

    def _at_end(self, reason: str) -> None:
        """The River wants to stop; it is held while Streams that it requested still think."""
        self.turn.finish_reason = reason
        if reason == "stop" and self.alive and self.river.options.grammar is None:
            self._wait(RiverState.HELD)
        else:
            self.river.state = RiverState.IDLE

    def _resume(self) -> None:
        """Lets a waiting River go on when the Streams it requested are done, or the wait is over."""
        river, turn = self.river, self.turn
        if river.state == RiverState.AWAITING:
            if all(s.final for s in turn.awaiting) or self.journal.now() >= turn.wait_until:
                turn.awaiting, river.state = [], turn.goes_on
                if river.state == RiverState.WRITING and turn.at_pause() and self.alive:
                    self._wait(RiverState.WAITING)
            return
        if river.state not in _WAITS or (self.alive and self.journal.now() < turn.wait_until):
            return
        if river.state == RiverState.WAITING:
            turn.mark_pause()
            river.state = RiverState.WRITING
        elif self.crew.entrance.injected > turn.thoughts:
            # The end-of-turn token was never forwarded; a visible line break takes its place and the River goes on.
            turn.thoughts = self.crew.entrance.injected
            for token in self.prism.chat.encoder.continued(turn.builder.text, river.settings.resume):
                self._say(token)
            self._show()
            river.state = RiverState.WRITING
        else:
            river.state = RiverState.IDLE

    # -- going back ---------------------------------------------------------------------------------------------

    def mark(self, turns: int) -> Mark:
        """A point to return to."""
        return self.river.mark(turns)

    def rewind(self, mark: Mark) -> None:
        """Returns to a mark: KV and asides are then what they were."""
        self.probes.drop()
        self.river.rewind(mark)
        self.turn = self._new_turn()
        self.crew.river_changed()

    def close(self) -> None:
        """Ends the conversation and gives back its resources."""
        self.probes.drop()
        self.crew.close()
        self.river.past.close()


def matched(role: Role, words: str) -> dict[str, str] | None:
    """The groups of a self-starting role for these words; None if they are not for this role."""
    if role.when is None:
        return {"task": words.strip()}
    found = compile_re2(role.when).search(words)
    return {name: value or "" for name, value in found.groupdict().items()} if found else None
