"""Does a long conversation survive kill -9? `python -m warpcortex_cli.lab.killed --tokens 200000`.

Notes with a few facts on their first page are loaded by `/load` into `warpcortex chat --session`, in another process
with its own folder, and the facts are asked for. When the answers are saved, the process is killed with -9; another
one opens the session and is asked the same.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from warpcortex_cli.errors import RunError
from warpcortex_cli.pocket import world
from warpcortex_cli.pocket.vocabulary import Words
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.probes.memory import peak_of

FIRST_PAGE = """Mara keeps ropes: 47, brown, in the old mill.
The lamps of Otto: 86, red, in the old mill.
Tilda keeps kettles: 12, green, in the north barn.
One rope costs 3 coins."""
QUESTIONS = {  # the last one asks for a Stream
    "How many ropes does Mara have?": "47",
    "Where are the kettles of Tilda?": "in the north barn",
    "What colour are the lamps of Otto?": "red",
    "How many ropes of Mara and lamps of Otto in total?": "133",
}
_NAME = "killed"
_ASIDE, _SAID = "/inject", "Thoughts that pass the Gate are injected."  # a command and the one line it prints
_PATIENCE = 900.0  # seconds for one line


@dataclass(frozen=True)
class Life:
    """One process, from its start to its end.

    Attributes:
        loaded: seconds until the notes were read; 0 without notes.
        seconds: until the last answer was saved.
        answers: to `QUESTIONS`, in order.
        said: lines on stderr.
        peak: peak memory in bytes.
    """

    loaded: float
    seconds: float
    answers: list[str]
    said: list[str]
    peak: int

    @property
    def right(self) -> int:
        """The number of answers that end in the right value."""
        pairs = zip(self.answers, QUESTIONS.values(), strict=True)
        return sum(re.search(rf"(?<!\w){re.escape(value)}\.?\Z", answer.strip()) is not None for answer, value in pairs)

    @property
    def anew(self) -> list[str]:
        """The messages about what had to be prefilled again when a session was resumed."""
        return [line for line in self.said if " anew" in line]

    @property
    def taken_up(self) -> str:
        """The message about the resumed session; empty if there was none."""
        return next((line for line in self.said if line.startswith(f"session {_NAME}:")), "")


def notes_of(prism: Prism, tokens: int, seed: int) -> str:
    """The first page, followed by made-up notes about others, at least `tokens` tokens in total."""
    rng = random.Random(seed)
    parts, length = [FIRST_PAGE], 0
    while length < tokens:
        parts.append(world.notes_text(world.make_world(Words(rng, "held-out", 1.0), 60), rng))
        length += len(prism.encode(parts[-1]))
    return "\n".join(parts)


class _Chat:
    """`warpcortex chat --session` as another process, whose output is read in lines."""

    def __init__(self, folder: Path) -> None:
        homes = ("HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "LOCALAPPDATA")  # neither the user's sessions nor settings
        command = [sys.executable, "-m", "warpcortex_cli", "chat", "-m", "pocket", "--session", _NAME]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            env={**os.environ, **dict.fromkeys(homes, str(folder)), "COLUMNS": "400"},
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def type(self, line: str) -> list[str]:
        """Types a line and a command after it, whose output marks the end; returns what was printed before."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended; its output is read below
            self.process.stdin.write(f"{line}\n{_ASIDE}\n")
            self.process.stdin.flush()
        found: list[str] = []
        while True:
            try:
                said = self._lines.get(timeout=_PATIENCE)
            except queue.Empty:
                said = None
            if said is None:
                self.process.kill()
                raise RunError(f"the chat ended, or printed nothing for {_PATIENCE:.0f} s: {' '.join(found[-3:])}")
            if said == _SAID:
                return found
            found.append(said)


def live(folder: Path, notes: Path | None = None) -> Life:
    """Starts a chat, loads notes if there are any, asks all questions, and kills it with -9.

    Args:
        folder: where the session is kept.

    Raises:
        RunError: it ended by itself.
    """
    began = time.perf_counter()
    chat = _Chat(folder)
    try:
        said = chat.type(f"/load {notes}" if notes else "")
        loaded = time.perf_counter() - began
        answers = ["\n".join(chat.type(question)) for question in QUESTIONS]
        seconds = time.perf_counter() - began
        peak = peak_of(chat.process.pid)
    finally:
        chat.process.kill()  # -9
        chat.process.wait()
    return Life(loaded if notes else 0.0, seconds, answers, said, peak)


def session_bytes(folder: Path) -> int:
    """The size of the session's file."""
    return sum(path.stat().st_size for path in folder.rglob(f"{_NAME}.wcx"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200_000, help="of the notes, at least")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    text = notes_of(Prism.load(resolve_model("pocket", "auto"), device="cpu"), args.tokens, args.seed)
    with tempfile.TemporaryDirectory(prefix="warpcortex-") as name:
        folder = Path(name)
        notes = folder / "notes.txt"
        notes.write_text(text, encoding="utf-8")
        try:
            first = live(folder, notes)
            size = session_bytes(folder)
            again = live(folder)
        except RunError as error:
            sys.exit(str(error))
    print(next(line for line in first.said if line.startswith("notes.txt:")) + f", seed {args.seed}")
    print(f"read after {first.loaded:.1f} s, {len(QUESTIONS)} questions after {first.seconds:.1f} s; {_report(first)}")
    print(f"killed with -9; the file has {size / 2**20:.0f} MiB")
    print(f"opened again, {again.taken_up or 'no session was found'}")
    print(f"{len(QUESTIONS)} questions after {again.seconds:.1f} s; {_report(again)}")
    print(f"prefilled anew: {'; '.join(again.anew) or 'nothing'}")


def _report(life: Life) -> str:
    answers = " ".join(answer.replace("\n", " ") for answer in life.answers)
    return f"never more than {life.peak / 2**20:.0f} MiB; {life.right} of {len(QUESTIONS)} answers are right: {answers}"


if __name__ == "__main__":
    main()
