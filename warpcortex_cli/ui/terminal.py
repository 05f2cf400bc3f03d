"""The terminal around a running reply: where Ctrl-C goes, and no echo of typing into the panels."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from types import FrameType

_PATIENCE = 3  # a Ctrl-C that often during one reply no longer waits for the running step


def forgive_encoding() -> None:
    """Characters that the terminal's encoding lacks become question marks instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextmanager
def interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls `stop` instead of raising; the third one raises KeyboardInterrupt after all."""
    pressed = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += 1
        if pressed >= _PATIENCE:
            raise KeyboardInterrupt
        stop()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def quiet_input() -> Iterator[None]:
    """No echo while it lasts; what is typed is kept for the next prompt. Does nothing without a terminal."""
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
    # NOFLSH: else Ctrl-C throws away output on its way to the screen, and the panels are drawn wrongly.
    silent[3] = (silent[3] & ~termios.ECHO) | termios.NOFLSH
    termios.tcsetattr(number, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
