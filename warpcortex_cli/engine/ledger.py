"""The ledger of an answer (`ask --explain`): each injected thought, what its Stream read, and what it changed."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.stream import Stream
from warpcortex_cli.events import Event, RiverText, StreamStarted, ThoughtInjected, ThoughtInlined


@dataclass(frozen=True)
class Entry:
    """One injected thought.

    Attributes:
        landmarks: the tokens that at least half of all heads kept, as text, a line for each sentence.
        focus: the sentences of its focus set.
        without: River text of the same run with this thought withheld.
        changed: words of the River's text that differ from `without`.
        arrived: "aside", "inline" if it became text of the reply, or "prompt" if it stood before the question.
        inserted: of one that arrived inline, what of the answer is its text.
    """

    stream: int
    role: str
    task: str
    thought: str
    gate_score: float | None
    gate_reason: str
    landmarks: str
    focus: str
    without: str
    changed: tuple[str, ...]
    arrived: str = "aside"
    inserted: str = ""


class Ledger:
    """Listens to a session, and replays it for each thought that was injected.

    Args:
        session: the session to listen to.
        again: makes a new session like it, with the same notes loaded.
    """

    def __init__(self, session: Session, again: Callable[[], Session]) -> None:
        self._session = session
        self._again = again
        self._read: dict[int, tuple[str, str]] = {}
        self._inlined: dict[int, str] = {}
        self._arrived: dict[int, str] = {}
        session.listen(self)

    def __call__(self, event: Event) -> None:
        if isinstance(event, ThoughtInlined):
            self._arrived[event.id] = "inline" if event.into == "reply" else event.into
        if isinstance(event, RiverText) and event.stream is not None:
            self._inlined[event.stream] = self._inlined.get(event.stream, "") + event.text
        if isinstance(event, StreamStarted):
            river = self._session.river
            stream, lines = self._session.stream(event.id), river.sentences.lines
            landmarks = lines(river.past.tokens + place for place in _kept(stream))
            self._read[event.id] = ("\n".join(landmarks), "\n".join(lines(stream.focus_tokens)))

    def entries(self, question: str, text: str) -> list[Entry]:
        """The entries for the reply `text` to `question`. It costs one run for each injected thought."""
        out = []
        for stream in self._session.streams:
            if stream.state != "injected":
                continue
            without = self._without(question, stream.id)
            landmarks, focus = self._read.get(stream.id, ("", ""))
            out.append(
                Entry(
                    stream.id,
                    stream.role.name,
                    stream.task,
                    stream.thought.text,
                    stream.gate_score,
                    stream.reason,
                    landmarks,
                    focus,
                    without,
                    changed_words(without, text),
                    self._arrived.get(stream.id, "aside"),
                    self._inlined.get(stream.id, ""),
                )
            )
        return out

    def _without(self, question: str, withheld: int) -> str:
        """River text of the same run without one thought. Withdrawn before the next step, it was never attended to.

        A thought that would arrive as text is withheld instead.
        """
        session = self._again()
        if withheld in self._arrived:
            session.withhold(withheld)
        text = ""
        for event in session.send(question):
            if isinstance(event, RiverText):
                text += event.text
            elif isinstance(event, ThoughtInjected) and event.id == withheld:
                session.withdraw(withheld, "withheld")
        return text


def _kept(stream: Stream) -> list[int]:
    """Tokens of the River's tail that at least half of all heads keep as landmarks."""
    if stream.synapse is None or not stream.synapse.landmarks:
        return []
    indices = stream.synapse.indices
    counts = indices.flatten().bincount()
    return (2 * counts >= indices.shape[0] * indices.shape[1]).nonzero().flatten().tolist()


def changed_words(before: str, after: str) -> tuple[str, ...]:
    """Words of `after` that are not in `before` at the same place."""
    old, new = before.split(), after.split()
    changes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return tuple(word for kind, _, _, start, end in changes if kind != "equal" for word in new[start:end])
