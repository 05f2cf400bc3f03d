"""A session: one conversation with one River. Terminal, bench and eval drive the engine through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from warpcortex_cli.engine.calibration import Calibration
from warpcortex_cli.engine.contents import Turn
from warpcortex_cli.engine.engine import Engine
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.river import Mark
from warpcortex_cli.engine.view import SessionView, StreamView, session_view, stream_view
from warpcortex_cli.errors import UsageError
from warpcortex_cli.events import Event, Listener, RiverFinished, RiverStarted
from warpcortex_cli.prism.chat_format import Message, Plan, conversation
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile

NOTES_BREAK = "\n\n"


@dataclass(frozen=True)
class UndoResult:
    """What `undo` took back: a "thought" or a whole "turn"."""

    kind: str
    text: str


class Session:
    """A conversation. Not thread-safe, but for `interrupt`.

    Args:
        prism: the loaded model.
        profile: roles, limits, Gate and the rest.
        seed: the same seed gives the same run on CPU.
        streams: False leaves requests in River text without an effect.
        listeners: called with every event, in order.
        calibration: of the Gate, for this model.
        watched: as in `Engine`.

    Attributes:
        turns: what was said so far.
        marks: where each of its notes and user turns began, to go back to.
    """

    def __init__(
        self,
        prism: Prism,
        profile: Profile,
        *,
        seed: int = 0,
        streams: bool = True,
        listeners: Sequence[Listener] = (),
        calibration: Calibration | None = None,
        watched: bool = False,
    ) -> None:
        self.prism = prism
        self.seed = seed
        self.watched = watched
        self._streams = streams
        self._calibration = calibration
        self._journal = Journal(listeners)
        self._interrupted = False
        self._start(profile)

    def _start(self, profile: Profile) -> None:
        self.engine = Engine(
            self.prism,
            profile,
            self._journal,
            seed=self.seed,
            streams=self._streams,
            calibration=self._calibration,
            watched=self.watched,
        )
        self.turns: list[Turn] = []
        self.marks: list[Mark] = []
        self._undoable: int | None = None

    @property
    def profile(self) -> Profile:
        return self.engine.profile

    # -- talking ------------------------------------------------------------------------------------------------

    def load_notes(self, text: str, name: str = "notes", progress: Callable[[int, int], None] | None = None) -> int:
        """Prefills notes in front of the user's next words. Returns their number of tokens."""
        if not text.strip():
            return 0
        turn = Turn("notes", text)
        plan = self._plan(turn)
        self._begin(turn)
        try:
            self._prefill(self._rewritten(plan), progress)
        except BaseException:  # Ctrl-C too: notes are in the context as a whole or not at all
            self._take_back()
            raise
        return len(plan.ids)

    def _prefill(self, ids: list[int], progress: Callable[[int, int], None] | None) -> None:
        river = self.engine.river
        self.engine.read(ids)
        while river.state == "reading" and self.engine.step():
            if progress:
                progress(len(ids) - len(river.pending), len(ids))
        self._journal.drain()

    def send(self, text: str) -> Iterator[Event]:
        """One user turn: yields events as they happen, the last one `RiverFinished`.

        Raises:
            UsageError: nothing was asked.
        """
        if not text.strip():
            raise UsageError("the question is empty.", "Write what you want to know.")
        turn = Turn("user", text)
        return self._reply(turn, self._plan(turn))

    def _reply(self, turn: Turn, plan: Plan) -> Iterator[Event]:
        engine, river, journal = self.engine, self.engine.river, self._journal
        self._begin(turn)
        self._interrupted = False
        self._undoable = None
        began = journal.now()
        last_stream = engine.streams.spawned
        journal.write(RiverStarted(turn=len(self.marks), prompt_tokens=len(plan.ids)))
        engine.begin_turn(self._rewritten(plan))
        rest: list[int] = []
        reason = "interrupted"
        try:
            while river.state != "idle" and not self._interrupted:
                if not engine.step() and river.state != "idle":
                    if not engine.alive:
                        break
                    engine.rest()
                yield from journal.drain()
            reason = "interrupted" if self._interrupted else engine.finish_reason
        finally:
            engine.cancel_all("the reply was interrupted" if self._interrupted else "the reply is over")
            for event in river.finish_text(cut=reason != "stop"):
                journal.write(event)
            rest = list(river.pending) if river.written else []
            river.pending.clear()
            river.state = "idle"
            self.turns.append(Turn("assistant", river.text))
            injected = [s for s in engine.streams.since(last_stream) if s.state == "injected"]
            self._undoable = injected[-1].id if injected else None
            journal.write(RiverFinished(reason=reason, tokens=river.written, seconds=journal.now() - began))
        yield from journal.drain()
        if rest:  # a reply that was cut: its last token was said, so it is read
            self._prefill(rest, None)
            river.sentences.claim(len(rest))

    def _begin(self, turn: Turn) -> None:
        """Notes or a user's words: what can be gone back to. Behind notes the user's turn is still open."""
        river = self.engine.river
        self.marks.append(river.mark(len(self.turns)))
        self.turns.append(turn)
        river.open_user = turn.role == "notes"
        river.needs_close = not river.open_user

    def _plan(self, turn: Turn) -> Plan:
        """What the River must read so that it holds the conversation with one turn more, as the template writes it."""
        river, chat = self.engine.river, self.prism.chat
        held, opened = river.sentences, turn.role == "notes"
        own = len(held.own) - len(held.own.rstrip(b"\1"))
        if river.stopped:  # it wrote more than its reply, which is read anew
            own = 0
        before, after = self._messages(self.turns), self._messages([*self.turns, turn])
        thinking = river.settings.thinking
        plan = chat.plan(before, after, held.ids, own, opened=opened, thinking=thinking)
        if plan.keep < river.past.tokens:  # what has left the window stays what it was when it was read
            words = after[-1].content
            return Plan(river.length, chat.turn(words, thinking, opened=opened))
        return plan

    def _messages(self, turns: Sequence[Turn]) -> list[Message]:
        """The turns as a template is told of them; notes stand in front of the words that follow them."""
        river = self.engine.river
        words, messages = "", conversation(river.settings.prompt)
        for turn in turns:
            if turn.role == "notes":
                words += turn.text.strip() + NOTES_BREAK
            elif turn.role == "user":
                messages.append(Message("user", words + turn.text))
                words = ""
            else:
                messages.append(Message("assistant", river.opened + turn.text))
        return [*messages, Message("user", words)] if words else messages

    def _rewritten(self, plan: Plan) -> list[int]:
        """Takes back what the template writes otherwise now, and reads what was said; the rest is left to be read."""
        river = self.engine.river
        if plan.keep < river.length:
            self.marks = [replace(m, tokens=min(m.tokens, plan.keep)) for m in self.marks]
            river.rewind(replace(river.mark(len(self.turns)), tokens=plan.keep))
            self.engine.river_changed()
        if not plan.said:
            return plan.ids
        read = plan.said[-1][1] - plan.keep
        self._prefill(plan.ids[:read], None)
        for first, last in plan.said:
            river.sentences.wrote(first, last)
        return plan.ids[read:]

    def interrupt(self) -> None:
        """Ends the running reply after the current step; safe to call from a signal handler or another thread."""
        self._interrupted = True

    # -- changing one's mind ------------------------------------------------------------------------------------

    def undo(self) -> UndoResult | None:
        """Withdraws the thought injected last in the last reply; called again, the last turn."""
        engine = self.engine
        if self._undoable is not None:
            stream = engine.streams[self._undoable]
            self._undoable = None
            if any(a.stream == stream.id for a in engine.river.asides):
                engine.withdraw(stream.id, "undo")
                return UndoResult("thought", stream.thought.text)
        return UndoResult("turn", self._take_back()) if self.marks else None

    def _take_back(self) -> str:
        """Returns to the mark set last; the text of the turn that began there."""
        mark = self.marks.pop()
        text = self.turns[mark.turns].text
        del self.turns[mark.turns :]
        self.engine.river.rewind(mark)
        self.engine.river_changed()
        return text

    def clear(self) -> None:
        """Starts the conversation anew; profile and settings stay."""
        gate, injecting = self.engine.gate.settings, self.engine.injecting
        self.engine.close()
        self._start(self.profile)
        self.engine.gate.use(gate)
        self.engine.injecting = injecting

    def set_injection(self, on: bool) -> None:
        self.engine.injecting = on

    def set_gate(self, threshold: float) -> None:
        self.engine.gate.use(self.engine.gate.settings.model_copy(update={"threshold": threshold}))

    def set_profile(self, profile: Profile) -> None:
        self.engine.use(profile)

    # -- looking ------------------------------------------------------------------------------------------------

    def snapshot(self) -> SessionView:
        return session_view(self.engine)

    def thoughts(self) -> list[StreamView]:
        """Streams that finished a thought, in order."""
        now = self._journal.now()
        return [stream_view(s, now) for s in self.engine.streams if s.final and s.thought.text]

    def earlier_thoughts(self) -> list[tuple[int, str]]:
        """Thoughts that the River holds whose Streams are not known any more: of an earlier run, or long ended."""
        known = {s.id for s in self.engine.streams}
        return [(a.stream, a.text) for a in self.engine.river.asides if a.stream not in known]

    def recalled(self) -> list[tuple[str, list[str]]]:
        """Sentences that came back for the last turn, each with the rare words that it shares with what was asked."""
        return self.engine.river.reasons()

    def transcript(self) -> list[Turn]:
        return list(self.turns)

    # -- coming back --------------------------------------------------------------------------------------------

    def repeat(self, turns: Sequence[Turn], progress: Callable[[int, int], None] | None = None) -> None:
        """Brings an empty conversation to where another one stood: all that was said is prefilled, none of it anew."""
        for turn in turns:
            if turn.role == "notes":
                self.load_notes(turn.text, progress=progress)
                continue
            plan = self._plan(turn)
            if turn.role == "user":
                self._begin(turn)
            else:
                self.turns.append(turn)
            self._prefill(self._rewritten(plan), progress)
