"""A session: the public interface of one conversation. Terminal, bench and eval drive the engine through it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from warpcortex_cli.engine.calibration import Calibration
from warpcortex_cli.engine.contents import Said
from warpcortex_cli.engine.conversation import Conversation
from warpcortex_cli.engine.dialogue import As, notes, planned, written
from warpcortex_cli.engine.forking import continue_like
from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.river import Mark, River
from warpcortex_cli.engine.sampling import AS_USUAL, ReplyOptions
from warpcortex_cli.engine.states import RiverState, StreamState
from warpcortex_cli.engine.stepper import Stepper
from warpcortex_cli.engine.steps import Steps, driven
from warpcortex_cli.engine.stream import Stream
from warpcortex_cli.engine.text import page_of
from warpcortex_cli.engine.view import SessionView, StreamView, session_view, stream_view
from warpcortex_cli.errors import UsageError
from warpcortex_cli.events import Event, Listener, RiverFinished, RiverStarted
from warpcortex_cli.prism.chat_format import Plan, Tools, Unusable, common
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile, Role

_EXCHANGE = 128  # tokens of the last question and reply that stay where a passage is read


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
        self.programs = frozenset(programs)
        self._streams = streams
        self.calibration = calibration
        self._journal = Journal(listeners)
        self._interrupted = False
        self._tools: Tools = ()
        self._start(profile)

    def _start(self, profile: Profile) -> None:
        self.conversation = Conversation(
            self.prism,
            profile,
            self._journal,
            seed=self.seed,
            streams=self._streams,
            calibration=self.calibration,
            watched=self.watched,
            wake=self.stepper.wake,
            programs=self.programs,
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
            self._read_now(plan, progress)
        except BaseException:  # Ctrl-C too: notes are read as a whole or not at all
            self._take_back()
            raise
        return len(plan.ids)

    def _read_now(self, plan: Plan, progress: Callable[[int, int], None] | None) -> None:
        """Reads what a plan says, and answers nothing."""
        for _ in driven(self._reading(plan), self.stepper, self.river):
            if progress:
                total = self.conversation.turn.prompt_total
                progress(total - len(self.river.pending), total)

    def _reading(self, plan: Plan) -> Steps:
        ids = yield from self._rewritten(plan)
        yield from self._silently(ids)

    def _silently(self, ids: list[int]) -> Steps:
        """Reads tokens, and tells nobody."""
        river, stepped = self.river, True
        self.conversation.read(ids)
        while river.state == RiverState.READING and stepped:
            stepped = yield []
            self.conversation.raise_fault()
        self._journal.drain()

    def send(self, text: str, options: ReplyOptions = AS_USUAL) -> Iterator[Event]:
        """One user turn: yields events as they happen, the last one `RiverFinished`.

        Raises:
            UsageError: nothing was asked.
        """
        return self.sent(self.reply(text, options))

    def sent(self, reply: Steps) -> Iterator[Event]:
        """The events of a reply, for which the steps are made here."""
        with closing(driven(reply, self.stepper, self.river)) as steps:
            for events in steps:
                yield from events

    def reply(self, text: str, options: ReplyOptions = AS_USUAL) -> Steps:
        """The same for a caller that makes the steps itself, of several conversations at once.

        Raises:
            UsageError: nothing was asked.
        """
        if not text.strip():
            raise UsageError("the question is empty.", "Write what you want to know.")
        return self.answer([*self.turns, Said("user", text)], options, self._tools)

    def answer(self, turns: Sequence[Said], options: ReplyOptions = AS_USUAL, tools: Tools = ()) -> Steps:
        """Replies to a whole conversation. What the River holds of it already is not read again.

        Args:
            turns: the last one is the user's, or what a tool said.
            tools: what the model may call; the caller finds the calls in its text.

        Raises:
            UsageError: the model's template has no place for such a conversation.
        """
        self._tools = tools
        try:
            plan = self._planned(turns)
        except Unusable as error:
            raise UsageError(f"the chat template of {self.prism.name} refuses this conversation ({error}).") from error
        if self.turns != list(turns[:-1]):
            self.turns, self.marks = list(turns[:-1]), []
        return self._reply(turns[-1], plan, options)

    def complete(self, ids: Sequence[int], options: ReplyOptions = AS_USUAL) -> Steps:
        """Goes on with a text, given as tokens, in the place of a conversation. No role starts by itself."""
        keep = min(common(self.river.sentences.ids.tolist(), list(ids)), len(ids) - 1)
        self.turns, self.marks = [], []
        return self._reply(Said("user", ""), Plan(keep, list(ids[keep:])), options)

    def _reply(self, said: Said, plan: Plan, options: ReplyOptions) -> Steps:
        conversation, river, journal = self.conversation, self.river, self._journal
        self._begin(said)
        self._interrupted = False
        self._undoable = None
        began = journal.now()
        streams = conversation.crew.streams
        last_stream = streams.spawned
        journal.write(RiverStarted(turn=len(self.marks), prompt_tokens=len(plan.ids), held=plan.keep))
        ids = yield from self._rewritten(plan)
        question, before = self._question(ids, said), self._before()
        conversation.begin_turn(ids, said.text, notes(self.turns), question, before, self._reworded, options)
        turn = conversation.turn
        turn.awaited = True
        rest, own = list[int](), 0
        reason = "interrupted"
        try:
            while not river.idle and not self._interrupted:
                stepped = yield journal.drain()
                conversation.raise_fault()
                if not (stepped or river.idle or conversation.alive):
                    break
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
        yield journal.drain()
        if rest and turn.written:  # a cut reply: its last token was shown, so it must be read
            yield from self._silently(rest)
            river.sentences.claim(own)

    def _begin(self, said: Said) -> None:
        """Begins notes or a user's words, and sets a mark for `undo`. After notes the user's turn stays open."""
        self.marks.append(self.conversation.mark(len(self.turns)))
        self.turns.append(said)

    def _plan(self, said: Said) -> Plan:
        """What the River must read to hold the conversation with one more turn."""
        return self._planned([*self.turns, said])

    def _planned(self, turns: Sequence[Said], before: Sequence[Said] | None = None, passage: str = "") -> Plan:
        """What it must read to hold these turns, with a passage before the last question.

        Args:
            before: the turns that it holds; None: all so far.
        """
        held = As(self.turns if before is None else before, self._passage)
        return planned(self.river, held, As(turns, passage), self.conversation.turn.stopped, self._tools)

    def _reworded(self, passage: str) -> list[int] | None:
        """The tokens of the turn that has begun, with a passage before the question, of which nothing is read yet.

        None if that would change what the River has read. The passage leaves the context with the next turn.
        """
        turns, before, river = self.turns, self.turns[:-1], self.river
        held, stopped = As(before, self._passage), self.conversation.turn.stopped
        plan = written(river, held, As(turns, passage), stopped, self._tools)
        known = list(river.sentences.ids[plan.keep :])
        if plan.ids[: len(known)] != known:
            if len(river.pending) != self.conversation.turn.prompt_total:
                return None  # a page of this turn has been read already
            plan, known = self._planned(turns, before, passage), []
            if plan.keep != river.length:
                return None
        self._passage = passage
        return plan.ids[len(known) :]

    def _question(self, ids: list[int], said: Said) -> int:
        """How many of a turn's tokens stand behind the page that the user's words begin with."""
        page = said.text[: page_of(said.text)] if said.role == "user" else ""
        if not page or not any(role.arrives == "prompt" for role in self.profile.roles):
            return len(ids)
        before = self.turns[:-1]
        read = self._planned([*before, Said("notes", page)], before).ids
        return len(ids) - common(read, ids)

    def _before(self) -> int:
        """Tokens of the question and reply before the turn that has begun, the newest of them; 0 behind notes."""
        if len(self.marks) < 2 or self.turns[-2].role == "notes":
            return 0
        return min(_EXCHANGE, self.river.length - self.marks[-2].tokens)

    def _rewritten(self, plan: Plan) -> Generator[list[Event], bool, list[int]]:
        """Takes back what the template now writes differently, and reads past replies again. Returns what is left."""
        river, self._passage = self.river, ""
        if plan.keep < river.length:
            self.marks = [replace(m, tokens=min(m.tokens, plan.keep)) for m in self.marks]
            self.conversation.rewind(replace(self.conversation.mark(len(self.turns)), tokens=plan.keep))
        if not plan.said:
            return plan.ids
        read = plan.said[-1][1] - plan.keep
        yield from self._silently(plan.ids[:read])
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

    def inject(self, text: str, role: Role | None = None) -> Stream:
        """Puts a thought beside the River: at once, or in the next steps of a reply that is being written.

        Args:
            role: whose thought it is, and in whose words the River reads it; None: nobody's.

        Raises:
            UsageError: it is empty.
        """
        if not text.strip():
            raise UsageError("the thought is empty.", "Write what the River should know.")
        stream = self.conversation.crew.give(text.strip(), role)
        while self.river.idle and not stream.final and self.step():
            pass
        return stream

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

    # -- beginning alike -----------------------------------------------------------------------------------------

    def fork(self) -> Session:
        """Another session that holds the same conversation, and its Synapse. Each goes on in its own way.

        Raises:
            UsageError: a reply is being written.
        """
        if not self.river.idle:
            raise UsageError("a conversation cannot be forked while a reply is written.", "Wait for its end.")
        other = Session(
            self.prism, self.profile, seed=self.seed, streams=self._streams, calibration=self.calibration,
            watched=self.watched, programs=sorted(self.programs), stepper=self.stepper,
        )  # fmt: skip
        asides = continue_like(other.river, self.river)
        other.turns, other._tools, other._passage = list(self.turns), self._tools, self._passage
        other.marks = [replace(m, asides=tuple(asides[a] for a in m.asides if a in asides)) for m in self.marks]
        theirs, own = other.conversation.crew, self.conversation.crew
        theirs.streams.continue_from(own.streams.spawned)
        theirs.briefing.share(own.briefing)
        return other

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
            self._read_now(plan, progress)
