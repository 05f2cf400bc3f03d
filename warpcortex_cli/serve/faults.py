"""Errors as OpenAI's API writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from warpcortex_cli.errors import MemoryLimitError, RunError, UsageError, WarpError


class BusyError(RunError):
    """Too many requests wait already."""


class TooLongError(UsageError):
    """The prompt has more tokens than a prompt may have."""


class NoModelError(UsageError):
    """Another model is asked for than the one that is served."""


@dataclass(frozen=True)
class Fault:
    """A status, and the error object."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None

    @property
    def body(self) -> dict[str, Any]:
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}


def fault_of(error: WarpError) -> Fault:
    """The error of a request that was refused or failed."""
    said = str(error)
    match error:
        case BusyError():
            return Fault(429, said, "rate_limit_error", "rate_limit_exceeded")
        case TooLongError():
            return Fault(400, said, code="context_length_exceeded", param="messages")
        case MemoryLimitError():
            return Fault(503, said, "server_error", "out_of_memory")
        case NoModelError():
            return Fault(404, said, code="model_not_found", param="model")
        case UsageError():
            return Fault(400, said)
    return Fault(500, said, "server_error")
