"""What a long run has found, one JSON line each as it comes: a run that was stopped goes on where it was.

A run may be killed in the middle of a line: of such a last one nothing counts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from warpcortex_cli.errors import RunError, UsageError


class Kept:
    """A file of lines.

    Args:
        path: the file, which need not be there yet.
        first: the name with which each line begins, by which a half one is told from a file of something else.

    Attributes:
        path: as given.
        lines: those of earlier runs.

    Raises:
        UsageError: the file holds something else, and is left as it is; or it cannot be read or written.
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
            path.open("a").close()  # what cannot be written is said before anything is asked
        except (OSError, ValueError) as error:
            raise self.refused(error) from error

    def refused(self, error: Exception) -> UsageError:
        """That its lines are none of such a run, by whoever reads them."""
        reason = getattr(error, "strerror", None) or error
        return UsageError(f"{self.path} holds no answers of an earlier run: {reason}.", "Name another file.")

    def add(self, line: dict[str, Any]) -> None:
        """Writes one more. Raises RunError: it cannot be written."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise RunError(f"answers cannot be kept in {self.path}: {error.strerror}.") from error
