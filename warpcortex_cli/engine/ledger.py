"""The ledger of an answer: what each injected thought was, what its Stream read, and what it changed."""

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
        landmarks: the tokens that at least half of all heads kept, as text, a line for each sentence they are of.
        focus: the sentences that were chosen by its task.
        without: River text of the same run with this thought withheld.
        changed: words of the River's text that differ from that.
        arrived: as an "aside", or "inline" as text of the River.
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


class Ledger:
    """Listens to a session, and replays it for each thought that was injected.

    Args:
        session: listened to from now on.
        again: makes the same session anew, with the same notes loaded.
    """

    def __init__(self, session: Session, again: Callable[[], Session]) -> None:
        self._session = session
        self._again = again
        self._read: dict[int, tuple[str, str]] = {}
        self._inlined: set[int] = set()
        session.listen(self)

    def __call__(self, event: Event) -> None:
        if isinstance(event, ThoughtInlined):
            self._inlined.add(event.id)
        if isinstance(event, StreamStarted):
            river = self._session.river
            stream, lines = self._session.stream(event.id), river.sentences.lines
            landmarks = lines(river.past.tokens + place for place in _kept(stream))
            self._read[event.id] = ("\n".join(landmarks), "\n".join(lines(stream.focus_tokens)))

    def entries(self, question: str, text: str) -> list[Entry]:
        """The ledger of the reply `text` to `question`. Costs a run for each injected thought."""
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
                    "inline" if stream.id in self._inlined else "aside",
                )
            )
        return out

    def _without(self, question: str, withheld: int) -> str:
        """River text of the same run; a thought withdrawn before the next step was never attended to.

        One that arrives as text is kept from arriving.
        """
        session = self._again()
        if withheld in self._inlined:
            session.withhold(withheld)
        text = ""
        for event in session.send(question):
            if isinstance(event, RiverText):
                text += event.text
            elif isinstance(event, ThoughtInjected) and event.id == withheld:
                session.withdraw(withheld, "withheld")
        return text


def _kept(stream: Stream) -> list[int]:
    """Tokens of the River's tail that at least half of the heads of all layers hold as landmarks."""
    if stream.synapse is None or not stream.synapse.landmarks:
        return []
    indices = stream.synapse.indices
    counts = indices.flatten().bincount()
    return (2 * counts >= indices.shape[0] * indices.shape[1]).nonzero().flatten().tolist()


def changed_words(before: str, after: str) -> tuple[str, ...]:
    """Words of `after` that do not stand in `before` at their place."""
    old, new = before.split(), after.split()
    changes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return tuple(word for kind, _, _, start, end in changes if kind != "equal" for word in new[start:end])
