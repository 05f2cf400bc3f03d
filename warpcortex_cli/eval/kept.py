"""Results of a long run, appended as JSON lines, from which a stopped run resumes.

A run may be killed in the middle of a line; an incomplete last line is ignored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from warpcortex_cli.errors import RunError, UsageError


class Kept:
    """A file of lines.

    Args:
        path: the file, which need not exist yet.
        first: the key with which each line begins, which tells an incomplete line from another kind of file.

    Attributes:
        path: as given.
        lines: those of earlier runs.

    Raises:
        UsageError: the file holds something else and is left unchanged, or it cannot be read or written.
    """

    def __init__(self, path: Path, first: str) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        begin = f'{{"{first}": '
        try:
            *whole, half = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
            self.lines = [json.loads(line) for line in whole]
            if not all(isinstance(line, dict) and first in line for line in self.lines):
                raise ValueError(f"there is a line without {first}")
            if not half.startswith(begin[: len(half)]):
                raise ValueError("its last line is none of them")
            if half:
                path.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
            path.open("a").close()  # fails before any question is asked
        except (OSError, ValueError) as error:
            raise self.refused(error) from error

    def refused(self, error: Exception) -> UsageError:
        """The error for lines that are not of such a run, for the caller to raise."""
        reason = getattr(error, "strerror", None) or error
        return UsageError(f"{self.path} holds no answers of an earlier run: {reason}.", "Name another file.")

    def add(self, line: dict[str, Any]) -> None:
        """Appends a line. Raises RunError: it cannot be written."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise RunError(f"answers cannot be kept in {self.path}: {error.strerror}.") from error
