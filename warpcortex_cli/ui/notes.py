"""Notes: read from a file or a pipe, and loaded into a session with a progress bar."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from warpcortex_cli.errors import UsageError
from warpcortex_cli.ui.safe import one_line, readable

if TYPE_CHECKING:
    from warpcortex_cli.engine.session import Session

_OFTEN = 10.0  # seconds between progress lines where no bar can be drawn
_FIRST = 1 << 16  # bytes checked to tell text from binary data
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_notes(path: Path) -> str:
    """The text of a notes file.

    Raises:
        UsageError: the file is missing, unreadable, a folder, or not text.
    """
    name = one_line(str(path))
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(_FIRST)
            if not _binary(data):  # a device may be endless
                data += file.read()
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no notes file {name}.", "Check the path; it is taken from the current folder."
        ) from error
    except IsADirectoryError as error:
        raise UsageError(f"{name} is a folder, not a notes file.", "Give one text file.") from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read the notes file {name}: {reason}.", "Check who may read it.") from error
    return decode_notes(data, name)


def decode_notes(data: bytes, name: str) -> str:
    """Decodes notes and keeps only visible characters. UTF-8, or UTF-16 with a byte order mark.

    Raises:
        UsageError: the bytes are not text.
    """
    encoding = "utf-16" if data.startswith(_UTF16) else "utf-8-sig"
    if _binary(data):
        raise UsageError(f"{name} is a binary file, not notes.", "Give a text file in UTF-8.")
    try:
        return readable(data.decode(encoding))
    except UnicodeDecodeError as error:
        place = f"byte {error.start} is not valid {error.encoding.upper()}"
        raise UsageError(f"{name} is not text that can be read: {place}.", "Convert it to UTF-8.") from error


def _binary(data: bytes) -> bool:
    return b"\0" in data and not data.startswith(_UTF16)


class _Stopped(Exception):
    """Raised inside `load_notes` to leave it between steps."""


def load_with_progress(
    session: Session, text: str, name: str, console: Console, stopped: Callable[[], bool] = lambda: False
) -> int | None:
    """Prefills notes: with a transient progress bar on a terminal, elsewhere with a line every ten seconds.

    Args:
        stopped: checked after every step; once true, the session drops the notes.

    Returns:
        The number of tokens, or None when it was stopped.
    """
    bar = Progress(
        TextColumn("reading"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tokens"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(name, total=None)
        said = time.monotonic()

        def show(done: int, total: int) -> None:
            nonlocal said
            bar.update(task, completed=done, total=total)
            if bar.disable and time.monotonic() - said >= _OFTEN:
                said = time.monotonic()
                line = f"{one_line(name)}: {done:,} of {total:,} tokens are read"
                console.print(Text(line, style="dim"), soft_wrap=True)
            if stopped():
                raise _Stopped

        try:
            return session.load_notes(text, name, show)
        except _Stopped:
            return None


def notes_line(tokens: int, text: str, name: str) -> Text:
    """What was loaded, in one line."""
    return Text(f"{one_line(name)}: {len(text):,} characters, {tokens:,} tokens", style="dim")
