"""A River without end: what leaves its tail is not lost, costs no step anything, and comes back when asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.conftest import make_profile, run
from warpcortex_cli import events as ev
from warpcortex_cli.engine.archive import Archive
from warpcortex_cli.engine.contents import PAST
from warpcortex_cli.engine.river import QUERY_WINDOW, River
from warpcortex_cli.engine.session import Session
from warpcortex_cli.memory.log import RecordLog
from warpcortex_cli.memory.scratch import ScratchLog
from warpcortex_cli.memory.store import BLOCK
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row

FACT = "Zoltan keeps lanterns: 31, violet, in the cellar."
SMALL = {"window": 256, "recall": 128, "stored": "exact"}


def filler(sentences: int) -> str:
    return " ".join(f"Note {i} says that a cart of hay number {i * 7} went by." for i in range(sentences))


def new_session(prism: Prism, **memory: object) -> Session:
    return Session(prism, make_profile(memory={**SMALL, **memory}, river={"max_tokens": 40}))


def kept_session(prism: Prism, path: Path, **memory: object) -> tuple[Session, Archive]:
    """A session that goes on from what is in a file."""
    session, archive = new_session(prism, **memory), Archive(RecordLog(path))
    archive.restore(session)
    return session, archive


def long_session(prism: Prism, **memory: object) -> Session:
    session = new_session(prism, **memory)
    session.load_notes(f"{FACT} {filler(60)}")
    assert session.river.past.tokens > 256
    return session


def plain(river: River) -> list[torch.Tensor]:
    """The tail's keys without positions, and values."""
    layers = [river.tail.layer(i) for i in range(river.prism.layers)]
    keys = river.prism.rope.unrotated([k for k, _ in layers], river.tail.positions)
    return [*keys, *(v.clone() for _, v in layers)]


def test_a_text_beyond_the_models_context_is_read_and_answered(prism) -> None:
    session = new_session(prism)
    bounds = []

    def watch(done: int, total: int) -> None:
        river = session.river
        bounds.append(river.tail.length)
        assert river.position < prism.max_context

    tokens = session.load_notes(filler(300), progress=watch)
    assert tokens > prism.max_context and max(bounds) <= 256
    events = run(session, "What went by?")
    assert isinstance(events[-1], ev.RiverFinished) and events[-1].tokens > 0
    river = session.river
    assert river.length == len(river.sentences.ids) == river.past.tokens + river.tail.length
    assert river.tail.positions.tolist() == list(range(river.past.base, river.position))


def test_making_room_moves_tokens_and_changes_none(prism) -> None:
    session = new_session(prism, window=512)
    session.load_notes(filler(10))
    river = session.river
    before, ids = plain(river), list(river.sentences.ids)
    assert not river.past.tokens
    river.make_room()
    gone = river.past.tokens
    assert gone and gone % BLOCK == 0 and list(river.sentences.ids) == ids
    kept = river.past.gather(list(range(gone)), torch.zeros(gone, dtype=torch.long))  # at position 0: unrotated
    for index, (old, stored, new) in enumerate(zip(before, [*kept.keys, *kept.values], plain(river), strict=True)):
        assert torch.allclose(old[:, :gone], stored, atol=1e-4), index
        assert torch.allclose(old[:, gone:], new, atol=1e-4), index


