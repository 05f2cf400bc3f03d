"""An append-only file of records with checksums. Records written before a crash are there after it.

Opening reads only headers, and cuts off an unfinished last record. A payload is checked when it is read. A log can
begin with records of other logs (`bases.py`), which it reads and never writes.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import zlib
from collections.abc import Callable, Container, Iterable
from pathlib import Path

from warpcortex_cli.memory import records as rec
from warpcortex_cli.memory.bases import (
    BASES,
    Base,
    base_path,
    copied,
    forked_bytes,
    open_bases,
    packed_bases,
    remove_links,
)
from warpcortex_cli.memory.records import DamagedError, Record

__all__ = ["WORTH_REWRITING", "DamagedError", "Record", "RecordLog"]

WORTH_REWRITING = 4 << 20  # bytes


class RecordLog:
    """One open file, and its bases. Not thread-safe; one process at a time.

    Attributes:
        records: all records with a whole header, in order.
        cut: bytes at the end that belonged to no whole record and were cut off.
        lost: what is wrong with the bases, in sentences.

    Raises:
        OSError: the file cannot be opened, or another process has it open.
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self.path = path
        if not readonly:
            path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: bytes that a full disk refused must not appear with the next write.
        self._file = path.open("rb", buffering=0) if readonly else _open_locked(path)
        self._bases: list[Base] = []
        try:
            self._find(readonly)
        except BaseException:
            self.close()
            raise

    def _find(self, readonly: bool) -> None:
        size = rec.size_of(self._file)
        own, self._end = rec.scan(self._file, size)
        self.cut = size - self._end
        if not own and self.cut >= rec.HEADER_BYTES and not rec.begins_a_record(self._file):
            # It is not a log, so nothing may be cut off.
            raise OSError(errno.EINVAL, "nothing in this file is a record; move it away")
        self._bases, self.lost = open_bases(self.path, self._file, own)
        self.records = [record for part, base in enumerate(self._bases, 1) for record in base.records(part)]
        self.records += [record for record in own if record.kind != BASES]
        if self.cut and not readonly:
            self._cut()

    def append(self, kind: int, key: int, payload: bytes) -> Record:
        """Appends a record. It survives a crash only after `commit`.

        Raises:
            OSError: the disk is full, or gone. Nothing of the record remains then.
        """
        record = self._write(kind, key, payload, zlib.crc32(payload))
        self.records.append(record)
        return record

    def _write(self, kind: int, key: int, payload: bytes, checksum: int) -> Record:
        left = memoryview(rec.packed(kind, key, payload, checksum))
        try:
            self._file.seek(self._end)
            while left:
                left = left[self._file.write(left) or 0 :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise
        record = Record(kind, key, self._end + rec.HEADER_BYTES, len(payload), checksum)
        self._end = record.end
        return record

    def commit(self) -> None:
        """Syncs everything appended so far to disk, which costs one wait for many records."""
        os.fsync(self._file.fileno())

    def read(self, record: Record) -> bytes:
        """The payload.

        Raises:
            DamagedError: its checksum is wrong.
        """
        name = (base_path(self.path, record.part) if record.part else self.path).name
        return rec.checked(self._part(record), record, name)

    def _part(self, record: Record) -> io.FileIO:
        file = self._bases[record.part - 1].file if record.part else self._file
        assert file is not None  # it has records
        return file

    # -- cutting and writing anew -------------------------------------------------------------------------------

    def forget_from(self, count: int) -> None:
        """Drops what stands behind the first `count` records.

        Raises:
            OSError: it could not be written.
        """
        if count >= len(self.records):
            return
        first = self.records[count]
        if first.part:  # bases are never written; from now on fewer of their bytes are read
            last = self._bases[first.part - 1]
            bases = [*self._bases[: first.part - 1], Base(last.path, first.start, last.file)]
            self._replace(lambda fresh: fresh._begin_with(bases), bases)
        else:
            self._end = first.start
            self._cut()
        del self.records[count:]

    def _cut(self) -> None:
        """Cuts the file at `_end`. If forks read beyond that, their file stays and this log goes on with a copy."""
        if self._end >= forked_bytes(self.path, self._file):
            self._file.truncate(self._end)
            return
        temporary = self._temporary()
        own = copied(self._file, self._end, temporary)
        _lock(own)
        temporary.replace(self.path)
        self._file.close()
        self._file = own

    def worth_rewriting(self, dead: int) -> bool:
        """Whether a rewrite pays off if this many of its bytes are dead.

        A rewrite does not free bytes that another log shares.
        """
        live = self.total - dead
        alone = sum(base.disk_bytes for base in self._bases if not base.shared)
        return self.nbytes + alone - live >= max(WORTH_REWRITING, live)

    def rewrite(self, kept: Iterable[tuple[int, int, bytes]]) -> None:
        """Replaces the file, and its bases, by these records: all or nothing.

        Raises:
            OSError: it could not be written; everything is what it was.
        """

        def fill(fresh: RecordLog) -> None:
            for kind, key, payload in kept:
                fresh.append(kind, key, payload)

        self.records = self._replace(fill)

    def thin(self, emptied: Container[Record]) -> None:
        """Replaces the file and its bases by the same records, `emptied` ones without payload: all or nothing.

        Damaged records stay damaged.

        Raises:
            OSError: it could not be written; everything is what it was.
        """

        def fill(fresh: RecordLog) -> None:
            for record in self.records:
                if record in emptied:
                    fresh.append(record.kind, record.key, b"")
                else:
                    payload = rec.payload_of(self._part(record), record)
                    fresh.records.append(fresh._write(record.kind, record.key, payload, record.checksum))

        self.records = self._replace(fill)

    def _replace(self, fill: Callable[[RecordLog], None], bases: Iterable[Base] = ()) -> list[Record]:
        """Replaces this file by a new one and returns the new records."""
        temporary = self._temporary()
        fresh = RecordLog(temporary)
        try:
            fill(fresh)
            fresh.commit()
            temporary.replace(self.path)
        except BaseException:
            fresh.close()
            temporary.unlink(missing_ok=True)
            raise
        self._file.close()
        self._file, self._end = fresh._file, fresh._end
        was, self._bases = self._bases, list(bases)
        for base in was[len(self._bases) :]:
            base.close()
        if was:
            remove_links(self.path, beyond=len(self._bases))
        return fresh.records

    def _temporary(self) -> Path:
        path = self.path.with_suffix(".tmp")
        path.unlink(missing_ok=True)
        return path

    # -- sharing ------------------------------------------------------------------------------------------------

    def begin_with(self, other: RecordLog, count: int) -> None:
        """Makes this log, which is empty, begin with the first `count` records of another, without copying them.

        The other log must not drop these records later, unless one turns out to be damaged.

        Raises:
            OSError: it could not be written. This log is empty then.
        """
        last = other.records[count - 1]
        whole = [*other._bases, Base(other.path, other._end, other._file)]
        number = last.part or len(whole)
        parts = [*whole[: number - 1], Base(whole[number - 1].path, last.end, whole[number - 1].file)]
        remove_links(self.path)
        try:
            for part, base in enumerate(parts, 1):
                base.share(base_path(self.path, part))
            self._begin_with(parts)
            self.commit()
        except BaseException:
            self._file.truncate(0)
            self._end = 0
            remove_links(self.path)
            raise
        self._find(readonly=False)

    def _begin_with(self, bases: list[Base]) -> None:
        payload = packed_bases(bases)
        for _ in range(2):  # twice, because nothing could replace this record
            self._write(BASES, 0, payload, zlib.crc32(payload))

    @property
    def nbytes(self) -> int:
        """Bytes of its own file."""
        return self._end

    @property
    def total(self) -> int:
        """Bytes of its own file, and those that it reads of its bases."""
        return self._end + sum(base.nbytes for base in self._bases)

    def disk_bytes(self) -> tuple[int, int]:
        """Bytes on disk that this log alone holds, and bytes that it shares."""
        forked = forked_bytes(self.path, self._file)
        alone = rec.size_of(self._file) - forked + sum(base.disk_bytes for base in self._bases if not base.shared)
        return alone, forked + sum(base.nbytes for base in self._bases if base.shared)

    def close(self) -> None:
        self._file.close()
        for base in self._bases:
            base.close()

    def __enter__(self) -> RecordLog:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


def _open_locked(path: Path) -> io.FileIO:
    """Opens or creates a file and locks it for this process until it is closed or the process ends.

    Raises:
        BlockingIOError: another process has it.
    """
    while True:
        file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
        try:
            _lock(file)
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        except FileNotFoundError:  # deleted meanwhile, as by another process's rewrite
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file: io.FileIO) -> None:
    try:
        import fcntl
    except ImportError:  # Windows, where two chats can open one session
        return
    fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
