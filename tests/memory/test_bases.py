"""Logs that share their beginning: whatever is done to one of them, the others are what they were."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.memory.logs import Entry, entries_of
from warpcortex_cli.memory import bases
from warpcortex_cli.memory.bases import links_of
from warpcortex_cli.memory.log import RecordLog

BIG = b"k" * 50_000


def write(path: Path, *entries: Entry) -> None:
    with RecordLog(path) as log:
        for entry in entries:
            log.append(*entry)
        log.commit()


def read(path: Path) -> list[Entry | None]:
    with RecordLog(path, readonly=True) as log:
        return entries_of(log)


def fork(path: Path, new: Path, count: int | None = None) -> None:
    with RecordLog(path, readonly=True) as log, RecordLog(new) as other:
        other.begin_with(log, len(log.records) if count is None else count)


def no_links(*args: object, **kwargs: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


ACTIONS = st.tuples(
    st.sampled_from(["append"] * 4 + ["fork"] * 3 + ["forget", "rewrite", "thin", "delete", "crash"]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 6),
)


@pytest.mark.parametrize("linking", [True, False])
@settings(max_examples=100, deadline=None)
@given(actions=st.lists(ACTIONS, min_size=5, max_size=40))
def test_what_is_done_to_one_changes_no_other(linking: bool, actions: list[tuple[str, int, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if not linking:
            patch.setattr(os, "link", no_links)
        paths = [Path(folder) / f"{name}.log" for name in "abcd"]
        held: dict[Path, list[Entry]] = {}
        for number, (action, one, two, count) in enumerate(actions):
            path, other = paths[one], paths[two]
            now = held.get(path, [])
            if action == "append":
                write(path, (1, number, bytes([number]) * count), (2, number, b""))
                held[path] = [*now, (1, number, bytes([number]) * count), (2, number, b"")]
            elif action == "fork" and now and other not in held:
                upto = max(1, min(count, len(now)))
                fork(path, other, upto)
                held[other] = now[:upto]
            elif action == "forget" and now:
                with RecordLog(path) as log:
                    log.forget_from(count)
                held[path] = now[:count]
            elif action == "rewrite" and now:
                held[path] = now[count % 2 :: 2]
                with RecordLog(path) as log:
                    log.rewrite(held[path])
                assert not links_of(path)
            elif action == "thin" and now:
                with RecordLog(path) as log:
                    log.thin({r for r in log.records if r.key % 2})
                held[path] = [(k, n, b"" if n % 2 else payload) for k, n, payload in now]
                assert not links_of(path)
            elif action == "delete" and now:
                for file in (path, *links_of(path)):
                    file.unlink()
                del held[path]
            elif action == "crash" and now:  # in the middle of a record
                with path.open("ab") as file:
                    file.write(b"wcx1" + bytes(count))
            assert {p: read(p) for p in held} == held
            with_links = [p for p in Path(folder).iterdir() if p.suffix != ".log"]
            assert all(p.suffix.startswith(".base") and p.with_suffix(".log") in held for p in with_links)


def test_a_fork_costs_few_bytes(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    write(a, (1, 0, BIG))
    fork(a, b)
    assert b.stat().st_size < 300 and (tmp_path / "b.base1").samefile(a)
    write(b, (1, 1, BIG))
    fork(b, c)
    assert c.stat().st_size < 300 and (tmp_path / "c.base2").samefile(b) and (tmp_path / "c.base1").samefile(a)
    with RecordLog(a, readonly=True) as log:
        assert log.disk_bytes() == (0, a.stat().st_size)
    with RecordLog(b, readonly=True) as log:
        assert log.disk_bytes() == (0, a.stat().st_size + b.stat().st_size) and log.total > 2 * len(BIG)
    write(a, (1, 2, BIG))  # is no business of its forks
    with RecordLog(c, readonly=True) as log:
        assert log.disk_bytes()[0] == c.stat().st_size and 2 * len(BIG) < log.disk_bytes()[1] < 2.1 * len(BIG)
    for path in (a, b, tmp_path / "b.base1"):
        path.unlink()
    with RecordLog(c, readonly=True) as log:
        assert log.disk_bytes()[1] == 0 and log.disk_bytes()[0] > 3 * len(BIG)  # all of it is c's now
    assert read(c) == [(1, 0, BIG), (1, 1, BIG)]


def test_rewriting_a_fork_pays_only_where_it_gives_bytes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warpcortex_cli.memory.log.WORTH_REWRITING", 1000)
    a, b = tmp_path / "a", tmp_path / "b"
    write(a, (1, 0, BIG))
    fork(a, b)
    with RecordLog(b) as log:
        assert not log.worth_rewriting(len(BIG))  # a holds these bytes too
    a.unlink()
    with RecordLog(b) as log:
        assert log.worth_rewriting(len(BIG)) and not log.worth_rewriting(100)
        log.rewrite([(1, 0, b"")])
        assert not links_of(b) and log.nbytes < 100


def test_what_forks_read_is_never_cut(tmp_path: Path) -> None:
    """Where damage makes a log end earlier than its forks know it, it goes on with a copy of its own."""
    a, b = tmp_path / "a", tmp_path / "b"
    write(a, (1, 0, b"one"), (1, 1, b"two"), (1, 2, b"three"))
    fork(a, b)
    data = bytearray(a.read_bytes())
    with RecordLog(a, readonly=True) as log:
        data[log.records[2].start + 6] ^= 1
    with a.open("r+b") as file:
        file.write(data)
    size = a.stat().st_size
    with RecordLog(a) as log:
        assert len(log.records) == 2 and log.cut
        log.append(1, 9, b"on its own")
    assert not (tmp_path / "b.base1").samefile(a) and (tmp_path / "b.base1").stat().st_size == size
    write(b, (1, 3, b"four"))
    assert read(b) == [(1, 0, b"one"), (1, 1, b"two"), (1, 3, b"four")]
    assert read(a) == [(1, 0, b"one"), (1, 1, b"two"), (1, 9, b"on its own")]


def test_a_base_that_is_written_anew_while_it_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, link = tmp_path / "a", tmp_path / "b", os.link
    write(a, (1, 0, b"one"), (1, 1, b"two"))

    def late(source: Path, to: Path) -> None:
        with RecordLog(a) as log:
            log.rewrite([(5, 5, b"something else")])
        link(source, to)

    monkeypatch.setattr(os, "link", late)
    fork(a, b)
    assert read(b) == [(1, 0, b"one"), (1, 1, b"two")] and read(a) == [(5, 5, b"something else")]


def test_a_base_that_is_gone_or_unknown_is_said(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    write(a, (1, 0, b"one"))
    for path in (b, c):
        fork(a, path)
        write(path, (1, 1, b"two"))
    (tmp_path / "b.base1").unlink()
    with RecordLog(b) as log:
        assert log.lost == ["b.base1 is missing, and what it held of the conversation is lost"]
        assert [log.read(r) for r in log.records] == [b"two"]
    with pytest.raises(OSError, match="base1 is missing"):
        fork(b, tmp_path / "d")
    data = bytearray(c.read_bytes())
    first = data.index(b'{"bytes"')
    data[first + 2] ^= 1
    c.write_bytes(data)
    assert read(c) == [(1, 0, b"one"), (1, 1, b"two")]  # it was written twice
    data[data.index(b'{"bytes"') + 2] ^= 1
    c.write_bytes(data)
    with RecordLog(c) as log:
        [lost] = log.lost
        assert "damaged" in lost and [log.read(r) for r in log.records] == [b"two"]


def test_a_full_disk_leaves_no_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    write(a, (1, 0, b"one"))

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for owner, name in ((bases, "copied"), (RecordLog, "_write")):
        with monkeypatch.context() as patch:
            if owner is bases:
                patch.setattr(os, "link", no_links)
            patch.setattr(owner, name, full)
            with pytest.raises(OSError, match="No space"):
                fork(a, b)
        assert b.stat().st_size == 0 and not links_of(b)
    fork(a, b)
    assert read(b) == read(a)
