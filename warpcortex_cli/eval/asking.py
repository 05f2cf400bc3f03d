"""Questions asked one by one through the engine of the product. Notes are read once for all questions on them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from warpcortex_cli.engine.session import Session
from warpcortex_cli.eval.kept import Kept
from warpcortex_cli.events import RiverFinished, RiverText, StreamEnded, StreamSpawned
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile

_LONG = 4000  # characters; notes as long as that stay read while shorter ones come and go


@dataclass(frozen=True)
class Reply:
    """The result of one question.

    Attributes:
        text: the visible answer.
        thoughts: those that reached the River, in order.
        first, seconds: until the first and the last text of the answer.
    """

    text: str
    thoughts: tuple[str, ...]
    started: int
    tokens: int
    first: float
    seconds: float


class _Open(NamedTuple):
    """A session that has read notes, and what else its KV depends on."""

    reads: tuple[object, ...]
    notes: str
    session: Session


class Asker:
    """Asks questions one by one. Notes are read once for all profiles whose River reads them alike.

    Args:
        keep: the file of `Kept` replies, including those of an earlier run; None: they are not kept.

    Raises:
        UsageError: the file holds something else.
    """

    def __init__(self, prism: Prism, seed: int, keep: Path | None = None) -> None:
        self._prism, self._seed = prism, seed
        self._file = None if keep is None else Kept(keep, "key")
        self._kept: dict[str, Reply] = {}
        self._open: list[_Open] = []
        if self._file is not None:
            try:
                for line in self._file.lines:
                    held = {name: line[name] for name in line if name not in ("key", "question")}
                    self._kept[line["key"]] = Reply(**{**held, "thoughts": tuple(held["thoughts"])})
            except (KeyError, TypeError) as error:
                raise self._file.refused(error) from error

    def ask(self, profile: Profile, notes: str, question: str) -> Reply:
        said = json.dumps([self._prism.name, profile.model_dump(mode="json"), self._seed, notes, question])
        key = blake2b(said.encode(), digest_size=12).hexdigest()
        if key not in self._kept:
            reply = self._kept[key] = self._asked(profile, notes, question)
            if self._file is not None:
                self._file.add({"key": key, "question": question[-200:], **asdict(reply)})
        return self._kept[key]

    def _asked(self, profile: Profile, notes: str, question: str) -> Reply:
        session = self._over_notes(profile, notes)
        text, tokens, started = "", 0, 0
        thoughts: list[str] = []
        first: float | None = None
        began = time.perf_counter()
        for event in session.send(question):
            if isinstance(event, RiverText) and not (event.request or event.thinking):
                first = time.perf_counter() - began if first is None else first
                text += event.text
            elif isinstance(event, StreamSpawned):
                started += 1
            elif isinstance(event, StreamEnded) and event.state == "injected":
                thoughts.append(session.stream(event.id).thought.text)
            elif isinstance(event, RiverFinished):
                tokens = event.tokens
        seconds = time.perf_counter() - began
        return Reply(text, tuple(thoughts), started, tokens, seconds if first is None else first, seconds)

    def _over_notes(self, profile: Profile, notes: str) -> Session:
        """A session that has read only these notes, with this profile."""
        reads = (profile.river, profile.memory)
        for old in list(self._open):
            if old.reads == reads and old.notes == notes:
                self._returned(old.session, notes)
                old.session.set_profile(profile)
                return old.session
            if old.notes != notes and (len(old.notes) < _LONG) == (len(notes) < _LONG):
                self._open.remove(old)
                old.session.close()
        session = Session(self._prism, profile, seed=self._seed)
        session.load_notes(notes)
        self._open.append(_Open(reads, notes, session))
        return session

    @staticmethod
    def _returned(session: Session, notes: str) -> None:
        """Takes the last question back; without notes everything."""
        if not notes:
            session.restart()
            return
        while (undone := session.undo()) is not None and undone.kind != "turn":
            pass
