"""`work: command`: what a program prints. It runs only if the user has named it with `--allow-program`."""

from __future__ import annotations

import subprocess

from warpcortex_cli.engine.brief import Brief
from warpcortex_cli.engine.workers.base import Host, Work, Worker, WorkError
from warpcortex_cli.engine.workers.elsewhere import MOST_CHARACTERS, Elsewhere, allowed, ended, filled, started


class CommandWorker(Worker):
    """Makes runs of programs, which share nothing."""

    def take(self, brief: Brief) -> Work:
        return Running(self.host, brief)


class Running(Elsewhere):
    """One run of a program: no shell, an empty stdin, and its child processes end with it."""

    def __init__(self, host: Host, brief: Brief) -> None:
        super().__init__(host, brief)
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def start(self) -> None:
        """Starts the program.

        Raises:
            WorkError: it is not allowed, or cannot be started.
        """
        program, *arguments = self._brief.role.command
        allowed(self._host, program)
        words = [program, *(filled(argument, self._brief) for argument in arguments)]
        self._process = started(words, stdin=subprocess.DEVNULL)
        super().start()

    def fetch(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        data = self._process.stdout.read(4 * MOST_CHARACTERS + 1)  # a character has at most four bytes
        flood = len(data) > 4 * MOST_CHARACTERS
        if flood:
            ended(self._process)
        code = self._process.wait()
        if flood:
            raise WorkError(f"it printed more than {MOST_CHARACTERS:,} characters")
        if code and not self._stopped:
            raise WorkError(f"{self._brief.role.command[0]} ended with exit code {code}")
        return data.decode("utf-8", "replace")

    def close(self) -> None:
        self._stopped = True
        if self._process is not None:
            ended(self._process)
