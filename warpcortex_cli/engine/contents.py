"""The contents of a session's file without KV: what was said, tokens, and where the rest is. It loads no model."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

from warpcortex_cli.memory.log import DamagedError, Record, RecordLog

# Keys: -, first token, first token, Stream, number, -, block, first block.
MODEL, TOKENS, BLOCK_OF_TAIL, ASIDE, TURN, STATE, PAST, FINGERPRINTS = range(1, 9)
_ALL = 1 << 60  # no end
_MARK = ("tokens", "asides", "turns")


@dataclass(frozen=True)
class Said:
    """One stretch of the conversation. `role`: "user", "assistant" or "notes"."""

    role: str
    text: str


_DAMAGED = Said("assistant", "(this part of the conversation is damaged)")


@dataclass(frozen=True)
class State:
    """A conversation at the end of a turn. `tokens`: the River's; `asides`: the Streams whose thoughts it holds.

    `past`, `base`, `pinned`: as in `Past`.
    """

    tokens: int
    turns: int
    marks: list[dict[str, Any]]
    asides: list[int]
    spawned: int
    past: int = 0
    base: int = 0
    pinned: int = 0


@dataclass
class Contents:
    """What a log holds: the model that it was written with, the last state, and where the rest is.

    Attributes:
        own: of each token, whether the River wrote it.
        blocks: in order: the first token, the token before which the block is still valid, and the record of its KV.
        past: records of the blocks of its past, empty where only tokens are kept.
        fingerprints: the first block, and the record of the fingerprints from there on.
        used: records up to and with the last state.
        damaged: what could not be read, in sentences.
    """

    model: dict[str, Any] = field(default_factory=dict)
    state: State | None = None
    turns: list[Said] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    blocks: list[tuple[int, int, Record]] = field(default_factory=list)
    asides: dict[int, Record] = field(default_factory=dict)
    past: dict[int, Record] = field(default_factory=dict)
    fingerprints: list[tuple[int, Record]] = field(default_factory=list)
    used: int = 0
    damaged: list[str] = field(default_factory=list)


def read_contents(log: RecordLog) -> Contents:
    """Reads everything but KV, up to the last state. Damaged records are skipped and named."""
    out = Contents(damaged=list(log.lost))
    turns: dict[int, Said] = {}
    out.state, out.used = _last_state(log)
    for record in log.records[: out.used]:
        if record.kind == BLOCK_OF_TAIL:
            out.blocks.append((record.key, _ALL, record))
            continue
        if record.kind == ASIDE:
            out.asides[record.key] = record
            continue
        if record.kind == PAST:
            out.past.pop(record.key, None)  # in the order of writing, which a store takes for the order of use
            out.past[record.key] = record
            continue
        if record.kind == FINGERPRINTS:
            out.fingerprints = [(first, r) for first, r in out.fingerprints if first < record.key] + [
                (record.key, record)
            ]
            continue
        if record.kind == TOKENS:  # even if it is damaged: KV from here on belongs to other tokens
            out.blocks = [(s, min(e, record.key), r) for s, e, r in out.blocks if s < record.key]
            del out.ids[record.key :], out.own[record.key :]
        try:
            found = json.loads(log.read(record))
        except (DamagedError, ValueError) as error:
            out.damaged.append(str(error))
            if record.kind == TURN:
                turns.pop(record.key, None)  # an older turn of this number was taken back
            continue
        if record.kind == MODEL:
            out.model = found
        elif record.kind == TOKENS and len(out.ids) == record.key:
            out.ids += found["ids"]
            out.own += found["own"]
        elif record.kind == TURN:
            turns[record.key] = Said(**found)
    count = out.state.turns if out.state else len(turns)
    out.turns = [turns.get(n, _DAMAGED) for n in range(count)]
    return out


def _last_state(log: RecordLog) -> tuple[State | None, int]:
    """The newest state that can be read, and the number of records up to it; all of them if there is none."""
    for number in range(len(log.records), 0, -1):
        record = log.records[number - 1]
        if record.kind == STATE:
            try:
                return _state(json.loads(log.read(record))), number
            except (DamagedError, ValueError, TypeError, KeyError):
                continue
    return None, len(log.records)


def _state(found: dict[str, Any]) -> State:
    """A stored state. Fields of earlier versions are ignored."""
    marks = [{name: mark[name] for name in _MARK} for mark in found["marks"]]
    return State(**{f.name: found[f.name] for f in fields(State) if f.name in found} | {"marks": marks})
