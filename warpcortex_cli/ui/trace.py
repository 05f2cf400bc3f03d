"""`--trace FILE`: every event as one JSON line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

from warpcortex_cli.errors import UsageError
from warpcortex_cli.events import Event


class TraceWriter:
    """A listener that writes each event to a file at once.

    If writing fails (a full disk), the conversation goes on: tracing ends, and `failure` says why.

    Raises:
        UsageError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failure: str | None = None
        try:
            self._file = path.open("w", encoding="utf-8", buffering=1)
        except OSError as error:
            raise UsageError(
                f"cannot write the trace to {path}: {error.strerror}.", "Name a file that can be written."
            ) from error

    def __call__(self, event: Event) -> None:
        if self.failure is not None:
            return
        try:
            self._file.write(json.dumps(_finite(event.to_json()), allow_nan=False) + "\n")
        except OSError as error:
            self.failure = f"the trace {self.path} ends early: {error.strerror}."

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError as failed:
            self.failure = self.failure or f"the trace {self.path} ends early: {failed.strerror}."


def _finite(value: Any) -> Any:
    """Replaces NaN and infinity, which JSON does not have, by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
