"""A temporary log that disappears with its process, however that ends."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Container
from pathlib import Path

from warpcortex_cli.memory.log import Record, RecordLog


class ScratchLog(RecordLog):
    """A log in a folder of its own.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="warpcortex-", ignore_cleanup_errors=True)
        super().__init__(Path(self.folder.name) / "blocks")
        self._hide()

    def thin(self, emptied: Container[Record]) -> None:
        super().thin(emptied)
        self._hide()

    def _hide(self) -> None:
        """Removes its name: an open file needs none, and a killed process then leaves nothing behind."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def close(self) -> None:
        super().close()
        with contextlib.suppress(OSError):
            self.folder.cleanup()