def test_with_room_for_all_of_it_the_output_is_that_of_full_attention(prism) -> None:
    session = new_session(prism, window=512)
    session.load_notes(filler(10))
    river = session.river
    ask = prism.encode("And then?")

    def logits() -> torch.Tensor:
        probe = prism.new_tail(len(ask))
        positions = list(range(river.position, river.position + len(ask)))
        row = Row(ask, positions, probe, (*river.beside(), river.tail.view(river.tail.length)), "all")
        found = prism.forward([row])[0].logits
        assert found is not None
        return found

    full = logits()
    river.past.budget = (river.tail.length - river.limit // 3) // BLOCK * BLOCK - 4  # all that leaves, but the sinks
    river.make_room()
    assert not torch.allclose(logits(), full, atol=1e-3)
    river.past.recall(list(range(river.past.tokens)))
    assert torch.allclose(logits(), full, atol=1e-3)


def test_a_question_brings_back_what_it_asks_for(prism) -> None:
    session = long_session(prism)
    river = session.river
    run(session, "How many lanterns does Zoltan keep?")
    text = " ".join(line for line, _ in session.recalled())
    assert FACT in text
    assert {"lanterns", "Zoltan"} <= {w for _, shared in session.recalled() for w in shared}
    before = river.length
    run(session, "What about carts?")
    assert all(t < river.past.tokens for t in river.past.recalled) and len(river.past.recalled) <= 128
    while river.length > before:
        assert session.undo() is not None
    assert river.length == before == len(river.sentences.ids)


@pytest.mark.parametrize("behind", range(3, 10))
def test_what_leaves_the_tail_as_a_turn_begins_is_not_missed(prism, behind: int) -> None:
    session = new_session(prism)
    session.load_notes(f"{filler(40)} {FACT} {filler(behind)}")
    river = session.river
    wanted = river.sentences.ids.tolist()
    fact = prism.encode(f" {FACT}")[-12:]
    start = next(i for i in range(len(wanted)) if wanted[i : i + len(fact)] == fact)
    session.conversation.begin_turn(prism.encode("How many lanterns does Zoltan keep, and are they violet? " * 3))
    assert not river.full  # room was made first, so that the question has the whole budget
    while river.state == "prefill":
        session.step()
    assert start >= river.past.tokens or set(range(start, start + len(fact))) <= set(river.past.recalled)


def test_what_leaves_the_tail_while_a_long_turn_is_read_is_not_missed(prism) -> None:
    session = new_session(prism)
    session.load_notes(f"{filler(40)} {FACT} {filler(1)}")
    engine, river = session.conversation, session.river
    fact = prism.encode(f" {FACT}")[-12:]
    ids = river.sentences.ids.tolist()
    start = next(i for i in range(len(ids)) if ids[i : i + len(fact)] == fact)
    engine.begin_turn(prism.encode(f"{filler(12)} How many lanterns does Zoltan keep, and are they violet?"))
    assert start >= river.past.tokens
    while river.state == "prefill":
        session.step()
    assert start < river.past.tokens and set(range(start, start + len(fact))) <= set(river.past.recalled)


def test_what_the_river_writes_brings_back_more(prism, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says itself is asked for as well, at the latest after QUERY_WINDOW tokens."""
    session = Session(prism, make_profile(memory={**SMALL, "window": 288}, river={"max_tokens": 40}), streams=False)
    session.load_notes(f"{FACT} {filler(60)}")
    engine, river = session.conversation, session.river
    engine.begin_turn(prism.encode("Go on."))
    while river.state == "prefill":
        session.step()
    asked, stored = [], river.past.tokens
    look_for = river.past.look_for
    monkeypatch.setattr(
        river.past, "look_for", lambda words, *a, **k: asked.append(set(words)) or look_for(words, *a, **k)
    )
    while river.state == "writing":
        session.step()
    own = {w for w, mine in zip(river.sentences.words.numbers, river.sentences.own, strict=True) if mine}
    assert (
        session.conversation.turn.written > QUERY_WINDOW and river.past.tokens == stored
    )  # nothing left the tail meanwhile
    assert any(own & words for words in asked)


def test_a_stream_finds_its_focus_in_the_past(prism) -> None:
    session = Session(
        prism, make_profile(trigger=r"<(?P<task>[^>]{1,40})>", memory=SMALL, synapse={"landmarks": 8, "focus": 32})
    )
    session.load_notes(f"{FACT} {filler(60)}")
    engine = session.conversation
    for match in engine.router.feed("<lanterns of Zoltan>"):
        engine.crew.spawn(match.role, match.task, match.groups)
    engine.begin_turn(prism.encode("Go on."))
    session.step()
    stream = engine.crew.streams[1]
    assert stream.focus and stream.state == "thinking"
    assert engine.river.sentences.lines(stream.focus_tokens) == [FACT]
    positions = stream.tail.positions[: len(stream.focus_tokens)].tolist()
    assert positions == list(range(engine.river.past.base - len(positions), engine.river.past.base))


def test_a_turn_that_filled_the_past_can_be_taken_back(prism) -> None:
    session = new_session(prism)
    session.load_notes(filler(5))
    assert not session.river.past.tokens
    before, ids = plain(session.river), list(session.river.sentences.ids)
    session.load_notes(filler(80))
    assert session.river.past.tokens > len(ids)
    assert session.undo() is not None
    river = session.river
    assert (
        list(river.sentences.ids) == ids
        and river.length == len(ids)
        and len(river.past.store) * BLOCK == river.past.tokens
    )
    for old, new in zip(before, plain(river), strict=True):
        assert torch.allclose(old[:, -river.tail.length :], new, atol=1e-4)
    assert session.undo() is not None and river.length == 0 and river.past.base == 0
    assert run(session)[-1].name == "river_finished"


@given(steps=st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_tokens_are_never_lost_or_doubled(prism, steps: list[tuple[int, bool]]) -> None:
    session = new_session(prism)
    for sentences, back in steps:
        session.load_notes(filler(sentences))
        if back:
            session.undo()
        river = session.river
        assert river.length == len(river.sentences.ids)
        assert len(river.past.store) * BLOCK == river.past.tokens == len(river.past.fingerprints) * BLOCK
        assert river.position <= prism.max_context and river.tail.length <= river.limit


def kept(prism: Prism, path: Path, **memory: object) -> Session:
    session = new_session(prism, **memory)
    archive = Archive(RecordLog(path))
    archive.restore(session)
    session.load_notes(f"{FACT} {filler(60)}")
    run(session, "How many lanterns does Zoltan keep?")
    archive.save(session)
    archive.log.close()  # as after kill -9: nothing is tidied up
    return session


@pytest.mark.parametrize("warm", [0, 1, 256])
def test_it_is_taken_up_without_prefilling(prism, tmp_path: Path, monkeypatch, warm: int) -> None:
    session = kept(prism, tmp_path / "s", warm_mb=warm)
    back = new_session(prism, warm_mb=warm)
    archive = Archive(RecordLog(tmp_path / "s"))
    with monkeypatch.context() as patch:
        patch.setattr(prism, "forward", lambda rows: pytest.fail("nothing needs to be computed"))
        assert archive.restore(back) == []
    a, b = session.river, back.river
    assert b.past.tokens == a.past.tokens and b.past.base == a.past.base and b.sentences.ids == a.sentences.ids
    for x, y in zip(plain(a), plain(b), strict=True):
        assert torch.equal(x, y)
    assert b.past.store.tiers()["cold"].blocks == a.past.tokens // BLOCK  # headers only: no block was read
    run(back, "How many lanterns does Zoltan keep?")
    assert FACT in " ".join(line for line, _ in back.recalled())
    archive.save(back)
    archive.compact(back)
    archive.log.close()


def test_a_damaged_block_is_computed_anew_from_its_tokens(prism, tmp_path: Path) -> None:
    session = kept(prism, tmp_path / "s")
    whole = session.river.past.gather(list(range(BLOCK)), torch.arange(BLOCK))
    with RecordLog(tmp_path / "s", readonly=True) as log:
        first = next(r for r in log.records if r.kind == PAST and r.key == 0)
    data = bytearray((tmp_path / "s").read_bytes())
    data[first.offset + first.length // 2] ^= 0xFF
    (tmp_path / "s").write_bytes(data)
    back = new_session(prism)
    archive = Archive(RecordLog(tmp_path / "s"))
    archive.restore(back)
    again = back.river.past.gather(list(range(BLOCK)), torch.arange(BLOCK))
    assert back.river.past.anew == [0] and back.snapshot().memory.anew == 1
    for x, y in zip(whole.keys, again.keys, strict=True):
        assert torch.allclose(x, y, atol=1e-3)  # nothing stood before the first block
    archive.log.close()


def test_what_was_taken_back_leaves_the_disk(prism, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warpcortex_cli.memory.log.WORTH_REWRITING", 1 << 14)
    session, archive = kept_session(prism, tmp_path / "s")
    session.load_notes(filler(60))
    archive.save(session)
    full = (tmp_path / "s").stat().st_size
    assert session.undo() is not None and session.recalled() == []
    archive.save(session)
    archive.compact(session)
    archive.log.close()
    assert (tmp_path / "s").stat().st_size < full / 10


def test_clearing_begins_another_past_in_the_same_file(prism, tmp_path: Path) -> None:
    session, archive = kept_session(prism, tmp_path / "s", warm_mb=0)
    session.load_notes(filler(60))
    archive.save(session)
    session.clear()
    session.load_notes(f"{FACT} {filler(70)}")
    run(session, "Where?")
    archive.save(session)
    tokens = list(range(session.river.past.tokens))
    whole = session.river.past.gather(tokens, torch.tensor(tokens))
    archive.compact(session)
    archive.log.close()
    back = new_session(prism)
    archive = Archive(RecordLog(tmp_path / "s"))
    assert archive.restore(back) == []
    again = back.river.past.gather(tokens, torch.tensor(tokens))
    for x, y in zip((*whole.keys, *whole.values), (*again.keys, *again.values), strict=True):
        assert torch.equal(x, y)
    archive.log.close()


def test_what_has_no_room_on_disk_is_computed_from_its_tokens(prism, tmp_path: Path, monkeypatch) -> None:
    """Of a long past nothing but tokens and fingerprints is on disk. It is taken up at once, found, and read."""
    whole = kept(prism, tmp_path / "all", warm_mb=0)
    session = kept(prism, tmp_path / "s", warm_mb=0, cold_mb=0)
    blocks = session.river.past.tokens // BLOCK
    assert (tmp_path / "s").stat().st_size < (tmp_path / "all").stat().st_size / 2
    back = new_session(prism, warm_mb=0, cold_mb=0)
    archive = Archive(RecordLog(tmp_path / "s"))
    with monkeypatch.context() as patch:
        patch.setattr(prism, "forward", lambda rows: pytest.fail("nothing is computed before it is asked for"))
        assert archive.restore(back) == []
    past = back.river.past
    assert back.snapshot().memory.bare == past.store.bare == blocks
    again, first = past.gather(list(range(64)), torch.arange(64)), whole.river.past.gather
    for x, y in zip(first(list(range(64)), torch.arange(64)).keys, again.keys, strict=True):
        assert torch.allclose(x, y, atol=1e-3)  # the first blocks were computed behind nothing else
    run(back, "How many lanterns does Zoltan keep?")
    assert FACT in " ".join(line for line, _ in back.recalled())
    assert past.anew == [] and past.store.bare < len(past.store)  # nothing of it is damage
    archive.save(back)
    archive._rewrite(back)  # brings none of them back
    archive.log.close()
    with RecordLog(tmp_path / "s", readonly=True) as log:
        assert {r.length for r in log.records if r.kind == PAST} == {0}
    last = new_session(prism, warm_mb=0, cold_mb=0)
    archive = Archive(RecordLog(tmp_path / "s"))
    assert archive.restore(last) == [] and last.turns == back.turns
    archive.log.close()


def test_a_file_on_a_budget_stays_small_turn_after_turn(prism, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("warpcortex_cli.memory.log.WORTH_REWRITING", 1 << 16)
    monkeypatch.setattr("warpcortex_cli.engine.archive.WORTH_REWRITING", 1 << 16)
    sizes, before = {}, 0
    for cold in (1, None):
        session = new_session(prism, warm_mb=0, cold_mb=cold)
        archive = Archive(RecordLog(tmp_path / str(cold)))
        archive.restore(session)
        biggest = 0

        def look(done: int, total: int, path: Path = archive.log.path) -> None:
            nonlocal biggest
            biggest = max(biggest, path.stat().st_size)

        for _ in range(4):
            session.load_notes(filler(120), progress=look)
            archive.save(session)
        sizes[cold], before = biggest, session.river.past.tokens
        archive.log.close()
        back = new_session(prism, warm_mb=0, cold_mb=cold)
        archive = Archive(RecordLog(tmp_path / str(cold)))
        assert archive.restore(back) == [] and back.river.past.tokens == before
        assert (back.snapshot().memory.bare > 0) == (cold == 1)
        archive.log.close()
    assert sizes[1] < 3 << 20 < sizes[None] / 2, sizes


def test_after_clear_no_block_of_another_time_comes_back(prism, tmp_path: Path) -> None:
    """A bare block has the number of a whole one of the conversation before."""
    session, archive = kept_session(prism, tmp_path / "s", warm_mb=0)
    session.load_notes(filler(60))
    archive.save(session)
    archive.log.close()
    session, archive = kept_session(prism, tmp_path / "s", warm_mb=0, cold_mb=0)
    session.clear()
    session.load_notes(f"{FACT} {filler(70)}")
    archive.save(session)
    archive.log.close()
    back = new_session(prism, warm_mb=0, cold_mb=0)
    archive = Archive(RecordLog(tmp_path / "s"))
    assert archive.restore(back) == [] and back.river.past.store.bare == len(back.river.past.store)
    archive.log.close()


def test_a_kill_between_two_turns_finds_every_block(prism, tmp_path: Path, monkeypatch) -> None:
    """The file was written anew in the middle of a turn that never ended: no block of the turn before is damaged."""
    monkeypatch.setattr("warpcortex_cli.memory.log.WORTH_REWRITING", 1 << 16)
    session, archive = kept_session(prism, tmp_path / "s", warm_mb=0, cold_mb=1)
    session.load_notes(f"{FACT} {filler(100)}")
    archive.save(session)
    before, rewritten = list(session.turns), []
    thin = RecordLog.thin
    monkeypatch.setattr(RecordLog, "thin", lambda self, dead: rewritten.append(len(dead)) or thin(self, dead))
    session.load_notes(filler(200))
    assert rewritten and (tmp_path / "s").stat().st_size < 3 << 20  # an inode may be given twice
    archive.log.close()  # killed here
    back = new_session(prism, warm_mb=0, cold_mb=1)
    archive = Archive(RecordLog(tmp_path / "s"))
    told = archive.restore(back)
    past = back.river.past
    assert back.turns == before and all("never finished" in line for line in told)
    past.gather(list(range(past.tokens)), torch.arange(past.tokens))
    assert past.anew == [] and past.store.bare
    archive.log.close()


def test_what_is_kept_unpacked_is_a_budget_and_changes_nothing(prism) -> None:
    sessions = [long_session(prism, hot_mb=hot) for hot in (None, 0)]
    tokens = list(range(0, 256, 16))
    for session in sessions:
        session.river.past.recall(tokens)
    (roomy,), (tight,) = (s.river.past.working() for s in sessions)
    assert all(torch.equal(x, y) for x, y in zip(roomy.keys, tight.keys, strict=True))
    hot = [s.snapshot().memory.tiers["hot"].blocks for s in sessions]
    assert hot == [8, 1]


def test_recalling_what_is_bare_again_and_again_fills_no_disk(prism, monkeypatch) -> None:
    monkeypatch.setattr("warpcortex_cli.memory.log.WORTH_REWRITING", 1 << 16)
    session = new_session(prism, warm_mb=0, cold_mb=1)
    session.load_notes(filler(110))
    past, sizes, written = session.river.past, [], 0
    log = past.store._log
    assert isinstance(log, ScratchLog) and past.store.bare > 20
    for turn in range(60):
        before = log.nbytes
        past.recall([t for t in range(past.tokens) if t // BLOCK % 15 == turn % 15])
        past.working()
        sizes.append(log.nbytes)
        written += max(0, log.nbytes - before)
    assert written > 4 << 20 > max(sizes) and not past.anew
    assert os.name == "nt" or not any(Path(log.folder.name).iterdir())  # it has no name, also after being written anew
    past.close()


@pytest.mark.parametrize("read", [5, 31, 90])
def test_the_newest_queries_are_those_of_its_newest_tokens(prism: Prism, read: int) -> None:
    session = Session(prism, make_profile(trigger="never(?P<task>)"), streams=False)
    river = session.river
    session.conversation.begin_turn([5 + i % 200 for i in range(read)])
    for _ in range(40):
        session.step()
        ids = list(river.sentences.ids)
        assert sum(q.shape[2] for q in river._queries) < 2 * QUERY_WINDOW
        if len(ids) in (read, read + 1, read + 3, read + 35):  # so that it was asked for now and then
            row = Row(ids, list(range(len(ids))), prism.new_tail(len(ids)), logits="none", queries=True)
            whole = prism.forward([row])[0].queries
            assert river.queries is not None and whole is not None
            torch.testing.assert_close(river.queries, whole[:, :, -QUERY_WINDOW:], atol=1e-4, rtol=1e-4)
