"""A swarm: Streams of a file of tasks over one River, which reads the notes and says nothing.

Only the Streams that are awake are objects: as many as there are seats. A task that waits is a line of its file, and a
thought that is finished is a line of another, so memory does not depend on how many there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from warpcortex_cli.engine.brief import Thought
from warpcortex_cli.engine.crew import Crew
from warpcortex_cli.engine.dialogue import notes
from warpcortex_cli.engine.entrance import Entrance
from warpcortex_cli.engine.gate import Gate
from warpcortex_cli.engine.injection import Injection
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.pacing import Promise
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.states import StreamState
from warpcortex_cli.engine.stepper import Part, Plan
from warpcortex_cli.engine.stream import Stream, certainty
from warpcortex_cli.engine.workers import WORKERS
from warpcortex_cli.engine.workers.base import Host
from warpcortex_cli.events import Event, StreamEnded
from warpcortex_cli.profile import Role
from warpcortex_cli.swarm.plans import Plans
from warpcortex_cli.swarm.tasks import Task, read
from warpcortex_cli.swarm.thoughts import Answered

_MOST_WRITTEN = 2000  # characters of what a Stream without a thought has written


class Outlet(Entrance):
    """Where the thoughts of a swarm go. They are judged as at the entrance of a River, or not at all, and leave."""

    @property
    def weighed(self) -> bool:
        return True  # each thought is written down with its certainty

    def offer(self, stream: Stream, thought: Thought) -> None:
        if stream.judged:
            super().offer(stream, thought)
            return
        stream.thought, stream.state = thought, StreamState.GATING
        exact = WORKERS[stream.role.work].exact
        self._end(stream, StreamState.INJECTED, thought.why if exact else "not judged")

    def _inject(self, injection: Injection) -> None:
        self._end(injection.stream, StreamState.INJECTED, injection.stream.reason)


class Swarm:
    """Takes part in the steps of a session's Stepper until all tasks have ended.

    Args:
        session: its River is read, and does nothing meanwhile.
        path: the file of tasks.
        answered: what is not to be done again; kept up to date.

    Attributes:
        states: how many Streams ended in which state, in this run.
        crew: the Streams that are awake.

    Raises:
        UsageError: there is no such role.
    """

    promise = Promise(0.0, False)  # the River writes nothing that could be slowed down

    def __init__(
        self,
        session: Session,
        path: Path,
        plans: Plans,
        answered: Answered,
    ) -> None:
        profile = plans.applied(session.profile)
        self.plans, self.role = plans, plans.role_of(session.profile)
        self.states: Counter[str] = Counter()
        self.journal = Journal([self._listen])
        host = Host(session.prism, session.river, session.seed, session.stepper.wake, session.programs)
        self.crew = Crew(host, profile, Gate(profile.gate, session.calibration), self.journal, True, entrance=Outlet)
        self.crew.use(profile)
        self._notes = notes(session.turns)
        self._answered = answered
        self._waiting = self._unanswered(path)
        self._read = False  # whether the file of tasks has been read to its end
        self._tasks: dict[int, tuple[Task, int]] = {}  # of those that are awake, by the Stream's number
        self._fresh: list[dict[str, Any]] = []

    def _unanswered(self, path: Path) -> Iterator[tuple[Task, int]]:
        for task in read(path, self.role):
            for sample in range(self.plans.samples):
                if (task.line, sample) not in self._answered:
                    yield task, sample

    @property
    def over(self) -> bool:
        """Whether all tasks have ended."""
        return self._read and not self._tasks

    # -- a step -------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Its part of the next step."""
        crew = self.crew
        self._wake()
        crew.expire()
        crew.admit()
        crew.collect()
        ready = crew.ready()

        def parts(width: int) -> list[Part]:
            first = crew.entrance.parts(width)
            return [*first, *crew.parts(ready, width - sum(len(p.row.tokens) for p in first))]

        return Plan(0, lambda room: None, sum(r.wanted for r in ready) + crew.entrance.wanted, parts)

    def _wake(self) -> None:
        """Gives free seats to the next tasks."""
        while len(self._tasks) < self.plans.awake:
            following = next(self._waiting, None)
            if following is None:
                self._read = True
                return
            task, sample = following
            # Its number, and with it what it draws, does not depend on what was answered before.
            number = task.line * self.plans.samples + sample
            self._tasks[number] = following
            self.crew.streams.continue_from(number - 1)
            self.crew.spawn(self.role, task.text, {"notes": self._notes, **task.groups})

    def _listen(self, event: Event) -> None:
        if isinstance(event, StreamEnded):
            task, sample = self._tasks.pop(event.id)
            self._fresh.append(line_of(task, sample, self.crew.streams[event.id], event))
            self._answered.add(task.line, sample, task.checksum)
            self.states[event.state] += 1

    def drain(self) -> list[dict[str, Any]]:
        """What has ended since the last call, as lines for the file of thoughts."""
        self.journal.drain()
        fresh, self._fresh = self._fresh, []
        return fresh

    def close(self) -> None:
        """Gives everything back. Streams that are awake are as if they had never begun."""
        self.journal.listeners.clear()
        self.crew.close()


def line_of(task: Task, sample: int, stream: Stream, ended: StreamEnded) -> dict[str, Any]:
    """A Stream that has ended, as a line of the file of thoughts."""
    thought = stream.thought
    written = {"written": stream.text[:_MOST_WRITTEN]} if stream.text and not thought.text else {}
    return {
        "line": task.line,
        "sample": sample,
        "id": task.id,
        "task": task.text,
        "state": ended.state,
        "thought": thought.text,
        "score": None if stream.gate_score is None else round(stream.gate_score, 6),
        "certainty": round(certainty(thought.log_probabilities), 6) if thought.text else None,
        "why": ended.reason,
        "tokens": ended.tokens,
        "seconds": round(ended.seconds, 3),
        **written,
    }


def inject(session: Session, role: Role, lines: Iterable[dict[str, Any]]) -> list[str]:
    """Puts finished thoughts beside the River, the best first, as many as its budget holds. Returns those it has.

    They have been judged, so the Gate does not judge them again.
    """
    room, chosen = session.profile.injection.budget_tokens, list[str]()
    for line in lines:
        room -= len(session.prism.encode(role.injected_as.format(thought=line["thought"])))
        if room < 0:
            break
        chosen.append(line["thought"])
    given = [session.inject(thought, role) for thought in reversed(chosen)]  # the best comes last, where the River is
    return [stream.thought.text for stream in given if stream.state == StreamState.INJECTED]


def run(
    session: Session, swarm: Swarm, keep: Callable[[list[dict[str, Any]]], None], until: Callable[[], bool]
) -> None:
    """Steps until all tasks have ended.

    Args:
        keep: writes down what has ended, after each step.
        until: whether to stop before; asked after each step.
    """
    stepper = session.stepper
    stepper.join(swarm)
    try:
        while True:
            stepped = stepper.step()
            session.conversation.raise_fault()
            ended = swarm.drain()
            keep(ended)
            if swarm.over or until():
                return
            if not stepped and not ended:
                stepper.rest()
    finally:
        stepper.leave(swarm)
        swarm.close()
