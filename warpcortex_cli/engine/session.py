"""A session: one conversation with one River. Terminal, bench and eval drive the engine through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from warpcortex_cli.engine.calibration import Calibration
from warpcortex_cli.engine.contents import Turn
from warpcortex_cli.engine.engine import Engine
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.river import Mark
from warpcortex_cli.engine.view import SessionView, StreamView, session_view, stream_view
from warpcortex_cli.errors import UsageError
from warpcortex_cli.events import Event, Listener, RiverFinished, RiverStarted
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
    ) -> None:
        self.prism = prism
        self.seed = seed
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
        ids = self._into_open_turn(text.strip() + NOTES_BREAK)
        self._begin(Turn("notes", text))
        try:
            self._prefill(ids, progress)
        except BaseException:  # Ctrl-C too: notes are in the context as a whole or not at all
            self._take_back()
            raise
        return len(ids)

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
        ids = [*self._into_open_turn(text.strip()), *self.prism.chat.user_close()]
        return self._reply(text, ids)

    def _reply(self, text: str, ids: list[int]) -> Iterator[Event]:
        engine, river, journal = self.engine, self.engine.river, self._journal
        self._begin(Turn("user", text))
        self._interrupted = False
        self._undoable = None
        began = journal.now()
        last_stream = engine.streams.spawned
        journal.write(RiverStarted(turn=len(self.marks), prompt_tokens=len(ids)))
        engine.begin_turn(ids)
        reason = "interrupted"
        try:
            while river.state != "idle" and not self._interrupted:
                if not engine.step() and river.state != "idle" and not engine.alive:
                    break
                yield from journal.drain()
            reason = "interrupted" if self._interrupted else engine.finish_reason
        finally:
            engine.cancel_all("the reply was interrupted" if self._interrupted else "the reply is over")
            for event in river.finish_text(cut=reason != "stop"):
                journal.write(event)
            river.pending.clear()
            river.state = "idle"
            self.turns.append(Turn("assistant", river.text))
            injected = [s for s in engine.streams.since(last_stream) if s.state == "injected"]
            self._undoable = injected[-1].id if injected else None
            journal.write(RiverFinished(reason=reason, tokens=river.written, seconds=journal.now() - began))
        yield from journal.drain()

    def _begin(self, turn: Turn) -> None:
        """Notes or a user's words: what can be gone back to. Behind notes the user's turn is still open."""
        river = self.engine.river
        self.marks.append(river.mark(len(self.turns)))
        self.turns.append(turn)
        river.open_user = turn.role == "notes"
        river.needs_close = not river.open_user

    def _into_open_turn(self, text: str) -> list[int]:
        """Token ids that bring the context to an open user turn, and `text` in it."""
        chat, river = self.prism.chat, self.engine.river
        ids: list[int] = []
        if river.length == 0:
            ids += chat.opening(river.settings.prompt)
        elif river.needs_close:
            ids += chat.assistant_close()
        if not river.open_user:
            ids += chat.user_open()
        return [*ids, *self.prism.encode(text)]

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
                return UndoResult("thought", stream.thought)
        return UndoResult("turn", self._take_back()) if self.marks else None

    def _take_back(self) -> str:
        """Returns to the mark set last; the text of the turn that began there."""
        mark = self.marks.pop()
        text = self.turns[mark.turns].text
        del self.turns[mark.turns :]
        self.engine.river.rewind(mark)
        self.engine.admission.forget()
        return text

    def clear(self) -> None:
        """Starts the conversation anew; profile and settings stay."""
        gate, injecting = self.engine.gate.settings, self.engine.injecting
        self.engine.river.past.close()
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
        return [stream_view(s, now) for s in self.engine.streams if s.final and s.thought]

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
            if turn.role == "user":
                ids = [*self._into_open_turn(turn.text.strip()), *self.prism.chat.user_close()]
                self._begin(turn)
                self._prefill(ids, progress)
            else:
                ids = self.prism.encode(turn.text)
                self.turns.append(turn)
                self._prefill(ids, progress)
                self.engine.river.sentences.claim(len(ids))
