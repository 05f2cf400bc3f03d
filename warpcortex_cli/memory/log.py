"""An append-only file of records with checksums: what was written before a crash is there after it.

A record is a header (magic, kind, a key of its own, length and CRC-32 of the payload, CRC-32 of the header) and the
payload. Opening reads headers only and cuts off a last record that was not finished. A payload is checked when it is
read.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import struct
import zlib
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path

_MAGIC = b"wcx1"
_HEADER = struct.Struct("<4sHQQII")  # magic, kind, key, length, CRC of the payload, CRC of the header before this
_LARGEST = 1 << 34
WORTH_REWRITING = 4 << 20  # bytes


class DamagedError(ValueError):
    """A record's bytes are not those that were written."""


@dataclass(frozen=True)
class Record:
    """Where a payload of `length` bytes begins in the file, and what its checksum must be."""

    kind: int
    key: int
    offset: int
    length: int
    checksum: int


class RecordLog:
    """One open file. Not thread-safe; one process at a time.

    Attributes:
        records: those that are whole, by their headers, in order.
        cut: bytes at the end that belonged to no whole record and were cut off.

    Raises:
        OSError: the file cannot be opened, or another process has it open.
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self.path = path
        if not readonly:
            path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: what a full disk did not take must not come back with the next write.
        self._file = path.open("rb", buffering=0) if readonly else _open_locked(path)
        self.records: list[Record] = []
        self._end = self._scan()
        size = self._file.seek(0, os.SEEK_END)
        self.cut = size - self._end
        if not self.records and self.cut >= _HEADER.size and not self._begins_a_record():
            self._file.close()  # nothing in it is ours to cut off
            raise OSError(errno.EINVAL, "nothing in this file is a record; move it away")
        if self.cut and not readonly:
            self._file.truncate(self._end)

    def _begins_a_record(self) -> bool:
        """Whether the first bytes are a record's, but for one that may be damaged."""
        self._file.seek(0)
        return sum(a == b for a, b in zip(self._file.read(len(_MAGIC)), _MAGIC, strict=False)) >= len(_MAGIC) - 1

    def _scan(self) -> int:
        """Reads headers; returns where the last whole record ends."""
        size = self._file.seek(0, os.SEEK_END)
        place = 0
        while place + _HEADER.size <= size:
            self._file.seek(place)
            header = self._file.read(_HEADER.size)
            magic, kind, key, length, checksum, own = _HEADER.unpack(header)
            if magic != _MAGIC or own != zlib.crc32(header[:-4]):
                following = self._next_header(place + 1, size)
                if following is None:
                    break
                place = following  # what lies between is lost, what follows is not
                continue
            start = place + _HEADER.size
            if length > _LARGEST or start + length > size:
                break
            self.records.append(Record(kind, key, start, length, checksum))
            place = start + length
        return place

    def _next_header(self, place: int, size: int) -> int | None:
        """Where the next good header begins, after a damaged one."""
        step = 1 << 20
        while place < size:
            self._file.seek(place)
            part = self._file.read(step + _HEADER.size)
            found = part.find(_MAGIC)
            while found >= 0:
                header = part[found : found + _HEADER.size]
                if len(header) == _HEADER.size and _HEADER.unpack(header)[-1] == zlib.crc32(header[:-4]):
                    return place + found
                found = part.find(_MAGIC, found + 1)
            place += step
        return None

    def append(self, kind: int, key: int, payload: bytes) -> Record:
        """Writes a record behind the others. It is safe only after `commit`.

        Raises:
            OSError: the disk is full, or gone; nothing of the record remains then.
        """
        return self._append(kind, key, payload, zlib.crc32(payload))

    def _append(self, kind: int, key: int, payload: bytes, checksum: int) -> Record:
        head = _HEADER.pack(_MAGIC, kind, key, len(payload), checksum, 0)[:-4]
        left = memoryview(head + struct.pack("<I", zlib.crc32(head)) + payload)
        try:
            self._file.seek(self._end)
            while left:
                left = left[self._file.write(left) or 0 :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise
        record = Record(kind, key, self._end + _HEADER.size, len(payload), checksum)
        self.records.append(record)
        self._end = record.offset + record.length
        return record

    def commit(self) -> None:
        """Returns when everything appended so far is on the disk: one wait for many records."""
        os.fsync(self._file.fileno())

    def read(self, record: Record) -> bytes:
        """The payload.

        Raises:
            DamagedError: its checksum is wrong.
        """
        payload = self._payload(record)
        if len(payload) != record.length or zlib.crc32(payload) != record.checksum:
            raise DamagedError(f"the record at byte {record.offset:,} of {self.path.name} is damaged")
        return payload

    def _payload(self, record: Record) -> bytes:
        self._file.seek(record.offset)
        return self._file.read(record.length)

    def forget_from(self, count: int) -> None:
        """Cuts the file behind its first `count` records."""
        if count < len(self.records):
            self._end = self.records[count].offset - _HEADER.size
            self._file.truncate(self._end)
            del self.records[count:]

    def worth_rewriting(self, dead: int) -> bool:
        """Whether it should be written anew where this many bytes of it are of no use any more."""
        return dead >= max(WORTH_REWRITING, self.nbytes - dead)

    def rewrite(self, kept: Iterable[tuple[int, int, bytes]]) -> None:
        """Replaces the file by these records: all or nothing.

        Raises:
            OSError: it could not be written; the file is what it was.
        """

        def fill(fresh: RecordLog) -> None:
            for kind, key, payload in kept:
                fresh.append(kind, key, payload)

        self._replace(fill)

    def thin(self, emptied: Container[Record]) -> None:
        """Replaces the file by one with the same records, these without their payload: all or nothing.

        What is damaged stays so.

        Raises:
            OSError: it could not be written; the file is what it was.
        """

        def fill(fresh: RecordLog) -> None:
            for record in self.records:
                if record in emptied:
                    fresh.append(record.kind, record.key, b"")
                else:
                    fresh._append(record.kind, record.key, self._payload(record), record.checksum)

        self._replace(fill)

    def _replace(self, fill: Callable[[RecordLog], None]) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
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
        self._file, self.records, self._end = fresh._file, fresh.records, fresh._end

    @property
    def nbytes(self) -> int:
        return self._end

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> RecordLog:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


def _open_locked(path: Path) -> io.FileIO:
    """Opens or makes a file that is this process's alone until it is closed, or the process ends, however it ends.

    Raises:
        BlockingIOError: another process has it.
    """
    while True:
        file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
        try:
            _lock(file)
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        except FileNotFoundError:  # deleted meanwhile, as after a rewrite by another process
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file: io.FileIO) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two chats on one session are not prevented there
        return
    fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
