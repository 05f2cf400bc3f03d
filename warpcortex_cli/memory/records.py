"""Records with checksums, one after another in a file.

A record is a header (magic, kind, key, length and CRC-32 of the payload, CRC-32 of the header) and the payload. Looking
for records reads only headers.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from io import FileIO

_MAGIC = b"wcx1"
_HEADER = struct.Struct("<4sHQQII")  # magic, kind, key, length, CRC of the payload, CRC of the header before this
_LARGEST = 1 << 34
HEADER_BYTES = _HEADER.size


class DamagedError(ValueError):
    """A record's bytes are not those that were written."""


@dataclass(frozen=True)
class Record:
    """Where a payload of `length` bytes begins in its file, and its checksum.

    `part`: 0 is the log's own file, 1, 2, ... its bases.
    """

    kind: int
    key: int
    offset: int
    length: int
    checksum: int
    part: int = 0

    @property
    def start(self) -> int:
        """Where its header begins."""
        return self.offset - HEADER_BYTES

    @property
    def end(self) -> int:
        return self.offset + self.length


def packed(kind: int, key: int, payload: bytes, checksum: int) -> bytes:
    """A record as it is written. `checksum`: CRC-32 that the payload is to have."""
    head = _HEADER.pack(_MAGIC, kind, key, len(payload), checksum, 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head)) + payload


def scan(file: FileIO, size: int, part: int = 0) -> tuple[list[Record], int]:
    """The whole records in the first `size` bytes, by their headers, and where the last one ends."""
    records: list[Record] = []
    place = 0
    while place + HEADER_BYTES <= size:
        file.seek(place)
        header = file.read(HEADER_BYTES)
        magic, kind, key, length, checksum, own = _HEADER.unpack(header)
        if magic != _MAGIC or own != zlib.crc32(header[:-4]):
            following = _next_header(file, place + 1, size)
            if following is None:
                break
            place = following  # what lies between is lost, but not what follows
            continue
        record = Record(kind, key, place + HEADER_BYTES, length, checksum, part)
        if length > _LARGEST or record.end > size:
            break
        records.append(record)
        place = record.end
    return records, place


def _next_header(file: FileIO, place: int, size: int) -> int | None:
    """Where the next good header begins, after a damaged one."""
    step = 1 << 20
    while place < size:
        file.seek(place)
        part = file.read(step + HEADER_BYTES)
        found = part.find(_MAGIC)
        while found >= 0:
            header = part[found : found + HEADER_BYTES]
            if len(header) == HEADER_BYTES and _HEADER.unpack(header)[-1] == zlib.crc32(header[:-4]):
                return place + found
            found = part.find(_MAGIC, found + 1)
        place += step
    return None


def payload_of(file: FileIO, record: Record) -> bytes:
    """The payload's bytes, unchecked."""
    file.seek(record.offset)
    return file.read(record.length)


def checked(file: FileIO, record: Record, name: str) -> bytes:
    """The payload. `name`: of the file, for the user.

    Raises:
        DamagedError: its checksum is wrong.
    """
    payload = payload_of(file, record)
    if len(payload) != record.length or zlib.crc32(payload) != record.checksum:
        raise DamagedError(f"the record at byte {record.offset:,} of {name} is damaged")
    return payload


def begins_a_record(file: FileIO) -> bool:
    """Whether the file begins with a record; one byte of the magic may be damaged."""
    file.seek(0)
    return sum(a == b for a, b in zip(file.read(len(_MAGIC)), _MAGIC, strict=False)) >= len(_MAGIC) - 1


def size_of(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size
