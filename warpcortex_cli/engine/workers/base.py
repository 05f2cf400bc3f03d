"""The interface of workers: a worker turns a Brief into a `Work`, which returns a Thought.

To add a kind of work: one file here with a `Worker` and its `Work`, one line in `WORKERS` (`workers/__init__.py`), and
its name in `Role.work` of the profile. The conversation does the rest. For each work it calls

- `start`, when the Stream's turn has come;
- `row`, then `absorb`, for each step in which `wanted` asks for tokens;
- `poll` before each step, and after each of its rows, until there is a Thought;
- `close`, exactly once after `start`, however the work ended: with a Thought, at its deadline
  (`Role.deadline_seconds`), cancelled, or failed.

All of these run on the conversation's own thread. An error in them ends only this Stream, as `failed`; the message of
a `WorkError` is shown to the user.

Before a role starts by itself, its worker is asked whether it `wants` the task, so that no Stream starts in vain.

A calculator has its Thought at the first `poll`. Work that runs elsewhere (a thread, a subprocess, another machine)
begins in `start`, leaves its result for `poll`, and calls `Host.wake`. Neither has rows or a tail.
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
    """The part of a worker's text that the role takes as its thought; empty if there is none."""
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
    """The work cannot be done. Its message, the reason, is shown to the user."""


@dataclass(frozen=True)
class Host:
    """What a worker may use of its conversation.

    Attributes:
        river: its text, index and KV; read-only.
        seed: the conversation's; a work derives its own from it and the Brief's number.
        wake: to be called when a result has arrived from elsewhere, from any thread.
        programs: names of the programs that the user lets a profile start.
    """

    prism: Prism
    river: River
    seed: int
    wake: Callable[[], None] = lambda: None
    programs: frozenset[str] = frozenset()


class Work(ABC):
    """The work on one Brief. The constructor must not fail; what can fail belongs in `start`.

    Attributes:
        tail: its private KV, or None.
        kv_bytes: the size of its tail now, or of the last one it had.
    """

    tail: Tail | None = None
    kv_bytes: int = 0

    @abstractmethod
    def start(self) -> None:
        """Begins the work."""

    @abstractmethod
    def poll(self) -> Thought | None:
        """The Thought, once there is one; one without text ends the Stream as `expired`."""

    @abstractmethod
    def close(self) -> None:
        """Stops what still runs and frees everything."""

    @property
    def tokens(self) -> int:
        """How many tokens it has written so far."""
        return 0

    @property
    def text(self) -> str:
        """All that it has written so far, its thought included."""
        return ""

    def so_far(self) -> Thought | None:
        """The Thought if it ended after its last finished line; None if there is none."""
        return None

    @property
    def reads(self) -> Reads | None:
        """What its rows attend to besides its tail; None if it has no rows."""
        return None

    @property
    def wanted(self) -> int:
        """How many tokens it wants in the next step; 0 for none."""
        return 0

    def row(self, room: int) -> Row:
        """A row of its next tokens, at most `room`. Called only if some are `wanted`."""
        raise NotImplementedError

    def absorb(self, result: RowResult) -> str | None:
        """Takes the result of its row. Returns new text to show, or None if it wrote nothing."""
        raise NotImplementedError


class Worker(ABC):
    """All work of one kind in a conversation. It owns what its works share: pools, processes, connections.

    Attributes:
        seated: whether each of its works takes one of the `limits.streams` seats and may have to wait for it.
        reads: whether its works are given a Synapse, a focus set and a prompt in tokens.
        exact: whether its thoughts are exact, so that the Gate need not judge them.
    """

    seated: ClassVar[bool] = False
    reads: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    def __init__(self, host: Host) -> None:
        self.host = host

    def wants(self, role: Role, task: str, groups: Mapping[str, str]) -> bool:
        """Whether a self-starting role finds work in a task. Called before there is a Stream; must not fail."""
        return True

    @abstractmethod
    def take(self, brief: Brief) -> Work:
        """The work for a Brief, not started yet."""

    def use(self, profile: Profile) -> None:  # noqa: B027
        """Applies a profile's settings, at the start and when the profile changes between turns."""

    def forget(self) -> None:  # noqa: B027
        """Drops what was made from the River's KV, because that has changed."""

    def close(self) -> None:  # noqa: B027
        """Ends the worker with its conversation."""
