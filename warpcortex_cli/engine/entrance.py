"""How thoughts enter the River: each is read beside it, judged by the Gate, and added to its asides."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from warpcortex_cli.engine.asides import Aside
from warpcortex_cli.engine.brief import Thought
from warpcortex_cli.engine.gate import Gate
from warpcortex_cli.engine.injection import Injection, Reading
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.river import River
from warpcortex_cli.engine.states import StreamState
from warpcortex_cli.engine.stepper import Part
from warpcortex_cli.engine.stream import Stream, certainty
from warpcortex_cli.engine.workers import WORKERS
from warpcortex_cli.events import GateDecided, ThoughtInjected, ThoughtWithdrawn
from warpcortex_cli.prism.rows import Row, RowResult
from warpcortex_cli.profile import InjectionSettings

STEP_THOUGHT_TOKENS = 128  # thoughts on their way in: all tails are still full then, and they may need whole logits


class Entrance:
    """Thoughts on their way in.

    Args:
        contained: a context in which an error ends that Stream alone.
        end: ends a Stream.
        as_text: makes a Stream's thought River text, in its reply or its prompt, if it can.

    Attributes:
        injections: the thoughts that are being read, the oldest first.
        injecting: whether thoughts are injected at all.
        injected: how many have been injected so far.
        withheld: Streams whose thoughts are not injected, to see what the River writes without them.
    """

    def __init__(
        self,
        river: River,
        gate: Gate,
        journal: Journal,
        contained: Callable[[Stream], AbstractContextManager[None]],
        end: Callable[[Stream, StreamState, str], None],
        as_text: Callable[[Stream], bool] = lambda stream: False,
    ) -> None:
        self.river, self.gate = river, gate
        self.injections: list[Injection] = []
        self.injecting = True
        self.injected = 0
        self.withheld: set[int] = set()
        self._as_text = as_text
        self._budget = 0
        self._journal, self._contained, self._end = journal, contained, end

    def use(self, settings: InjectionSettings) -> None:
        """Applies the settings of a profile. Thoughts that no longer fit the budget are dropped."""
        self.injecting, self._budget = settings.enabled, settings.budget_tokens
        while self.river.asides.tokens > self._budget:
            self.withdraw(self.river.asides[0].stream, "budget")

    def offer(self, stream: Stream, thought: Thought) -> None:
        """Takes a Stream's thought in; the Stream's work is over."""
        stream.thought = thought
        if not self.injecting:
            self._end(stream, StreamState.REJECTED, "injection is off")
            return
        if stream.id in self.withheld:
            self._end(stream, StreamState.CANCELLED, "it was withheld")
            return
        if not stream.judged:
            stream.reason = thought.why if WORKERS[stream.role.work].exact else "its role has it not judged"
        stream.state = StreamState.GATING
        stream.rest()
        self._replaced(stream)
        if any(a.stream == stream.id and a.text == thought.text for a in self.river.asides):
            self._end(stream, StreamState.INJECTED, stream.reason)
            return
        if stream.role.arrives != "aside" and self._as_text(stream):
            self._end(stream, StreamState.INJECTED, stream.reason)
            return
        injection = Injection(stream, self.river, self.gate.weighs and stream.judged)
        if injection.positions:
            self.injections.append(injection)
        else:
            self._end(stream, StreamState.FAILED, "the thought has no tokens")

    def offer_part(self, stream: Stream, thought: Thought) -> None:
        """Takes in what a Stream has so far, which goes on. It takes the place of an earlier part that still waits."""
        if not self.injecting or stream.id in self.withheld:
            return
        self._replaced(stream)
        injection = Injection(stream, self.river, self.gate.weighs and stream.judged, thought)
        if injection.positions:
            self.injections.append(injection)

    def _replaced(self, stream: Stream) -> None:
        """Forgets what a Stream has offered before and what is still on its way."""
        for earlier in self.drop(stream):
            earlier.release()

    def holds(self, stream: Stream) -> bool:
        """Whether a thought of this Stream stands beside the River."""
        return any(a.stream == stream.id for a in self.river.asides)

    @property
    def weighed(self) -> bool:
        """Whether it needs the probability of each token that a Stream writes."""
        return self.gate.settings.certainty > 0

    @property
    def wanted(self) -> int:
        """Tokens that are still to be read."""
        return sum(i.left for i in self.injections)

    def parts(self, width: int) -> list[Part]:
        """Their next rows, with at most `width` tokens."""
        parts: list[Part] = []
        room = min(width, STEP_THOUGHT_TOKENS)
        for injection in self.injections:
            with self._contained(injection.stream):
                for reading, row in injection.rows(room):
                    room -= len(row.tokens)
                    parts.append(self._part(injection, reading, row))
        return parts

    def _part(self, injection: Injection, reading: Reading, row: Row) -> Part:
        def absorb(result: RowResult) -> None:
            injection.absorb(reading, result)
            if injection.left or injection.stream.final:
                return
            self.injections.remove(injection)
            self._judge(injection)
            injection.release()

        stream = injection.stream
        return Part(row, absorb, lambda: self._contained(stream), lambda: not stream.final)

    def _judge(self, injection: Injection) -> None:
        stream, thought = injection.stream, injection.thought
        if not stream.judged:
            self._inject(injection)
            return
        decision = self.gate.decide(
            thought.text,
            injection.there.hidden if thought.hidden is None else thought.hidden,
            self.river.hidden,
            injection.gain(),
            stream.role.gate_threshold,
            certainty(thought.log_probabilities),
        )
        stream.gate_score, stream.reason = decision.score, decision.reason
        self._journal.write(
            GateDecided(
                id=stream.id, thought=thought.text, passed=decision.passed, score=decision.score,
                threshold=decision.threshold, mode=decision.mode, reason=decision.reason,
            )
        )  # fmt: skip
        if decision.passed:
            self._inject(injection)
        elif not injection.part:
            self._end(stream, StreamState.REJECTED, decision.reason)

    def _inject(self, injection: Injection) -> None:
        if not injection.there.finite:
            self._end(injection.stream, StreamState.FAILED, "the thought's hidden states are not finite")
            return
        aside, stream = injection.aside(), injection.stream
        if aside.tokens > self._budget:
            why = f"{aside.tokens} tokens are more than the injection budget of {self._budget}"
            if not injection.part:
                self._end(stream, StreamState.REJECTED, why)
            return
        staying, leaving = [a for a in self.river.asides if a.stream != stream.id], list[Aside]()
        if self.holds(stream):
            self._journal.write(ThoughtWithdrawn(id=stream.id, reason="replaced"))
        while staying and sum(a.tokens for a in staying) + aside.tokens > self._budget:
            leaving.append(staying.pop(0))
        self.river.inject([*staying, aside])  # if memory runs out here, nothing has changed
        self.injected += 1
        for old in leaving:
            self._journal.write(ThoughtWithdrawn(id=old.stream, reason="budget"))
        positions = aside.kv.positions.tolist()  # an index made of a list would lie on the CPU
        self._journal.write(
            ThoughtInjected(id=aside.stream, tokens=aside.tokens, first=positions[0], last=positions[-1])
        )
        if injection.part:
            stream.thought = replace(injection.thought, hidden=None)
        else:
            self._end(stream, StreamState.INJECTED, stream.reason)

    def withdraw(self, stream: int, reason: str) -> None:
        """Removes a thought from the River's attention. What the River wrote meanwhile stays."""
        self.river.asides.keep(a for a in self.river.asides if a.stream != stream)
        self._journal.write(ThoughtWithdrawn(id=stream, reason=reason))

    def drop(self, stream: Stream) -> list[Injection]:
        """Stops reading a Stream's thought. The caller gives back what it holds."""
        its = [i for i in self.injections if i.stream is stream]
        self.injections = [i for i in self.injections if i.stream is not stream]
        return its
