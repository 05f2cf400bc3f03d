"""All errors that a user can see. Only the CLI's last layer turns them into words and exit codes."""

from __future__ import annotations


class WarpError(Exception):
    """An error for the user: one sentence, and what to do about it.

    Attributes:
        exit_code: the exit code of the process.
        hint: what to try next, or None.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class RunError(WarpError):
    """A failure while running (exit code 1)."""


class UsageError(WarpError):
    """A usage error (exit code 2)."""

    exit_code = 2


class ProfileError(UsageError):
    """A profile is not valid; `problems` has one line per error, with file, line and what was expected."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ModelError(WarpError):
    """The model was not found, or the engine does not support it (exit code 3)."""

    exit_code = 3


class MemoryLimitError(WarpError):
    """The device or the host lacks memory (exit code 4)."""

    exit_code = 4
