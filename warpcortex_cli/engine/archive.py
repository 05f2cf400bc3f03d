"""A conversation on disk: the River's tokens, their KV, its asides and what was said, written at the end of a turn.

Blocks of the River's past are records in the same file, which is their cold tier. They are written when memory is short
or a turn ends, and read only when needed. An empty record means that only the block's tokens are kept.

Tokens and KV are separate records, so KV that is damaged, or of another model, can be recomputed. The last record of a
turn is its state. Whatever follows the last state belongs to an unfinished turn, and is dropped.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from warpcortex_cli.engine.asides import Aside
from warpcortex_cli.engine.contents import (
    ASIDE,
    BLOCK_OF_TAIL,
    FINGERPRINTS,
    MODEL,
    PAST,
    STATE,
    TOKENS,
    TURN,
    Contents,
    Said,
    State,
    read_contents,
)
from warpcortex_cli.engine.river import PREFILL_CHUNK, Mark
from warpcortex_cli.engine.session import Session
from warpcortex_cli.memory.log import WORTH_REWRITING, DamagedError, RecordLog
from warpcortex_cli.memory.segment import Readable, Segment
from warpcortex_cli.memory.store import BLOCK, Entry
from warpcortex_cli.prism.fingerprint import fingerprint
from warpcortex_cli.prism.rows import Row

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Stored:
    """The part of a session that is in its file.

    Attributes:
        asides: by the number of their Stream.
        turns: what was said.
        state: the last one; None: the file is empty.
        blocks: how many blocks of the past have their fingerprints there.
    """

    asides: dict[int, Aside] = field(default_factory=dict)
    turns: tuple[Said, ...] = ()
    state: State | None = None
    blocks: int = 0


class Archive:
    """Keeps a session in a file. `failure`: why it is no longer saved, for the user; empty if it is."""

    def __init__(self, log: RecordLog) -> None:
        self.log = log
        self.failure = ""
        self._looked = log.nbytes  # its bytes when it was last checked for dead records
        self._stored = _Stored()

    # -- writing ------------------------------------------------------------------------------------------------

    def save(self, session: Session) -> None:
        """Writes what has changed since the last save. A full disk stops the saving, not the chat."""
        river = session.river
        if self.failure or (river.unchanged == river.length and _state_of(session) == self._stored.state):
            return
        store = river.past.store
        store.use(self.log, PAST)
        known, now = self._stored, _stored_of(session, self._stored)
        try:
            store.save(_records(session, river.unchanged, known, now))
        except OSError as error:
            self._fail(error)
            return
        self._stored, river.unchanged = now, river.length
        self._looked = min(self._looked, self.log.nbytes)
        if self.log.nbytes - self._looked >= WORTH_REWRITING:
            self.compact(session)

    def _fail(self, error: OSError) -> None:
        self.failure = (
            f"the session is not saved any more ({error.strerror or error}); the chat goes on in memory. "
            "Make room, and start again with the same --session to go on from the last turn that was saved."
        )

    def compact(self, session: Session) -> None:
        """Rewrites the file if much of it is dead."""
        found = read_contents(self.log)
        stored = session.river.past.tokens
        kept = (
            *(r for first, _, r in found.blocks if first >= stored),
            *found.asides.values(),
            *(r for number, r in found.past.items() if number < stored // BLOCK),
            *(r for _, r in found.fingerprints),
        )
        live = sum(r.length for r in kept)
        self._looked = self.log.nbytes
        if not self.failure and self.log.worth_rewriting(self.log.total - live):
            with contextlib.suppress(OSError):  # then the file stays as large as it is
                self._rewrite(session)
                self._looked = self.log.nbytes

    def _rewrite(self, session: Session) -> None:
        """Replaces the file by the session's current state, all or nothing.

        Raises:
            OSError: it could not be written.
        """
        river, now = session.river, _stored_of(session, _Stored())
        river.past.store.rewrite(river.past.packed(), _records(session, 0, _Stored(), now))
        self._stored, river.unchanged = now, river.length

    # -- reading ------------------------------------------------------------------------------------------------

    def restore(self, session: Session, progress: Progress | None = None) -> list[str]:
        """Restores the stored session into an empty one. Returns what the user should know, in sentences."""
        found = read_contents(self.log)
        unfinished = self.log.cut + sum(r.length for r in self.log.records[found.used :])
        if unfinished:
            found.damaged.append(
                f"{unfinished:,} bytes behind the last whole turn were dropped: it was never finished, or cut"
            )
        state, same = found.state, found.model.get("fingerprint") == fingerprint(session.prism)
        session.river.past.store.use(self.log, PAST)
        if state is not None and same and len(found.ids) >= state.tokens:
            try:
                self.log.forget_from(found.used)
            except OSError as error:
                self._fail(error)
            del found.ids[state.tokens :], found.own[state.tokens :]
            blocks = self._take_up_past(session, state, found)
            self._take_up(session, state, found, self._fill(session, found, progress), blocks)
        elif found.turns:
            was = found.model.get("model", "another model")
            session.repeat(found.turns, progress)
            with contextlib.suppress(OSError):  # `save` will report it
                self._rewrite(session)
            why = f"it was held with other weights or types ({was})"
            if same or not found.model:
                why = "a part of it is damaged, and what that said is lost" if same else "its first record is damaged"
            found.damaged.append(f"the conversation was read anew: {why}")
        return found.damaged

    def _fill(self, session: Session, found: Contents, progress: Progress | None) -> int:
        """Fills the River's tail with the stored KV. Recomputed KV attends to no thoughts.

        Returns:
            How many of the first tokens have the KV that is stored.
        """
        prism, river = session.prism, session.river
        ids, good, anew = found.ids, len(found.ids), 0

        def compute(upto: int) -> None:
            nonlocal good, anew
            if river.length < upto:
                good, anew = min(good, river.length), anew + upto - river.length
            while river.length < upto:
                some = ids[river.length : min(upto, river.length + PREFILL_CHUNK)]
                positions = list(range(river.position, river.position + len(some)))
                row = Row(some, positions, river.tail, river.beside(), logits="none", adapter=river.settings.adapter)
                prism.forward([row])

        for start, end, record in found.blocks:
            if not river.length <= start < len(ids):
                continue  # it follows records that are lost
            try:
                segment = _segment(self.log.read(record), prism.device)
            except DamagedError as error:
                found.damaged.append(str(error))
                continue
            compute(start)
            kept = slice(0, min(end, len(ids)) - start)
            river.tail.append(
                [k[:, kept] for k in segment.keys], [v[:, kept] for v in segment.values], segment.positions[kept]
            )
            if progress:
                progress(river.length, len(ids))
        compute(len(ids))
        if anew:
            found.damaged.append(f"{anew} tokens whose KV was damaged were computed anew")
        return good

    def _take_up_past(self, session: Session, state: State, found: Contents) -> int:
        """Restores tokens and fingerprints of the past. Its blocks stay in the file.

        Returns:
            The number of blocks whose fingerprints were there.
        """
        river = session.river
        river.sentences.extend(found.ids)
        river.sentences.own[:] = bytes(found.own)
        blocks = state.past // BLOCK
        river.past.store.take_up({n: r for n, r in found.past.items() if n < blocks})
        fingerprints: list[bytes] = []
        with contextlib.suppress(DamagedError):  # they are computed again from the blocks
            for first, record in found.fingerprints:
                rows = self.log.read(record)
                size = river.past.fingerprints.bytes_per_block
                del fingerprints[first:]
                fingerprints += [rows[i : i + size] for i in range(0, len(rows), size)]
        return river.past.take_up(state.past, state.base, state.pinned, b"".join(fingerprints[:blocks]))

    def _take_up(self, session: Session, state: State, found: Contents, good: int, blocks: int) -> None:
        river = session.river
        wanted = {*state.asides, *(s for mark in state.marks for s in mark["asides"])}
        held: dict[int, Aside] = {}
        for stream in sorted(wanted & found.asides.keys()):
            try:
                payload = self.log.read(found.asides[stream])
            except DamagedError as error:
                found.damaged.append(f"{error}: a thought is lost, the words that came of it are not")
                continue
            kept = from_bytes(payload)
            text = bytes(kept["text"].tolist()).decode("utf-8", "replace")
            kv = _segment(payload, session.prism.device)
            # Records of earlier versions hold no anchor, only the position.
            stood = river.past.tokens + int(kv.positions[-1]) + 1 - river.past.base
            anchor = int(kept["anchor"]) if "anchor" in kept else min(max(0, stood), river.length)
            held[stream] = Aside(stream, text, anchor, kv)
        river.asides.keep(held[s] for s in state.asides if s in held)
        river.mixed_from = 0  # nobody knows what was read beside what
        self._stored = _Stored(dict(held), tuple(found.turns), state, blocks)
        session.turns = list(found.turns)
        session.marks = [
            Mark(**{**mark, "asides": tuple(held[s] for s in mark["asides"] if s in held)}) for mark in state.marks
        ]
        river.unchanged = good
        river.lay_out()  # the profile may have changed
        session.conversation.crew.streams.continue_from(state.spawned)


def _stored_of(session: Session, known: _Stored) -> _Stored:
    """What the file holds once the session as it is now has been written."""
    asides = (*session.river.asides, *(a for mark in session.marks for a in mark.asides))
    return _Stored(
        {**known.asides, **{aside.stream: aside for aside in asides}},
        tuple(session.turns),
        _state_of(session),
        len(session.river.past.fingerprints),
    )


def _records(session: Session, unchanged: int, known: _Stored, now: _Stored) -> Iterator[Entry]:
    """The records to write, besides the blocks of its past; the state comes last.

    Args:
        unchanged: how many of the first tokens are in the file as they are now.
        known: what is in the file.
        now: what will be in the file.
    """
    river = session.river
    if known.state is None:
        yield MODEL, 0, _json({"fingerprint": fingerprint(session.prism), "model": session.prism.name})
    end, stored, sentences = river.length, river.past.tokens, river.sentences
    tokens = {"ids": sentences.ids[unchanged:end].tolist(), "own": list(sentences.own[unchanged:end])}
    yield TOKENS, unchanged, _json(tokens)
    first = min(known.blocks, unchanged // BLOCK)
    if now.blocks > first:
        yield FINGERPRINTS, first, river.past.fingerprints.rows(first).tobytes()
    start = max(unchanged, stored)
    for a, b in pairwise([start, *range(start - start % BLOCK + BLOCK, end, BLOCK), end] if end > start else []):
        yield BLOCK_OF_TAIL, a, _packed(river.tail.freeze(a - stored, b - stored))
    for number, aside in now.asides.items():
        if known.asides.get(number) is not aside:  # numbers start again after /clear
            yield ASIDE, number, _packed(aside.kv, aside.text, aside.anchor)
    before = zip(known.turns, now.turns, strict=False)
    same = next((n for n, (a, b) in enumerate(before) if a is not b), min(len(known.turns), len(now.turns)))
    for number, turn in enumerate(now.turns[same:], start=same):
        yield TURN, number, _json(asdict(turn))
    assert now.state is not None
    yield STATE, 0, _json(asdict(now.state))


def _state_of(session: Session) -> State:
    river = session.river
    return State(
        tokens=river.length,
        turns=len(session.turns),
        marks=[{**vars(m), "asides": [a.stream for a in m.asides]} for m in session.marks],
        asides=[a.stream for a in river.asides],
        spawned=session.conversation.crew.streams.spawned,
        past=river.past.tokens,
        base=river.past.base,
        pinned=river.past.pinned,
    )


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _packed(kv: Readable, text: str = "", anchor: int = 0) -> bytes:
    keys, values = zip(*(kv.layer(i) for i in range(kv.layers)), strict=True)
    return to_bytes(
        {
            "keys": torch.stack(keys).cpu(),
            "values": torch.stack(values).cpu(),
            "positions": kv.positions.cpu().contiguous(),
            "text": torch.tensor(list(text.encode("utf-8", "replace")), dtype=torch.uint8),
            "anchor": torch.tensor(anchor),
        }
    )


def _segment(payload: bytes, device: torch.device) -> Segment:
    tensors = {name: tensor.to(device) for name, tensor in from_bytes(payload).items()}
    return Segment(tuple(tensors["keys"]), tuple(tensors["values"]), tensors["positions"])
