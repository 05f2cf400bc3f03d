"""The file of tasks: one JSON object a line, read one at a time. A Stream that has not begun is no more than that."""

from __future__ import annotations

import json
import string
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from warpcortex_cli.errors import UsageError

if TYPE_CHECKING:
    from warpcortex_cli.profile import Role

MOST_BYTES = 1 << 20  # of a line
_HINT = 'Write one JSON object a line, such as {"id": 1, "task": "47 + 86"}.'


@dataclass(frozen=True)
class Task:
    """One line.

    Attributes:
        line: its number in the file, from 1.
        id: whatever the line says; its number if it says nothing.
        text: what the Stream is asked.
        groups: its other texts, by name, which the role's prompt may use.
    """

    line: int
    id: Any
    text: str
    groups: dict[str, str] = field(default_factory=dict)

    @property
    def checksum(self) -> int:
        """By which an answer shows that it is this task's."""
        return checksum(self.id, self.text)


def checksum(id: Any, text: str) -> int:
    return zlib.crc32(json.dumps([id, text]).encode())


def fields_of(role: Role) -> list[str]:
    """The texts that the role's prompt takes from a task, beside the task itself."""
    named = (name for _, name, _, _ in string.Formatter().parse(role.prompt) if name)
    return sorted(set(named) - {"task", "focus"})


def read(path: Path, role: Role) -> Iterator[Task]:
    """The tasks of a file, in order. Blank lines are counted and passed over.

    Raises:
        UsageError: the file cannot be read, or a line is no task; with the line.
    """
    needed = fields_of(role)
    for line, raw in _lines(path):
        if not raw.strip():
            continue
        data = _object(path, line, raw)
        text = data.pop("task", None)
        if not isinstance(text, str) or not text.strip():
            _refuse(path, line, "has no `task` with a text")
        groups = {name: value for name, value in data.items() if isinstance(value, str) and name != "id"}
        for name in needed:
            if name not in groups:
                _refuse(path, line, f"has no text {name!r}, which the prompt of the role {role.name} uses")
        yield Task(line, data.get("id", line), text, groups)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            line = 0
            while raw := file.readline(MOST_BYTES + 1):
                line += 1
                if len(raw) > MOST_BYTES:
                    _refuse(path, line, f"has more than {MOST_BYTES:,} bytes")
                yield line, raw
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read the tasks {path}: {reason}.", "Give a file of JSON lines.") from error


def _object(path: Path, line: int, raw: bytes) -> dict[str, Any]:
    try:
        data = json.loads(raw.decode("utf-8-sig" if line == 1 else "utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        _refuse(path, line, "is no JSON object")
    return data


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _refuse(path: Path, line: int, what: str) -> NoReturn:
    raise UsageError(f"{path}, line {line:,} {what}; nothing was started.", _HINT)
