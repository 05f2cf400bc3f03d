"""The file of thoughts, which is also the log: one JSON line for each Stream that has ended, only ever appended.

Whatever kills the process, the file then holds whole lines and at most one torn one at its end, which is cut off when
the run goes on. Which tasks have been answered is read out of it again: a bit and a checksum for each, so a million
tasks take four megabytes.
"""

from __future__ import annotations

import errno
import json
import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from warpcortex_cli.errors import RunError, UsageError
from warpcortex_cli.swarm.tasks import Task, checksum

_CHUNK = 1 << 20
_LONGEST = 1 << 24  # bytes of a line; a thought and its task are far shorter


class Answered:
    """Which samples of which tasks have been answered.

    Args:
        samples: how many Streams each task has.
    """

    def __init__(self, samples: int) -> None:
        self.count = 0
        self._samples = samples
        self._bits = bytearray()
        self._sums = array("I")  # by line; of a task of which no sample is answered, 0

    def __contains__(self, place: tuple[int, int]) -> bool:
        line, sample = place
        at = line * self._samples + sample
        return at // 8 < len(self._bits) and bool(self._bits[at // 8] >> at % 8 & 1)

    def add(self, line: int, sample: int, sum_: int) -> None:
        if (line, sample) in self:
            return
        at = line * self._samples + sample
        self._bits.extend(bytes(max(0, at // 8 + 1 - len(self._bits))))
        self._bits[at // 8] |= 1 << at % 8
        if line >= len(self._sums):
            self._sums.extend(bytes(line + 1 - len(self._sums)))
        self._sums[line] = sum_
        self.count += 1

    def fits(self, task: Task) -> bool:
        """Whether what was answered in the task's line is this task."""
        return task.line >= len(self._sums) or self._sums[task.line] in (0, task.checksum)

    @property
    def last(self) -> int:
        """The last line of which something is answered."""
        return len(self._sums) - 1


class Thoughts:
    """The open file. One process at a time has it.

    Attributes:
        answered: what is in it.
        cut: bytes of a torn last line that were cut off.
    """

    def __init__(self, path: Path, run: str, samples: int, resume: bool) -> None:
        """Opens the file, or makes it.

        Args:
            run: a name for all that decides what is written; each line bears it.
            resume: whether to go on with a file that is there.

        Raises:
            UsageError: it is there already, is not this run's, or cannot be opened; it is as it was then.
        """
        self.path, self.run = path, run
        self.answered = Answered(samples)
        self.cut = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | (0 if resume else os.O_EXCL), 0o666)
        except FileExistsError as error:
            raise UsageError(
                f"{path} exists already.", "Add --resume to go on with it, or give --out another name."
            ) from error
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}.", "Give --out another name.") from error
        try:
            self._lock()
            self._end = self._read(samples)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Thoughts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._file)

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"another swarm is writing {self.path}.", "Wait for it, or stop it.") from error

    def _read(self, samples: int) -> int:
        """Takes note of all lines and cuts off a torn one. Returns the file's length."""
        end = number = 0
        torn = b""
        for raw in _lines(self._file):
            number += 1
            if not raw.endswith(b"\n"):
                torn = raw
                break
            self._take(number, raw, samples)
            end += len(raw)
        if torn:
            begun, start = torn.rstrip(b"\0"), self._start.encode()
            if begun[: len(start)] != start[: len(begun)]:  # somebody else's file, which must not be shortened
                self._refuse(number)
            self.cut = len(torn)
            os.ftruncate(self._file, end)
        return os.lseek(self._file, end, os.SEEK_SET)

    def _take(self, number: int, raw: bytes, samples: int) -> None:
        try:
            found = json.loads(raw)
            run, line, sample = found["run"], found["line"], found["sample"]
            place = isinstance(line, int) and isinstance(sample, int) and line > 0 and sample >= 0
            sum_ = checksum(found["id"], found["task"])
        except (ValueError, TypeError, KeyError, RecursionError):
            self._refuse(number)
        if not place:
            self._refuse(number)
        if run != self.run or sample >= samples:
            raise UsageError(
                f"{self.path}, line {number:,} was written by a swarm with another model, role, notes or settings.",
                "Go on with the same command, or give --out another name.",
            )
        self.answered.add(line, sample, sum_)

    def _refuse(self, number: int) -> None:
        raise UsageError(
            f"{self.path}, line {number:,} is no thought of a swarm; the file was left as it is.",
            "Give --out another name.",
        )

    @property
    def _start(self) -> str:
        """How each line begins."""
        return f'{{"run": "{self.run}"'

    def append(self, lines: Iterable[dict[str, Any]]) -> None:
        """Writes lines, whole or not at all.

        Raises:
            RunError: they cannot be written, as on a full disk; what was written before stays.
        """
        data = b"".join(self._line(line) for line in lines)
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, data[done:])
        except OSError as error:
            self._back()
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            raise RunError(
                f"cannot write {self.path}: {error.strerror}; all thoughts before are in it.",
                "Make room and go on with --resume." if full else "Go on with --resume.",
            ) from error
        self._end += done

    def _line(self, line: dict[str, Any]) -> bytes:
        # ASCII, so that no cut falls inside a character; no NaN, which is no JSON.
        return json.dumps({"run": self.run, **line}, allow_nan=False).encode("ascii") + b"\n"

    def _back(self) -> None:
        try:
            os.ftruncate(self._file, self._end)
            os.lseek(self._file, self._end, os.SEEK_SET)
        except OSError:
            pass  # the torn line is cut off when the run goes on


def _lines(file: int) -> Iterator[bytes]:
    """The lines of an open file from its beginning, each with its line break; the last may have none."""
    os.lseek(file, 0, os.SEEK_SET)
    held = b""
    while data := os.read(file, _CHUNK):
        *whole, held = (held + data).split(b"\n")
        for raw in whole:
            yield raw + b"\n"
        if len(held) > _LONGEST:
            break
    if held:
        yield held


def thoughts_in(path: Path) -> Iterator[dict[str, Any]]:
    """The thoughts in a file, in its order. A torn last line is passed over."""
    with path.open("rb") as file:
        for raw in file:
            if raw.endswith(b"\n"):
                yield json.loads(raw)
