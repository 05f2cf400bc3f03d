"""What logs share after a fork. The first bytes of a file never change, so a fork reads them from the same file.

A base is the fork's own hard link to that file: `NAME.base1`, `NAME.base2`, ... in order. The first record of NAME's
own file says how many bytes of each are read. The file system counts the links, so either log can be deleted without
harm to the other. Without hard links, a base is a copy of those bytes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from warpcortex_cli.memory.records import DamagedError, Record, checked, scan, size_of

BASES = 0xFFFF  # kind of the record that says how many bytes of each base are read
_FIRST_BYTES = 1 << 16  # of a file, which hold that record


@dataclass(frozen=True)
class Base:
    """The first `nbytes` of an open file; `file` is None if it is missing."""

    path: Path
    nbytes: int
    file: FileIO | None

    def records(self, part: int) -> list[Record]:
        if self.file is None:
            return []
        found, _ = scan(self.file, min(self.nbytes, self.disk_bytes), part)
        return [record for record in found if record.kind != BASES]

    @property
    def shared(self) -> bool:
        """Whether another log has a link to it."""
        return self.file is not None and os.fstat(self.file.fileno()).st_nlink > 1

    @property
    def disk_bytes(self) -> int:
        """Bytes of the whole file, including what is not read."""
        return 0 if self.file is None else size_of(self.file)

    @property
    def trouble(self) -> str:
        """What is wrong with it, for the user; empty if nothing."""
        if self.file is None:
            return f"{self.path.name} is missing, and what it held of the conversation is lost"
        if self.disk_bytes < self.nbytes:
            return f"{self.path.name} is cut, and what it held of the conversation is lost"
        return ""

    def share(self, to: Path) -> None:
        """Makes `to` a link to it, or a copy of the bytes that are read of it.

        Raises:
            OSError: neither can be made.
        """
        if self.file is None:
            raise FileNotFoundError(errno.ENOENT, f"{self.path.name} is missing")
        with contextlib.suppress(OSError):
            os.link(self.path, to)
            if os.path.samestat(os.fstat(self.file.fileno()), to.lstat()):
                return
            to.unlink()  # the file has been rewritten meanwhile
        copied(self.file, self.nbytes, to).close()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def copied(file: FileIO, size: int, to: Path) -> FileIO:
    """A new open file with the first `size` bytes of this one, synced, readable by its owner alone.

    Raises:
        OSError: it cannot be made.
    """
    out = FileIO(os.open(to, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+")
    try:
        file.seek(0)
        while size and (found := file.read(min(size, 1 << 20))):
            size -= len(found)
            left = memoryview(found)
            while left:
                left = left[out.write(left) :]
        os.fsync(out.fileno())
    except BaseException:
        out.close()
        to.unlink(missing_ok=True)
        raise
    return out


def base_path(path: Path, number: int) -> Path:
    """The path of base number 1, 2, ... of the log at `path`."""
    return path.with_suffix(f".base{number}")


def links_of(path: Path) -> list[Path]:
    """All links of the log at `path`, including those left by a killed process."""
    name = re.compile(rf"{re.escape(path.stem)}\.base\d+")
    return [found for found in path.parent.glob("*.base*") if name.fullmatch(found.name)]


def remove_links(path: Path, beyond: int = 0) -> None:
    """Removes the links of the log at `path` except the first ones."""
    kept = {base_path(path, number) for number in range(1, beyond + 1)}
    for link in links_of(path):
        if link not in kept:
            with contextlib.suppress(OSError):  # Windows does not delete open files
                link.unlink()


def packed_bases(bases: list[Base]) -> bytes:
    """The payload of the record that says how many bytes of each base are read."""
    return json.dumps({"bytes": [base.nbytes for base in bases]}).encode()


def open_bases(path: Path, file: FileIO, records: list[Record]) -> tuple[list[Base], list[str]]:
    """The bases of the log at `path`, from the records of its own file, and what is wrong with them, in sentences."""
    if not any(record.kind == BASES for record in records):
        return [], []
    sizes = _sizes(file, records)
    if not sizes:
        return [], [f"the record of what {path.name} shares with other sessions is damaged, and what it shares is lost"]
    bases = [_opened(base_path(path, number), size) for number, size in enumerate(sizes, 1)]
    return bases, [base.trouble for base in bases if base.trouble]


def _sizes(file: FileIO, records: list[Record]) -> list[int]:
    """Bytes of each base; empty if no record says."""
    for record in records:
        if record.kind == BASES:
            with contextlib.suppress(DamagedError, ValueError, KeyError, TypeError):
                return [int(size) for size in json.loads(checked(file, record, ""))["bytes"]]
    return []


def _opened(path: Path, size: int) -> Base:
    try:
        return Base(path, size, path.open("rb", buffering=0))
    except OSError:
        return Base(path, size, None)


def forked_bytes(path: Path, file: FileIO) -> int:
    """How many first bytes of a log's own file are read by its forks and must not change."""
    stat, most = os.fstat(file.fileno()), 0
    for link in path.parent.glob("*.base*") if stat.st_nlink > 1 else ():
        name = re.fullmatch(r"(.+)\.base(\d+)", link.name)
        with contextlib.suppress(OSError, IndexError):
            if name and os.path.samestat(stat, link.stat()):
                with path.with_name(name[1] + path.suffix).open("rb", buffering=0) as fork:
                    first, _ = scan(fork, min(size_of(fork), _FIRST_BYTES))
                    most = max(most, _sizes(fork, first)[int(name[2]) - 1])
    return most
