"""Work that takes its time outside of the program: a thread waits, and leaves the result where `poll` finds it."""

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

MOST_CHARACTERS = 20_000  # of an answer; whoever writes more floods


class Elsewhere(Work):
    """One Brief whose answer comes from outside. It is text that nobody here wrote: untrusted, as a model's is."""

    def __init__(self, host: Host, brief: Brief) -> None:
        self._host, self._brief = host, brief
        self._written = ""
        self._error: Exception | None = None
        self._done = False

    @abstractmethod
    def fetch(self) -> str:
        """The answer. Runs in a thread of its own; WorkError says why there is none."""

    def start(self) -> None:
        """Begins to wait for it."""
        threading.Thread(target=self._wait, name=f"stream-{self._brief.number}", daemon=True).start()

    def _wait(self) -> None:
        try:
            self._written = self.fetch()
        except Exception as error:
            self._error = error
        self._done = True
        self._host.wake()

    def poll(self) -> Thought | None:
        """The answer as a thought, once it is there.

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
        return Thought(text, "" if text else "it answered with nothing that its role picks")

    @property
    def text(self) -> str:
        return self._written if self._done else ""


def fields_of(brief: Brief) -> dict[str, str]:
    """What `{fields}` stand for: the groups of its trigger, and its task."""
    return {**brief.groups, "task": brief.task}


def filled(template: str, brief: Brief) -> str:
    """An argument with the `{fields}` of a Brief: its task and the groups of its trigger.

    Raises:
        WorkError: what is filled in would be taken for an option of the program, or is no argument at all.
    """
    text = template.format(**fields_of(brief))
    if "\0" in text:
        raise WorkError("its task holds a zero byte")
    if text.startswith("-") and not template.startswith("-"):
        raise WorkError("its task begins with a hyphen, which a program may take for an option")
    return text


def allowed(host: Host, program: str) -> None:
    """Raises WorkError unless the user has named a program by `--allow-program`. A profile alone starts none."""
    if program not in host.programs:
        raise WorkError(f"{program} may not be started; --allow-program {program} allows it")


def started(command: Sequence[str], stdin: int) -> subprocess.Popen[bytes]:
    """A program with a pipe from its output: no shell, and a session of its own, so that all it starts ends with it.

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
    """Ends a program and all that it started, if it still runs."""
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
