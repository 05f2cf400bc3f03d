"""A test double of `engine.session.Session`: no model, a written script of real events. For UI tests only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace

from warpcortex_cli.engine.contents import Said
from warpcortex_cli.engine.session import UndoResult
from warpcortex_cli.engine.view import GateView, MemoryView, SessionView, StreamView, SynapseView
from warpcortex_cli.errors import UsageError
from warpcortex_cli.events import (
    Event,
    GateDecided,
    Listener,
    RiverFinished,
    RiverPrefilled,
    RiverStarted,
    RiverText,
    StreamEnded,
    StreamSpawned,
    SynapseTaken,
)
from warpcortex_cli.memory.store import Tier

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b"


def stream(number: int, state: str = "thinking", **changes: object) -> StreamView:
    """A Stream as the panels see it."""
    base = StreamView(
        id=number,
        role="recall",
        task=f"ropes of Mara {number}",
        state=state,
        tokens=12,
        landmarks=64,
        focus=48,
        thought="",
        gate_score=None,
        gate_reason="",
        kv_bytes=393_216,
        seconds=1.0,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


NO_PAST = MemoryView(1204, 0, 0, 4096, {n: Tier(0, 0) for n in ("hot", "warm", "cold")}, 0, "exact", 0, "")


def view(streams: Sequence[StreamView] = (), **changes: object) -> SessionView:
    """A session as the panels see it."""
    base = SessionView(
        river_tokens=41,
        river_positions=1204,
        river_state="writing",
        river_kv_bytes=9_000_000,
        streams=list(streams),
        forgotten={},
        synapse=SynapseView(3, 64, 1204, 786_432),
        gate=GateView(3, 1, 0.5, "calibrated"),
        memory=NO_PAST,
        asides=2,
        aside_tokens=31,
        aside_bytes=9,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


REPLY: tuple[Event, ...] = (
    RiverStarted(turn=1, prompt_tokens=30),
    RiverPrefilled(done=30, total=30),
    RiverText(text="Let me see. "),
    RiverText(text="[MATH: 47 + 86]", request=True),
    SynapseTaken(version=1, landmarks=24, context=30, bytes=1000, seconds=0.01),
    StreamSpawned(id=1, role="math", task="47 + 86"),
    GateDecided(id=1, thought="133", passed=True, score=0.83, threshold=0.5, mode="calibrated", reason="above"),
    StreamEnded(id=1, state="injected", reason="above", tokens=9, seconds=0.2),
    RiverText(text=" They have [bold]133[/bold]" + ESCAPES + " ropes."),
    RiverFinished(reason="stop", tokens=17, seconds=0.5),
)


class FakeSession:
    """Answers every turn with `script`; `on_event` comes before each event and may interrupt."""

    def __init__(self, script: Sequence[Event] = REPLY, listeners: Sequence[Listener] = ()) -> None:
        self.script = script
        self.listeners = listeners
        self.on_event: Callable[[Event], None] = lambda event: None
        self.prism = SimpleNamespace(name="fake", device="cpu")
        self.profile = SimpleNamespace(name="pocket", injection=SimpleNamespace(enabled=True), roles=[])
        self.seed = 0
        self.notes: list[str] = []
        self.turns: list[Said] = []
        self.view = view(
            [
                stream(
                    1,
                    "injected",
                    role="math",
                    task="47 + 86",
                    thought="133",
                    gate_score=0.83,
                    gate_reason="above",
                )
            ]
        )
        self.injecting: bool | None = None
        self.earlier: list[tuple[int, str]] = []
        self.cleared = self.interrupted = False
        self.failure: Exception | None = None

    def load_notes(self, text: str, name: str = "notes", progress: Callable[[int, int], None] | None = None) -> int:
        if not text.strip():
            return 0
        self.notes.append(text)
        self.turns.append(Said("notes", text))
        try:
            for done in (1, 2, 3):
                if progress:
                    progress(done, 3)
        except BaseException:  # as the real one: as a whole or not at all
            del self.notes[-1], self.turns[-1]
            raise
        return 3

    def send(self, text: str) -> Iterator[Event]:
        if not text.strip():
            raise UsageError("the question is empty.")
        self.turns.append(Said("user", text))
        self.interrupted = False
        return self._reply()

    def _reply(self) -> Iterator[Event]:
        said = ""
        for event in self.script:
            self.on_event(event)
            if self.failure:
                raise self.failure
            stopped = self.interrupted
            if stopped:
                event = RiverFinished(reason="interrupted", tokens=3, seconds=0.1)
            for listener in self.listeners:
                listener(event)
            said += event.text if isinstance(event, RiverText) else ""
            yield event
            if stopped:
                break
        self.turns.append(Said("assistant", said))

    def interrupt(self) -> None:
        self.interrupted = True

    def undo(self) -> UndoResult | None:
        if not self.turns:
            return None
        return UndoResult("turn", self.turns.pop().text)

    def earlier_thoughts(self) -> list[tuple[int, str]]:
        return self.earlier

    def reads(self) -> str:
        return "60 of its past, at position 132, at most 1,024 tokens"

    def recalled(self) -> list[tuple[str, list[str]]]:
        return [(f"Mara keeps [b]ropes[/b]{ESCAPES}.", ["ropes", "Mara"]), ("A far note.", [])]

    def clear(self) -> None:
        self.cleared = True
        self.turns.clear()

    def set_injection(self, on: bool) -> None:
        self.injecting = on

    def set_gate(self, threshold: float) -> None:
        self.view = replace(self.view, gate=replace(self.view.gate, threshold=threshold))

    def set_profile(self, profile: object) -> None:
        self.profile = profile  # type: ignore[assignment]

    def snapshot(self) -> SessionView:
        return self.view

    def thoughts(self) -> list[StreamView]:
        return [s for s in self.view.streams if s.thought]

    def transcript(self) -> list[Said]:
        return list(self.turns)
