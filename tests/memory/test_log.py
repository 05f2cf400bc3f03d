"""The record log against a list: whatever is cut off or damaged, the other records are read as they were written."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.memory.logs import Entry, entries_of
from warpcortex_cli.memory.log import RecordLog

written = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2**60), st.binary(max_size=200)), min_size=1, max_size=8)


def write(path: Path, records: list[Entry]) -> list[int]:
    """Writes them; where each ends in the file."""
    ends = []
    with RecordLog(path) as log:
        for entry in records:
            log.append(*entry)
            ends.append(log.nbytes)
        log.commit()
    return ends


def read(path: Path) -> list[Entry | None]:
    with RecordLog(path) as log:
        return entries_of(log)


@settings(max_examples=60, deadline=None)
@given(records=written, data=st.data())
def test_a_file_cut_anywhere_keeps_every_record_that_was_whole(records: list[Entry], data) -> None:  # type: ignore[no-untyped-def]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        ends = write(path, records)
        cut = data.draw(st.integers(0, ends[-1]))
        path.write_bytes(path.read_bytes()[:cut])
        whole = sum(end <= cut for end in ends)
        assert read(path) == records[:whole]
        write(path, [(7, 8, b"after")])  # and it goes on from there
        assert read(path) == [*records[:whole], (7, 8, b"after")]


@settings(max_examples=60, deadline=None)
@given(records=written, data=st.data())
def test_a_damaged_byte_costs_one_record(records: list[Entry], data) -> None:  # type: ignore[no-untyped-def]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        ends = write(path, records)
        place = data.draw(st.integers(0, ends[-1] - 1))
        content = bytearray(path.read_bytes())
        content[place] ^= 1 + data.draw(st.integers(0, 254))
        path.write_bytes(content)
        hit = sum(end <= place for end in ends)
        found = [r for r in read(path) if r is not None]
        assert found == records[:hit] + records[hit + 1 :]


def test_rewriting_leaves_what_was_kept_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, [(1, 0, b"a" * 1000), (2, 1, b"b"), (1, 2, b"c")])
    with RecordLog(path) as log:
        before = log.nbytes
        log.rewrite([(2, 1, b"b"), (1, 2, b"c")])
        assert log.nbytes < before - 1000 and path.stat().st_size == log.nbytes
        log.append(3, 3, b"d")
        log.commit()

        def broken():  # type: ignore[no-untyped-def]
            yield 1, 0, b"x"
            raise OSError("the disk is full")

        with pytest.raises(OSError):
            log.rewrite(broken())
        assert [log.read(r) for r in log.records] == [b"b", b"c", b"d"]
    assert read(path) == [(2, 1, b"b"), (1, 2, b"c"), (3, 3, b"d")] and [p.name for p in tmp_path.iterdir()] == ["log"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with RecordLog(tmp_path / "log"), pytest.raises(BlockingIOError):
        RecordLog(tmp_path / "log")
    with RecordLog(tmp_path / "log") as log, RecordLog(tmp_path / "log", readonly=True) as looking:
        assert not log.records and not looking.records


def test_a_foreign_file_is_left_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"something else that somebody keeps here, longer than a header")
    before = path.read_bytes()
    for readonly in (False, True):
        with pytest.raises(OSError, match="move it away"):
            RecordLog(path, readonly=readonly)
    assert path.read_bytes() == before
