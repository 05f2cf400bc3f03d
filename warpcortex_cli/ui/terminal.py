"""The terminal during a reply: Ctrl-C handling, and no echo of typing into the panels."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOBase, TextIOWrapper
from types import FrameType
from typing import Any, TextIO

_PATIENCE = 3  # this many Ctrl-C during one reply no longer wait for the running step


class _Closed(TextIOBase):
    """Stands in for a stdout that the caller closed: Python has None there, and `print` would silently drop text."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "standard output is closed")


class Forgiving:
    """A stream for output that may be lost: once writing fails, it drops everything.

    Args:
        stream: stderr, or None if there is none.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(lambda stream: stream.flush())

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def _try(self, do: Callable[[TextIO], Any]) -> None:
        if self._stream is not None:
            try:
                do(self._stream)
            except OSError:
                give_up(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def prepare_streams() -> None:
    """Prints characters that the encoding lacks as question marks; makes printing to a closed stdout an error."""
    if sys.stdout is None:
        sys.stdout = _Closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def give_up(stream: TextIO) -> None:
    """Drops what a stream holds and all that follows, so that Python does not fail on it at exit."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


@contextmanager
def interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """While this context lasts, Ctrl-C calls `stop`; the third one raises KeyboardInterrupt."""
    pressed = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += 1
        if pressed >= _PATIENCE:
            raise KeyboardInterrupt
        stop()

    with _on_interrupt(on_signal):
        yield


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """While this context lasts, Ctrl-C does nothing, except in a context of `interrupts` within it."""
    with _on_interrupt(lambda number, frame: None):  # not SIG_IGN, which programs started meanwhile would inherit
        yield


@contextmanager
def _on_interrupt(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def quiet_input() -> Iterator[None]:
    """While this context lasts, typing is not echoed, but kept for the next prompt. Does nothing without a terminal."""
    try:
        import termios

        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
    except (ImportError, OSError, ValueError, AttributeError):  # Windows, a pipe, a closed or replaced stdin
        yield
        return
    except termios.error:
        yield
        return
    silent = before.copy()
    # NOFLSH: else Ctrl-C discards pending output, and the panels are drawn wrongly.
    silent[3] = (silent[3] & ~termios.ECHO) | termios.NOFLSH
    termios.tcsetattr(number, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
