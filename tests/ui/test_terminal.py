from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from warpcortex_cli.ui.terminal import interrupts, quiet_input

termios = pytest.importorskip("termios")


@pytest.fixture
def tty(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "r") as file:
        monkeypatch.setattr(sys, "stdin", file)
        yield file.fileno()
    os.close(ours)


def test_no_echo_and_no_output_lost_while_it_lasts(tty: int) -> None:
    before = termios.tcgetattr(tty)
    with pytest.raises(RuntimeError), quiet_input():
        flags = termios.tcgetattr(tty)[3]
        assert not flags & termios.ECHO and flags & termios.NOFLSH and flags & termios.ISIG
        raise RuntimeError
    assert termios.tcgetattr(tty) == before


def test_ctrl_c_asks_twice_and_then_insists() -> None:
    stops: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupts(lambda: stops.append(1)):
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
    assert len(stops) == 2 and signal.getsignal(signal.SIGINT) is before
