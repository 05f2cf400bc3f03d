"""Two conversations that begin with the same file: each goes on in its own way, and neither writes what is shared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.engine.conftest import run
from tests.engine.test_past import FACT, filler, kept, new_session, plain
from warpcortex_cli.engine.archive import Archive
from warpcortex_cli.engine.contents import BLOCK_OF_TAIL, PAST, read_contents
from warpcortex_cli.engine.session import Session
from warpcortex_cli.memory.bases import links_of
from warpcortex_cli.memory.log import RecordLog
from warpcortex_cli.memory.store import BLOCK

QUESTION = "How many lanterns does Zoltan keep?"


def fork(path: Path, new: Path) -> None:
    with RecordLog(path, readonly=True) as log, RecordLog(new) as other:
        other.begin_with(log, read_contents(log).used)


def taken_up(prism, path: Path, **memory: object) -> tuple[Session, Archive, list[str]]:
    session = new_session(prism, **memory)
    archive = Archive(RecordLog(path))
    return session, archive, archive.restore(session)


def picture(session: Session) -> tuple[list[object], list[torch.Tensor]]:
    """The turns, tail and past of a session while its file is open."""
    past = session.river.past
    stored = past.gather(list(range(past.tokens)), torch.arange(past.tokens))
    return list(session.turns), [*plain(session.river), *stored.keys, *stored.values]


def same(a: tuple[list[object], list[torch.Tensor]], session: Session) -> bool:
    """Bit for bit."""
    b = picture(session)
    return a[0] == b[0] and all(torch.equal(x, y) for x, y in zip(a[1], b[1], strict=True))


def test_both_go_on_and_are_taken_up_without_prefilling(prism, tmp_path: Path, monkeypatch) -> None:
    kept(prism, tmp_path / "a")
    fork(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").stat().st_size < 500
    gone_on = {}
    for name, more in (("a", filler(50)), ("b", "Tilda keeps nails: 5, grey, in the cellar.")):
        session, archive, told = taken_up(prism, tmp_path / name)
        assert told == [] and session.turns[0].text.startswith(FACT)
        session.load_notes(more)
        run(session, QUESTION)
        assert FACT in " ".join(line for line, _ in session.recalled())
        archive.save(session)
        gone_on[name] = picture(session)
        archive.log.close()
    with monkeypatch.context() as patch:
        patch.setattr(prism, "forward", lambda rows: pytest.fail("nothing needs to be computed"))
        for name, before in gone_on.items():
            back, archive, told = taken_up(prism, tmp_path / name)
            assert told == [] and same(before, back)
            archive.log.close()
    a, b = gone_on["a"][0], gone_on["b"][0]
    assert a[:3] == b[:3] and a[3] != b[3]


@pytest.mark.parametrize("kind", [PAST, BLOCK_OF_TAIL])
def test_damage_in_what_is_shared_is_mended_in_each(prism, tmp_path: Path, kind: int) -> None:
    kept(prism, tmp_path / "a")
    fork(tmp_path / "a", tmp_path / "b")
    with RecordLog(tmp_path / "a", readonly=True) as log:
        found = read_contents(log)
        record = found.past[0] if kind == PAST else found.blocks[-1][2]
    with (tmp_path / "a").open("r+b") as file:
        file.seek(record.offset + record.length // 2)
        file.write(b"\xff\xfe\xfd")
    damaged = (tmp_path / "a").read_bytes()
    session, archive, told = taken_up(prism, tmp_path / "b")
    session.river.past.gather(list(range(BLOCK)), torch.arange(BLOCK))
    assert session.river.past.anew == [0] if kind == PAST else any("computed anew" in line for line in told)
    run(session, QUESTION)
    archive.save(session)
    before = picture(session)
    archive.log.close()
    assert (tmp_path / "a").read_bytes() == damaged and (tmp_path / "b.base1").samefile(tmp_path / "a")
    back, archive, told = taken_up(prism, tmp_path / "b")
    assert told == [] and same(before, back) and back.river.past.anew == []
    archive.log.close()


def test_a_fork_that_lost_its_last_state_goes_on_from_the_one_before(prism, tmp_path: Path) -> None:
    """The state is damaged in what is shared: less of it is read from then on, and nothing is cut."""
    first = kept(prism, tmp_path / "a")
    session, archive, _ = taken_up(prism, tmp_path / "a")
    run(session, "And now?")
    archive.save(session)
    archive.log.close()
    fork(tmp_path / "a", tmp_path / "b")
    with RecordLog(tmp_path / "a", readonly=True) as log:
        last = log.records[-1]
    with (tmp_path / "a").open("r+b") as file:
        file.seek(last.offset + 3)
        file.write(b"\xff")
    damaged = (tmp_path / "a").read_bytes()
    back, archive, told = taken_up(prism, tmp_path / "b")
    assert back.turns == first.turns and any("never finished, or cut" in line for line in told)
    run(back, "What else?")
    archive.save(back)
    before = picture(back)
    archive.log.close()
    again, archive, told = taken_up(prism, tmp_path / "b")
    assert told == [] and same(before, again) and (tmp_path / "a").read_bytes() == damaged
    archive.log.close()


def test_a_fork_on_a_budget_leaves_what_it_shares(prism, tmp_path: Path, monkeypatch) -> None:
    """Written anew, it needs its base no more; the other side is as it was."""
    kept(prism, tmp_path / "a", warm_mb=0)
    first, archive, _ = taken_up(prism, tmp_path / "a", warm_mb=0)
    before = picture(first)
    archive.log.close()
    fork(tmp_path / "a", tmp_path / "b")
    session, archive, _ = taken_up(prism, tmp_path / "b", warm_mb=0, cold_mb=0)
    assert session.river.past.store.bare == len(session.river.past.store)
    run(session, QUESTION)
    archive.save(session)
    assert session.river.past.anew == [] and links_of(tmp_path / "b")
    archive._rewrite(session)
    archive.log.close()
    assert not links_of(tmp_path / "b") and (tmp_path / "a").stat().st_nlink == 1
    back, archive, told = taken_up(prism, tmp_path / "b", warm_mb=0, cold_mb=0)
    assert told == [] and back.turns == session.turns
    archive.log.close()
    other, archive, told = taken_up(prism, tmp_path / "a", warm_mb=0)
    assert told == [] and same(before, other)
    archive.log.close()
