"""A conversation that was kept and taken up again goes on as if it had never stopped."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from tests.engine.conftest import QUESTION, make_profile, run
from warpcortex_cli import events as ev
from warpcortex_cli.engine.archive import Archive
from warpcortex_cli.engine.contents import read_contents
from warpcortex_cli.engine.session import Session
from warpcortex_cli.memory.log import RecordLog

NEXT = "And how many lamps does Otto have?"


def text_of(events: list[ev.Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, ev.RiverText))


def new_session(prism) -> Session:
    return Session(prism, make_profile())


def held(prism, path: Path, *questions: str) -> Session:
    """A session that was kept after each turn."""
    session = new_session(prism)
    archive = Archive(RecordLog(path))
    archive.restore(session)
    for question in questions:
        run(session, question)
        archive.save(session)
    archive.log.close()
    return session


def taken_up(prism, path: Path) -> tuple[Session, list[str]]:
    session = new_session(prism)
    archive = Archive(RecordLog(path))
    told = archive.restore(session)
    archive.log.close()
    return session, told


def same_kv(a: Session, b: Session) -> bool:
    pairs = zip(a.river.tail.layer(1), b.river.tail.layer(1), strict=True)
    return all(x.shape == y.shape and torch.allclose(x, y, atol=1e-4) for x, y in pairs)


def test_it_goes_on_where_it_stood_and_computes_nothing_anew(prism, tmp_path: Path, monkeypatch) -> None:
    session = held(prism, tmp_path / "s", QUESTION, "Tell me more.")
    assert session.river.asides
    with monkeypatch.context() as patch:
        patch.setattr(prism, "forward", lambda rows: pytest.fail("nothing needs to be computed"))
        back, told = taken_up(prism, tmp_path / "s")
    assert told == [] and same_kv(session, back)
    assert back.turns == session.turns and back.river.sentences.ids == session.river.sentences.ids
    assert back.river.sentences.own == session.river.sentences.own and any(back.river.sentences.own)
    assert [a.text for a in back.river.asides] == [a.text for a in session.river.asides]
    assert not session.earlier_thoughts() and not back.thoughts()
    assert back.earlier_thoughts() == [(a.stream, a.text) for a in session.river.asides]
    for a, b in zip(session.river.asides, back.river.asides, strict=True):
        assert torch.equal(a.kv.layer(0)[0], b.kv.layer(0)[0])
    for one in (back, session):
        one.conversation.crew.spawning = False  # a Synapse is taken anew, with the queries that are new
    assert text_of(run(back, NEXT)) == text_of(run(session, NEXT))


def test_what_was_taken_back_stays_so(prism, tmp_path: Path) -> None:
    path = tmp_path / "s"
    session = held(prism, path, QUESTION)
    before = session.river.position
    archive = Archive(RecordLog(path))
    session = new_session(prism)
    archive.restore(session)
    run(session, NEXT)
    archive.save(session)
    while session.river.position > before:
        session.undo()
    archive.save(session)
    archive.log.close()
    back, _ = taken_up(prism, path)
    assert back.river.position == before and same_kv(session, back) and len(back.turns) == 2
    assert back.undo() is not None and back.undo() is None and back.river.position == 0


def test_after_clear_new_thoughts_are_kept_under_old_numbers(prism, tmp_path: Path) -> None:
    path = tmp_path / "s"
    session = new_session(prism)
    archive = Archive(RecordLog(path))
    run(session, QUESTION)
    archive.save(session)
    session.clear()
    run(session, NEXT)
    archive.save(session)
    archive.log.close()
    back, _ = taken_up(prism, path)
    asides = session.river.asides
    assert asides and [a.text for a in back.river.asides] == [a.text for a in asides]
    assert back.turns == session.turns and same_kv(session, back)


def test_an_unfinished_turn_is_dropped_and_the_rest_is_there(prism, tmp_path: Path) -> None:
    path = tmp_path / "s"
    session = held(prism, path, QUESTION)
    with RecordLog(path) as log:
        whole = log.nbytes
    held(prism, path, NEXT)
    with RecordLog(path) as log:
        ends = [r.offset + r.length for r in log.records]
    for cut in (end for end in ends[:-1] if end > whole):
        copy = tmp_path / f"cut{cut}"
        copy.write_bytes(path.read_bytes()[: cut - 3])
        back, told = taken_up(prism, copy)
        assert back.turns == session.turns and same_kv(session, back)
        assert any("behind the last whole turn" in line for line in told)


def test_damaged_kv_is_reported_and_computed_anew(prism, tmp_path: Path) -> None:
    path = tmp_path / "s"
    session = held(prism, path, QUESTION)
    with RecordLog(path, readonly=True) as log:
        record = next(r for _, _, r in read_contents(log).blocks[1:])
    content = bytearray(path.read_bytes())
    content[record.offset + record.length // 2] ^= 0xFF
    path.write_bytes(content)
    back, told = taken_up(prism, path)
    assert any("damaged" in line for line in told) and any("computed anew" in line for line in told)
    assert back.turns == session.turns and same_kv(session, back)


def test_another_model_reads_it_anew(prism, tmp_path: Path, model_folder) -> None:  # type: ignore[no-untyped-def]
    from warpcortex_cli.prism.prism import Prism
    from warpcortex_cli.prism.source import resolve_model

    path = tmp_path / "s"
    session = held(prism, path, "Hi.")
    other = Prism.load(resolve_model(str(model_folder("qwen2")), "auto"), device="cpu")
    back, told = taken_up(other, path)
    assert any("read anew" in line for line in told) and back.turns == session.turns
    assert back.river.position > 0
    again, told = taken_up(other, path)  # and is kept for this one from now on
    assert told == [] and again.turns == session.turns


def test_a_full_disk_ends_the_keeping_and_not_the_chat(prism, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "s"
    session = new_session(prism)
    archive = Archive(RecordLog(path))
    run(session, QUESTION)
    archive.save(session)
    kept = list(session.turns)

    file = archive.log._file

    class AlmostFull(io.FileIO):
        """Takes a part of a block, and then nothing."""

        room = 9000

        def write(self, data) -> int:  # type: ignore[no-untyped-def]
            if self.room <= 0:
                raise OSError(28, "No space left on device")
            written = super().write(data[: self.room])
            self.room -= written
            return written

    monkeypatch.setattr(archive.log, "_file", AlmostFull(file.fileno(), "r+", closefd=False))
    run(session, NEXT)
    archive.save(session)
    assert "No space left" in archive.failure and archive.log._file.room == 0
    assert text_of(run(session, "And now?"))
    archive.save(session)
    archive.log.close()
    file.close()
    back, told = taken_up(prism, path)
    assert back.turns == kept and told == []


def test_whatever_is_damaged_it_opens_again_and_again(prism, tmp_path: Path) -> None:
    """A byte of every header and of every payload, of a conversation with thoughts, undo and clear in it."""
    path = tmp_path / "s"
    session = new_session(prism)
    archive = Archive(RecordLog(path))
    run(session, "Before all of this.")
    archive.save(session)
    session.clear()
    for step in range(3):
        run(session, QUESTION if step == 1 else NEXT)
        archive.save(session)
        if step == 1:
            session.undo()
            archive.save(session)
    archive.log.close()
    content = path.read_bytes()
    with RecordLog(path, readonly=True) as log:
        records = list(log.records)
    said = [t.text for t in session.turns]
    for number, record in enumerate(records):
        for place in (record.offset - 9, record.offset + record.length // 2):
            damaged = bytearray(content)
            damaged[place] ^= 0x41
            copy = tmp_path / "copy"
            copy.write_bytes(damaged)
            first, _ = taken_up(prism, copy)
            river = first.river
            assert river.tail.length == len(river.sentences.ids), number
            again, _ = taken_up(prism, copy)
            assert again.turns == first.turns and again.river.position == river.position
            assert {t.text for t in first.turns} & set(said), number


def test_kv_that_was_computed_anew_is_stored_anew(prism, tmp_path: Path) -> None:
    path = tmp_path / "s"
    held(prism, path, QUESTION)
    with RecordLog(path, readonly=True) as log:
        record = read_contents(log).blocks[1][2]
    content = bytearray(path.read_bytes())
    content[record.offset + record.length // 2] ^= 0xFF
    path.write_bytes(content)
    session = new_session(prism)
    archive = Archive(RecordLog(path))
    assert any("computed anew" in line for line in archive.restore(session))
    archive.save(session)
    archive.log.close()
    assert taken_up(prism, path)[1] == []


def test_what_nobody_needs_is_given_back(prism, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("warpcortex_cli.memory.log.WORTH_REWRITING", 1)
    path = tmp_path / "s"
    session = new_session(prism)
    archive = Archive(RecordLog(path))
    for _ in range(4):
        session.clear()
        run(session, QUESTION)
        archive.save(session)
    before = archive.log.nbytes
    archive.compact(session)
    assert archive.log.nbytes < 0.4 * before
    run(session, NEXT)
    archive.save(session)
    archive.log.close()
    back, told = taken_up(prism, path)
    assert told == [] and back.turns == session.turns and same_kv(session, back)
