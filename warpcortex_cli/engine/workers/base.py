"""What does a Stream's work: a worker takes a Brief, and the work that it makes of it comes back with a Thought.

To add a kind of work: one file here with a `Worker` and its `Work`, one line in `WORKERS` (`workers/__init__.py`), and
its name in `Role.work` of the profile. The conversation does the rest. It gives every work

- `start`, when the Stream's turn has come;
- a place in the forwards, if `wanted` says so: `row`, then `absorb`;
- `poll` before each step, and behind each of its rows, until there is a Thought;
- `close`, exactly once after `start` was called, however it ended: with its Thought, at its deadline
  (`Role.deadline_seconds`), cancelled, or failed.

All of these are called on the conversation's own thread. Whatever one of them raises ends this Stream as `failed` and
nobody else; a `WorkError` says in its message what the user reads.

A role that starts by itself asks its worker first whether it `wants` the task, so that no Stream starts in vain.

A calculator has its Thought at the first `poll`. What runs elsewhere (a thread, a subprocess, another machine) starts
there in `start`, leaves its result where `poll` finds it, and calls `Host.wake`. Neither has rows or a tail.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import re2

from warpcortex_cli.engine.brief import Brief, Thought
from warpcortex_cli.engine.river import River
from warpcortex_cli.memory.tail import Tail
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.reads import Reads
from warpcortex_cli.prism.rows import Row, RowResult
from warpcortex_cli.profile import Profile, Role


def picked(role: Role, text: str) -> str:
    """The thought in a text that a work of a role came to; empty when there is none."""
    if role.thought is None:
        return text.strip()
    found = ""
    for match in _thought_pattern(role.thought).finditer(text):
        named = match.groupdict().get("thought")
        found = (match.group(0) if named is None else named).strip()
    return found


@lru_cache
def _thought_pattern(thought: str) -> re2._Regexp[str]:
    return re2.compile(f"(?m){thought}")


class WorkError(Exception):
    """The work cannot be done. Its message is the reason that the user reads."""


@dataclass(frozen=True)
class Host:
    """What a worker may use of its conversation.

    Attributes:
        river: its text, its index and its KV; to read only.
        seed: of the conversation; a work's own is made of it and the Brief's number.
        wake: a result has come from another thread. Safe to call from any.
    """

    prism: Prism
    river: River
    seed: int
    wake: Callable[[], None] = lambda: None


class Work(ABC):
    """One Brief on its way to a Thought. Making one does nothing that could fail: that begins with `start`.

    Attributes:
        tail: its private KV, where it has some.
        kv_bytes: of that, as it is or last was.
    """

    tail: Tail | None = None
    kv_bytes: int = 0

    @abstractmethod
    def start(self) -> None:
        """Begins."""

    @abstractmethod
    def poll(self) -> Thought | None:
        """The Thought, once there is one; one without text ends the Stream as `expired`."""

    @abstractmethod
    def close(self) -> None:
        """Stops what still runs and gives everything back."""

    @property
    def tokens(self) -> int:
        """Tokens that it has written so far."""
        return 0

    @property
    def text(self) -> str:
        """What it has written so far, its thought and all that led to it."""
        return ""

    @property
    def reads(self) -> Reads | None:
        """What its rows attend to beside its tail; None: it has no rows."""
        return None

    @property
    def wanted(self) -> int:
        """Tokens that it would have in the next step; 0: it takes no part."""
        return 0

    def row(self, room: int) -> Row:
        """Its next tokens, at most `room`. Asked only where some are `wanted`."""
        raise NotImplementedError

    def absorb(self, result: RowResult) -> str | None:
        """Takes in what its row gave. Returns new text to show; None: it has written nothing."""
        raise NotImplementedError


class Worker(ABC):
    """All work of one kind in a conversation: what its works share (pools, processes, connections) is its own.

    Attributes:
        seated: its works take one of `limits.streams` seats, and may have to wait for one.
        reads: its works are given a Synapse, a focus set and a prompt in tokens.
        exact: its thoughts are right by the way they are made, so that the Gate need not judge them.
    """

    seated: ClassVar[bool] = False
    reads: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    def __init__(self, host: Host) -> None:
        self.host = host

    def wants(self, role: Role, task: str, groups: Mapping[str, str]) -> bool:
        """Whether a role that starts by itself finds work in a task. Called before there is a Stream; must not fail."""
        return True

    @abstractmethod
    def take(self, brief: Brief) -> Work:
        """The work of a Brief, not started yet."""

    def use(self, profile: Profile) -> None:  # noqa: B027
        """Takes its settings from a profile: when it is made, and when there is another one between turns."""

    def forget(self) -> None:  # noqa: B027
        """The River has changed: what was made of its KV is of no use to later works."""

    def close(self) -> None:  # noqa: B027
        """The conversation is over."""
