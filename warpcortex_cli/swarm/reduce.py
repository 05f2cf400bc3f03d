"""What many thoughts come to: votes with their counts, and the best few of them for the River."""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warpcortex_cli.errors import UsageError
from warpcortex_cli.swarm.tasks import read
from warpcortex_cli.swarm.thoughts import thoughts_in

if TYPE_CHECKING:
    from warpcortex_cli.profile import Role

_STANDS = "injected"  # the state of a thought that the Gate has not turned away


@dataclass(frozen=True)
class Vote:
    """What the thoughts of one group say.

    Attributes:
        group: the value that its tasks have in common.
        counts: how many thoughts say what, most first; of equal ones that of the earliest task first. Differences of
            case and white space do not count.
        of: how many Streams the group had; those without a thought that stands abstain.
    """

    group: Any
    counts: dict[str, int]
    of: int

    def to_json(self) -> dict[str, Any]:
        """`{"group", "thought", "votes", "of", "counts"}`; `thought` is null if nobody voted."""
        thought, votes = next(iter(self.counts.items()), (None, 0))
        return {"group": self.group, "thought": thought, "votes": votes, "of": self.of, "counts": self.counts}


def votes(tasks: Path, thoughts: Path, role: Role, field: str) -> Iterator[Vote]:
    """The vote of each group of tasks that agree in `field`, in the order of the tasks.

    A database on disk does the counting, so that memory does not depend on their number.

    Args:
        field: a key of the tasks' lines: `id`, `task`, or any other whose value is a text.

    Raises:
        UsageError: a task has no such field.
    """
    with closing(sqlite3.connect("")) as base:  # an unnamed one is on disk and disappears
        base.execute("CREATE TABLE groups(line INTEGER PRIMARY KEY, value TEXT)")
        base.execute("CREATE TABLE said(line INTEGER, said TEXT, key TEXT)")
        _fill(base, "groups VALUES(?, ?)", groups(tasks, role, field))
        _fill(base, "said VALUES(?, ?, ?)", _said(thoughts))
        found = base.execute(
            "SELECT value, said, n, MIN(first) OVER (PARTITION BY value) AS begun FROM ("
            " SELECT value, MIN(said) AS said, key, COUNT(*) AS n, MIN(line) AS first"
            " FROM groups JOIN said USING(line) GROUP BY value, key"
            ") ORDER BY begun, value, key = '', n DESC, first"
        )
        for value, rows in groupby(found, key=lambda row: row[0]):
            counted = [(said, n) for _, said, n, _ in rows]
            counts = {said: n for said, n in counted if said}
            yield Vote(json.loads(value), counts, sum(n for _, n in counted))


def _fill(base: sqlite3.Connection, into: str, rows: Iterable[tuple[Any, ...]]) -> None:
    base.executemany(f"INSERT INTO {into}", rows)


def groups(tasks: Path, role: Role, field: str) -> Iterator[tuple[int, str]]:
    """The line of each task, and its value of `field` in JSON. Raises UsageError as `votes`."""
    for task in read(tasks, role):
        known = {**task.groups, "task": task.text, "id": task.id}
        if field not in known:
            raise UsageError(
                f"{tasks}, line {task.line:,} has no {field!r} to vote by.", "Vote by `id`, or by a text of all lines."
            )
        yield task.line, json.dumps(known[field], sort_keys=True)


def _said(thoughts: Path) -> Iterator[tuple[int, str, str]]:
    for line in thoughts_in(thoughts):
        said = " ".join(line["thought"].split()) if line["state"] == _STANDS else ""
        yield line["line"], said, said.casefold()


def best(thoughts: Path, most: int) -> list[dict[str, Any]]:
    """The `most` best thoughts, the best first, each text once: by the Gate's score, then by certainty."""

    def worth(line: dict[str, Any]) -> tuple[float, float, int]:
        return line["score"] or 0.0, line["certainty"] or 0.0, -line["line"]

    held: dict[str, dict[str, Any]] = {}
    for line in thoughts_in(thoughts):
        if line["state"] != _STANDS:
            continue
        known = held.get(line["thought"])
        if known is None or worth(line) > worth(known):
            held[line["thought"]] = line
        if len(held) > 2 * most:  # seldom, so that the mean cost of a line is small
            held = {kept["thought"]: kept for kept in heapq.nlargest(most, held.values(), key=worth)}
    return heapq.nlargest(most, held.values(), key=worth)
