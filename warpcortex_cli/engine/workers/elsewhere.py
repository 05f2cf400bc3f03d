"""Work outside of this process: a thread waits for the result and leaves it for `poll`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from abc import abstractmethod
from collections.abc import Sequence

from warpcortex_cli.engine.brief import Brief, Thought
from warpcortex_cli.engine.workers.base import Host, Work, WorkError, picked

MOST_CHARACTERS = 20_000  # of an answer


class Elsewhere(Work):
    """One Brief whose answer comes from outside. Its text is as untrusted as a model's."""

    def __init__(self, host: Host, brief: Brief) -> None:
        self._host, self._brief = host, brief
        self._written = ""
        self._error: Exception | None = None
        self._done = False

    @abstractmethod
    def fetch(self) -> str:
        """The answer. Runs in its own thread. Raises WorkError if there is none, with the reason."""

    def start(self) -> None:
        """Starts waiting for the answer."""
        threading.Thread(target=self._wait, name=f"stream-{self._brief.number}", daemon=True).start()

    def _wait(self) -> None:
        try:
            self._written = self.fetch()
        except Exception as error:
            self._error = error
        self._done = True
        self._host.wake()

    def poll(self) -> Thought | None:
        """The answer as a thought, once it has arrived.

        Raises:
            WorkError: there is none, with the reason.
        """
        if not self._done:
            return None
        if self._error is not None:
            raise self._error
        if len(self._written) > MOST_CHARACTERS:
            raise WorkError(f"it answered with more than {MOST_CHARACTERS:,} characters")
        text = picked(self._brief.role, self._written)
        return Thought(text, "" if text else "its role picks nothing from the answer")

    @property
    def text(self) -> str:
        return self._written if self._done else ""


def fields_of(brief: Brief) -> dict[str, str]:
    """The values of `{fields}`: the groups of its trigger, and its task."""
    return {**brief.groups, "task": brief.task}


def filled(template: str, brief: Brief) -> str:
    """An argument with the `{fields}` of a Brief filled in.

    Raises:
        WorkError: the result could be taken for an option of the program, or holds a zero byte.
    """
    text = template.format(**fields_of(brief))
    if "\0" in text:
        raise WorkError("its task contains a zero byte")
    if text.startswith("-") and not template.startswith("-"):
        raise WorkError("its task begins with a hyphen, which a program may take for an option")
    return text


def allowed(host: Host, program: str) -> None:
    """Raises WorkError unless the user has named the program with `--allow-program`. A profile alone starts none."""
    if program not in host.programs:
        raise WorkError(f"{program} is not allowed to run; allow it with --allow-program {program}")


def started(command: Sequence[str], stdin: int) -> subprocess.Popen[bytes]:
    """Starts a program without a shell, its output piped, in its own session, so that its children can be ended, too.

    Args:
        stdin: `subprocess.PIPE` or `DEVNULL`.

    Raises:
        WorkError: it cannot be started.
    """
    try:
        return subprocess.Popen(
            list(command),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise WorkError(f"{command[0]} cannot be started: {error.strerror or error}") from error


def ended(process: subprocess.Popen[bytes]) -> None:
    """Kills a program and its child processes, if it still runs."""
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
