"""A session: the public interface of one conversation. Terminal, bench and eval drive the engine through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from warpcortex_cli.engine.as_text import NOTES_BREAK
from warpcortex_cli.engine.calibration import Calibration
from warpcortex_cli.engine.contents import Said
from warpcortex_cli.engine.conversation import Conversation
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.river import Mark, River, shown
from warpcortex_cli.engine.states import RiverState, StreamState
from warpcortex_cli.engine.stepper import Stepper
from warpcortex_cli.engine.stream import Stream
from warpcortex_cli.engine.text import page_of
from warpcortex_cli.engine.view import SessionView, StreamView, session_view, stream_view
from warpcortex_cli.errors import UsageError
from warpcortex_cli.events import Event, Listener, RiverFinished, RiverStarted
from warpcortex_cli.prism.chat_format import Message, Plan, conversation
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile

MOST_NOTES = 20_000  # characters that a tool searches


@dataclass(frozen=True)
class UndoResult:
    """What `undo` took back: a "thought" or a whole "turn"."""

    kind: str
    text: str


class Session:
    """A conversation. Not thread-safe, except for `interrupt`.

    Args:
        prism: the loaded model.
        profile: roles, limits, Gate and the rest.
        seed: the same seed gives the same run on CPU.
        streams: if False, requests in River text have no effect.
        listeners: called with every event, in order.
        calibration: the Gate's, for this model.
        watched: as in `Conversation`.
        programs: as in `Conversation`.
        stepper: steps it together with other conversations on the same model; None: its own stepper.

    Attributes:
        conversation: the conversation; a new one after `clear`.
        turns: what was said so far.
        marks: where each of its notes and user turns began, for `undo`.
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
        programs: Sequence[str] = (),
        stepper: Stepper | None = None,
    ) -> None:
        self.prism = prism
        self.stepper = stepper or Stepper(prism)
        self.seed = seed
        self.watched = watched
        self._programs = frozenset(programs)
        self._streams = streams
        self._calibration = calibration
        self._journal = Journal(listeners)
        self._interrupted = False
        self._start(profile)

    def _start(self, profile: Profile) -> None:
        self.conversation = Conversation(
            self.prism,
            profile,
            self._journal,
            seed=self.seed,
            streams=self._streams,
            calibration=self._calibration,
            watched=self.watched,
            wake=self.stepper.wake,
            programs=self._programs,
        )
        self.stepper.join(self.conversation)
        self.turns: list[Said] = []
        self.marks: list[Mark] = []
        self._passage = ""  # what the River has read before the newest question
        self._undoable: int | None = None

    @property
    def profile(self) -> Profile:
        return self.conversation.profile

    @property
    def river(self) -> River:
        """The River, read-only."""
        return self.conversation.river

    @property
    def streams(self) -> list[Stream]:
        """The Streams that are remembered, read-only."""
        return list(self.conversation.crew.streams)

    def stream(self, number: int) -> Stream:
        """The Stream of that number, read-only.

        Raises:
            KeyError: there is none, or it has been forgotten.
        """
        return self.conversation.crew.streams[number]

    def listen(self, listener: Listener) -> None:
        """Calls `listener` with every event from now on, in order."""
        self._journal.listeners.append(listener)

    def step(self) -> bool:
        """One step of all conversations on the stepper. False if nobody had anything to do. Raises this one's error."""
        stepped = self.stepper.step()
        self.conversation.raise_fault()
        return stepped

    # -- talking ------------------------------------------------------------------------------------------------

    def load_notes(self, text: str, name: str = "notes", progress: Callable[[int, int], None] | None = None) -> int:
        """Reads notes that stand before the user's next words. Returns their number of tokens."""
        if not text.strip():
            return 0
        said = Said("notes", text)
        plan = self._plan(said)
        self._begin(said)
        try:
            self._prefill(self._rewritten(plan), progress)
        except BaseException:  # Ctrl-C too: notes are read as a whole or not at all
            self._take_back()
            raise
        return len(plan.ids)

    def _prefill(self, ids: list[int], progress: Callable[[int, int], None] | None) -> None:
        river = self.river
        self.conversation.read(ids)
        while river.state == RiverState.READING and self.step():
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
        said = Said("user", text)
        return self._reply(said, self._plan(said))

    def _reply(self, said: Said, plan: Plan) -> Iterator[Event]:
        conversation, river, journal = self.conversation, self.river, self._journal
        self._begin(said)
        self._interrupted = False
        self._undoable = None
        began = journal.now()
        streams = conversation.crew.streams
        last_stream = streams.spawned
        journal.write(RiverStarted(turn=len(self.marks), prompt_tokens=len(plan.ids)))
        ids = self._rewritten(plan)
        conversation.begin_turn(ids, said.text, self._notes(), self._question(ids, said), self._reworded)
        turn = conversation.turn
        turn.awaited = True
        rest, own = list[int](), 0
        reason = "interrupted"
        try:
            while not river.idle and not self._interrupted:
                if not self.step() and not river.idle:
                    if not conversation.alive:
                        break
                    self.stepper.rest()
                yield from journal.drain()
            reason = "interrupted" if self._interrupted else turn.finish_reason
        finally:
            turn.awaited = False
            conversation.crew.cancel_all("the reply was interrupted" if self._interrupted else "the reply is over")
            for event in turn.finish(cut=reason != "stop"):
                journal.write(event)
            rest, own = river.drop_pending()
            river.state = RiverState.IDLE
            self.turns.append(Said("assistant", turn.text))
            injected = [s for s in streams.since(last_stream) if s.state == StreamState.INJECTED]
            self._undoable = injected[-1].id if injected else None
            journal.write(RiverFinished(reason=reason, tokens=turn.written, seconds=journal.now() - began))
        yield from journal.drain()
        if rest and turn.written:  # a cut reply: its last token was shown, so it must be read
            self._prefill(rest, None)
            river.sentences.claim(own)

    def _begin(self, said: Said) -> None:
        """Begins notes or a user's words, and sets a mark for `undo`. After notes the user's turn stays open."""
        self.marks.append(self.conversation.mark(len(self.turns)))
        self.turns.append(said)

    def _reworded(self, passage: str) -> list[int] | None:
        """The tokens of the turn that has begun, with a passage before the question, of which nothing is read yet.

        None if that would change what the River has read. The passage leaves the context with the next turn.
        """
        said, turns, river = self.turns[-1], self.turns[:-1], self.river
        plan = self._template(said, turns, passage)
        known = list(river.sentences.ids[plan.keep :])
        if plan.ids[: len(known)] != known:
            if len(river.pending) != self.conversation.turn.prompt_total:
                return None  # a page of this turn has been read already
            plan, known = self._plan(said, turns, passage), []
            if plan.keep != river.length:
                return None
        self._passage = passage
        return plan.ids[len(known) :]

    def _question(self, ids: list[int], said: Said) -> int:
        """How many of a turn's tokens stand behind the page that the user's words begin with."""
        page = said.text[: page_of(said.text)]
        if not page or not any(role.arrives == "prompt" for role in self.profile.roles):
            return len(ids)
        read = self._plan(replace(said, role="notes", text=page), self.turns[:-1]).ids
        return len(ids) - next((i for i, (a, b) in enumerate(zip(read, ids, strict=False)) if a != b), len(read))

    def _plan(self, said: Said, turns: Sequence[Said] | None = None, passage: str = "") -> Plan:
        """What the River must read to hold the conversation with one more turn.

        Args:
            turns: those before it; None: all so far.
            passage: text that stands before its question.
        """
        river, turns = self.river, self.turns if turns is None else turns
        plan = self._template(said, turns, passage)
        if plan.keep < river.past.tokens:  # tokens in the past stay as they were read
            words, opened = self._messages([*turns, said], passage)[-1].content, said.role == "notes"
            return Plan(river.length, self.prism.chat.turn(words, river.settings.thinking, opened=opened))
        return plan

    def _template(self, said: Said, turns: Sequence[Said], passage: str) -> Plan:
        """How the context comes to hold all of it as the template writes it."""
        river, chat = self.river, self.prism.chat
        held, opened = river.sentences, said.role == "notes"
        own = len(held.own) - len(held.own.rstrip(b"\1"))
        if self.conversation.turn.stopped:  # it wrote beyond the end of its reply, which is read again
            own = 0
        before, after = self._messages(turns, self._passage), self._messages([*turns, said], passage)
        thinking = river.settings.thinking
        return chat.plan(before, after, held.ids, own, opened=opened, thinking=thinking)

    def _messages(self, turns: Sequence[Said], passage: str = "") -> list[Message]:
        """The turns as messages for the template. Notes stand before the words that follow them.

        Args:
            passage: stands before the question in the newest words of the user.
        """
        river = self.river
        words, messages = "", conversation(river.settings.prompt, *shown(river.settings))
        newest = max((i for i, said in enumerate(turns) if said.role == "user"), default=None)
        for i, said in enumerate(turns):
            if said.role == "notes":
                words += said.text.strip() + NOTES_BREAK
            elif said.role == "user":
                if i == newest and not words and not page_of(said.text):
                    messages += shown(river.settings, said.text)
                if passage and i == newest:
                    cut = page_of(said.text)
                    words += said.text[:cut] + passage + NOTES_BREAK
                    said = replace(said, text=said.text[cut:])
                messages.append(Message("user", words + said.text))
                words = ""
            else:
                messages.append(Message("assistant", river.opened + said.text))
        return [*messages, Message("user", words)] if words else messages

    def _notes(self) -> str:
        """All notes of the conversation, or the newest part of them."""
        return NOTES_BREAK.join(t.text for t in self.turns if t.role == "notes")[-MOST_NOTES:]

    def _rewritten(self, plan: Plan) -> list[int]:
        """Takes back what the template now writes differently, and reads past replies again. Returns what is left."""
        river, self._passage = self.river, ""
        if plan.keep < river.length:
            self.marks = [replace(m, tokens=min(m.tokens, plan.keep)) for m in self.marks]
            self.conversation.rewind(replace(self.conversation.mark(len(self.turns)), tokens=plan.keep))
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
        """Withdraws the last thought injected into the last reply. If there is none, takes back the last turn."""
        if self._undoable is not None:
            stream = self.stream(self._undoable)
            self._undoable = None
            if any(a.stream == stream.id for a in self.river.asides):
                self.withdraw(stream.id, "undo")
                return UndoResult("thought", stream.thought.text)
        return UndoResult("turn", self._take_back()) if self.marks else None

    def _take_back(self) -> str:
        """Returns to the last mark. Returns the text of the turn that began there."""
        mark = self.marks.pop()
        text = self.turns[mark.turns].text
        del self.turns[mark.turns :]
        self.conversation.rewind(mark)
        return text

    def withdraw(self, stream: int, reason: str) -> None:
        """Removes a Stream's thought from the River's attention. What the River wrote meanwhile stays."""
        self.conversation.crew.entrance.withdraw(stream, reason)

    def withhold(self, stream: int) -> None:
        """Keeps a future Stream's thought out, to see what the River writes without it."""
        self.conversation.crew.entrance.withheld.add(stream)

    def clear(self) -> None:
        """Starts a new conversation with the same profile and settings."""
        gate, injecting = self.conversation.gate.settings, self.conversation.crew.entrance.injecting
        self.close()
        self._start(self.profile)
        self.conversation.gate.use(gate)
        self.set_injection(injecting)

    def restart(self) -> None:
        """Forgets all that was said. Tokens stay: what the next conversation begins with, too, is not read again."""
        self.turns, self.marks, self._passage, self._undoable = [], [], "", None
        self.river.asides.keep([])

    def close(self) -> None:
        """Ends the conversation and takes it off the stepper."""
        self.stepper.leave(self.conversation)
        self.conversation.close()

    def set_injection(self, on: bool) -> None:
        self.conversation.crew.entrance.injecting = on

    def set_gate(self, threshold: float) -> None:
        gate = self.conversation.gate
        gate.use(gate.settings.model_copy(update={"threshold": threshold}))

    def set_profile(self, profile: Profile) -> None:
        self.conversation.use(profile)
        self.stepper.settle()

    # -- looking ------------------------------------------------------------------------------------------------

    def snapshot(self) -> SessionView:
        return session_view(self.conversation)

    def reads(self) -> str:
        """What the River's next token reads beside its tail, as text for people."""
        return str(self.river.reads())

    def thoughts(self) -> list[StreamView]:
        """The Streams that finished a thought, in order."""
        now = self._journal.now()
        return [stream_view(s, now) for s in self.streams if s.final and s.thought.text]

    def earlier_thoughts(self) -> list[tuple[int, str]]:
        """Thoughts that the River holds whose Streams are forgotten: from an earlier run, or ended long ago."""
        known = {s.id for s in self.streams}
        return [(a.stream, a.text) for a in self.river.asides if a.stream not in known]

    def recalled(self) -> list[tuple[str, list[str]]]:
        """Sentences recalled for the last turn, each with the rare words that it shares with the question."""
        return self.river.past.reasons(self.conversation.turn.asked.words)

    def transcript(self) -> list[Said]:
        return list(self.turns)

    # -- coming back --------------------------------------------------------------------------------------------

    def repeat(self, turns: Sequence[Said], progress: Callable[[int, int], None] | None = None) -> None:
        """Reads another conversation's turns into this empty one. Nothing is generated again."""
        for said in turns:
            if said.role == "notes":
                self.load_notes(said.text, progress=progress)
                continue
            plan = self._plan(said)
            if said.role == "user":
                self._begin(said)
            else:
                self.turns.append(said)
            self._prefill(self._rewritten(plan), progress)
