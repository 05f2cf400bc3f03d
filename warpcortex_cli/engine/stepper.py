"""The step loop. It alone runs the model in a step: for the rows of all conversations at once.

    plan      each conversation says which rows it would have: its River's, its Streams', thoughts on their way in
    pace      how many Stream tokens may come, so that Rivers keep their speed
    ready     adapters that have left memory are read again
    forward   all rows in one forward of the Prism
    absorb    each result goes back to the owner of its row; an error ends that owner's work and nobody else's

What a conversation has to know before it can plan (the queries of a task, an instruction that Streams share, a block
that was lost) it computes in short forwards of its own: docs/architecture.md lists them, tests/test_forwards.py
allows no others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import Event as Flag
from typing import Protocol

import torch

from warpcortex_cli.engine.pacing import Pacer, Promise, pacer
from warpcortex_cli.errors import MemoryLimitError, RunError
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row, RowResult

_REST = 0.02  # seconds
_READ = 512  # tokens that all Rivers read in a step,
_READ_BESIDE = 96  # and if another writes meanwhile: each of its tokens waits for them


@dataclass(frozen=True)
class Part:
    """One row of a step, and its owner's callbacks.

    Attributes:
        absorb: takes the result.
        contained: a context in which an error ends the row's owner, and nobody else.
        alive: whether the owner still wants the result.
        rivers: whether it is a River's own row.
    """

    row: Row
    absorb: Callable[[RowResult], None]
    contained: Callable[[], AbstractContextManager[None]]
    alive: Callable[[], bool] = lambda: True
    rivers: bool = False


@dataclass(frozen=True)
class Plan:
    """What a conversation wants from the next step.

    Attributes:
        reads: tokens of its River's row; one if it writes, 0 if it has none.
        river: makes that row, given how many tokens it may have; None if it could not be made.
        wanted: tokens of its other rows.
        parts: makes the other rows, given how many tokens they may have together.
    """

    reads: int
    river: Callable[[int], Part | None]
    wanted: int
    parts: Callable[[int], list[Part]]


class Stepped(Protocol):
    """A participant in steps: a conversation."""

    @property
    def promise(self) -> Promise:
        """How much of its own speed its River is promised."""
        ...

    def plan(self) -> Plan | None:
        """Its part of the next step, or None if it takes no part."""
        ...


class Stepper:
    """Steps any number of conversations on one Prism.

    Attributes:
        pacer: grants Stream tokens; it keeps the strictest of all promises to Rivers.
    """

    def __init__(self, prism: Prism) -> None:
        self.prism = prism
        self.pacer = Pacer(0.0)
        self._conversations: list[Stepped] = []
        self._promises: list[Promise] = []
        self._first = 0  # the conversation served first in the next step, if not all Streams fit
        self._woken = Flag()

    def join(self, conversation: Stepped) -> None:
        """Adds a conversation to the steps."""
        self._conversations.append(conversation)
        self.settle()

    def leave(self, conversation: Stepped) -> None:
        """Removes a conversation from the steps."""
        self._conversations.remove(conversation)
        self.settle()

    def settle(self) -> None:
        """Reads the promises to Rivers again; call it when a profile has changed."""
        promises = [c.promise for c in self._conversations]
        if promises and promises != self._promises:
            self.pacer = max((pacer(*p) for p in promises), key=lambda p: p.share)
        self._promises = promises

    def step(self) -> bool:
        """Runs one forward over all rows. Returns False if nobody had anything to do."""
        began = time.monotonic()
        parts = [part for part in self._planned() if self._ready(part)]
        if parts:
            decodes = any(p.rivers and len(p.row.tokens) == 1 for p in parts)
            width = sum(len(p.row.tokens) for p in parts if not p.rivers)
            forward = time.monotonic()
            for part, result in self._forwarded(parts):
                with part.contained():
                    part.absorb(result)
            self.pacer.observe(width, time.monotonic() - forward, decodes, besides=forward - began)
        return bool(parts)

    def _planned(self) -> list[Part]:
        """Rivers' rows, then as many of the other rows as the pacer allows."""
        plans = [plan for plan in (c.plan() for c in self._conversations) if plan is not None]
        self._first = (self._first + 1) % max(1, len(plans))
        in_turn = [*plans[self._first :], *plans[: self._first]]
        parts = [part for part in (*_writing(plans), *_reading(in_turn)) if part is not None]
        width = self.pacer.width(sum(plan.wanted for plan in plans), bool(parts))
        for plan in in_turn:
            found = plan.parts(width)
            width -= sum(len(p.row.tokens) for p in found)
            parts += found
        return parts

    def _ready(self, part: Part) -> bool:
        """Reads a row's adapter, if it has left memory: before the step, so that a fault there is its owner's alone."""
        if part.row.adapter is None:
            return True
        ready = False
        with part.contained():
            self.prism.adapters.keep(part.row.adapter)
            ready = True
        return ready

    def _forwarded(self, parts: Sequence[Part]) -> list[tuple[Part, RowResult]]:
        """Forwards all rows at once. If that fails, forwards each alone, so that only the culprit's owner ends."""
        lengths = [p.row.tail.length for p in parts]
        try:
            return list(zip(parts, self.prism.forward([p.row for p in parts]), strict=True))
        except Exception as error:
            if len(parts) == 1:
                _tell(parts[0], error)
                return []
        done = []
        for part, length in zip(parts, lengths, strict=True):
            with part.contained():
                if part.alive():
                    part.row.tail.truncate(length)  # the failed step may have lengthened it
                    done.append((part, self._alone(part)))
        return done

    def _alone(self, part: Part) -> RowResult:
        try:
            return self.prism.forward([part.row])[0]
        except Exception as error:
            raise _as_told(error, part) from error

    # -- waiting ------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Ends `rest`: a worker has a result. Safe to call from any thread."""
        self._woken.set()

    def rest(self) -> None:
        """Waits for `wake`, but only briefly, because deadlines may pass meanwhile."""
        self._woken.wait(_REST)
        self._woken.clear()


def _writing(plans: Sequence[Plan]) -> list[Part | None]:
    """The rows of all Rivers that write."""
    return [plan.river(1) for plan in plans if plan.reads == 1]


def _reading(plans: Sequence[Plan]) -> list[Part | None]:
    """Rows of the Rivers that read: as much as does not keep those that write waiting."""
    room = _READ_BESIDE if any(plan.reads == 1 for plan in plans) else _READ
    parts = []
    for plan in plans:
        if plan.reads > 1 and room > 0:
            parts.append(plan.river(room))
            room -= min(room, plan.reads)
    return parts


def _as_told(error: Exception, part: Part) -> Exception:
    """The error that a row's owner gets; for a River it says what the user can do."""
    if not part.rivers:
        return error
    said = str(error).strip().splitlines() or [type(error).__name__]
    out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if out_of_memory or "not enough memory" in said[0] or "can't allocate" in said[0]:
        return MemoryLimitError(
            "there is not enough memory for the River's next step.", "Shorten the notes or choose a smaller model."
        )
    return RunError(f"the forward pass failed ({said[0]}).")


def _tell(part: Part, error: Exception) -> None:
    """Reports a failed row to its owner."""
    with part.contained():
        raise _as_told(error, part) from error
