"""The session log against SQLite: `python -m warpcortex_cli.lab.stores`.

Both keep the same records: each turn has some blocks of KV and a line of text, durable at its end. SQLite (WAL, one
table, the record's CRC-32 in its own column) runs with `synchronous=FULL`, the same guarantee, and with `NORMAL`, which
may lose the last turns in a power failure. Measured are

- median ms of a turn, of opening, and of reading a random record;
- bytes on disk beyond the payloads, and ms and bytes of a fork;
- kills: processes are killed (SIGKILL) while writing turns; `lost`: turns reported as durable that are not complete;
- damage: a random bit is flipped in a copy of the file; KV records that become unreadable, on average and at most, and
  those that read wrong. SQLite itself would not notice a flip in a payload: the CRC-32 column is ours.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, Protocol

from warpcortex_cli.memory.log import DamagedError, RecordLog

KV, SAID = 1, 2  # kinds of records


class Store(Protocol):
    """What a session needs of its file."""

    def append(self, kind: int, key: int, payload: bytes) -> None: ...
    def commit(self) -> None: ...
    def keys(self) -> list[int]: ...
    def read(self, key: int) -> bytes:
        """The payload. Raises DamagedError, or the store's own error if it is unreadable."""

    def close(self) -> None: ...


class Log:
    """The product's own log."""

    def __init__(self, path: Path) -> None:
        self._log = RecordLog(path)
        ends = [i for i, record in enumerate(self._log.records, 1) if record.kind == SAID]
        self._log.forget_from(ends[-1] if ends else 0)  # as in `Archive`: drops an incomplete turn
        self._found = {record.key: record for record in self._log.records}

    def append(self, kind: int, key: int, payload: bytes) -> None:
        self._found[key] = self._log.append(kind, key, payload)

    def commit(self) -> None:
        self._log.commit()

    def keys(self) -> list[int]:
        return list(self._found)

    def read(self, key: int) -> bytes:
        return self._log.read(self._found[key])

    def close(self) -> None:
        self._log.close()


class Sqlite:
    """A table of records."""

    def __init__(self, path: Path, synchronous: str = "FULL") -> None:
        self._base = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode=WAL", f"synchronous={synchronous}"):
            self._base.execute(f"PRAGMA {pragma}")
        self._base.execute("CREATE TABLE IF NOT EXISTS r (key INTEGER PRIMARY KEY, kind, crc, payload BLOB)")
        self._open = False

    def append(self, kind: int, key: int, payload: bytes) -> None:
        if not self._open:
            self._base.execute("BEGIN")
            self._open = True
        self._base.execute("INSERT INTO r VALUES (?, ?, ?, ?)", (key, kind, zlib.crc32(payload), payload))

    def commit(self) -> None:
        self._base.execute("COMMIT")
        self._open = False

    def keys(self) -> list[int]:
        return [key for (key,) in self._base.execute("SELECT key FROM r ORDER BY key")]

    def read(self, key: int) -> bytes:
        crc, payload = self._base.execute("SELECT crc, payload FROM r WHERE key = ?", (key,)).fetchone()
        if zlib.crc32(payload) != crc:
            raise DamagedError("its checksum is wrong")
        return bytes(payload)

    def close(self) -> None:
        self._base.close()


STORES: dict[str, Callable[[Path], Store]] = {
    "log": Log,
    "sqlite FULL": Sqlite,
    "sqlite NORMAL": lambda path: Sqlite(path, "NORMAL"),
}


def payload(turn: int, number: int, size: int) -> bytes:
    """A deterministic payload, different for each record."""
    return random.Random(turn * 1000 + number).randbytes(size)


def turn_of(turn: int, blocks: int, size: int) -> list[tuple[int, int, bytes]]:
    """Kind, key and payload of a turn's records."""
    said = json.dumps({"role": "user", "text": f"turn {turn}"}).encode()
    kv = [(KV, turn * 1000 + number, payload(turn, number, size)) for number in range(blocks)]
    return [*kv, (SAID, turn * 1000 + blocks, said)]


def write(store: Store, records: list[tuple[int, int, bytes]]) -> None:
    for record in records:
        store.append(*record)
    store.commit()


@contextmanager
def opened(name: str, path: Path) -> Iterator[Store]:
    with closing(STORES[name](path)) as store:
        yield store


def speed(name: str, folder: Path, turns: int, blocks: int, size: int) -> dict[str, float]:
    path = folder / "session"
    took: dict[str, list[float]] = {"turn": [], "open": [], "read": []}

    def timed(what: str, do: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        found = do()
        took[what].append(1000 * (time.perf_counter() - began))
        return found

    with opened(name, path) as store:
        for turn in range(turns):
            timed("turn", partial(write, store, turn_of(turn, blocks, size)))
    for _ in range(5):
        store = timed("open", lambda: STORES[name](path))
        store.keys()
        store.close()
    with opened(name, path) as store:
        rng = random.Random(1)
        for _ in range(50):
            timed("read", lambda: store.read(rng.randrange(turns) * 1000 + rng.randrange(blocks)))
        # The fork is made while the session is open.
        began = time.perf_counter()
        before = _on_disk(folder)
        _fork(name, store, path, folder / "fork")
        fork = 1000 * (time.perf_counter() - began)
    after, whole = _on_disk(folder), turns * (blocks * size + 30)
    return {
        "turn_ms": median(took["turn"]), "open_ms": median(took["open"]), "read_ms": median(took["read"]),
        "bytes_beyond": before / whole - 1, "fork_ms": fork, "fork_bytes": after - before,
    }  # fmt: skip


def _fork(name: str, store: Store, path: Path, to: Path) -> None:
    if name == "log":
        assert isinstance(store, Log)
        with RecordLog(to) as fork:
            fork.begin_with(store._log, len(store._log.records))
    else:
        with closing(sqlite3.connect(path)) as base, closing(sqlite3.connect(to)) as copy:
            base.backup(copy)


def _on_disk(folder: Path) -> int:
    """Bytes of all files, counting hard links once."""
    found = {p.stat().st_ino: p.stat().st_size for p in folder.iterdir()}
    return sum(found.values())


def kills(name: str, folder: Path, times: int, blocks: int, size: int) -> dict[str, int]:
    """Kills writers, each continuing the last one's store; turns they reported as durable must be there."""
    path, safe, lost, broken, rng = folder / "session", -1, 0, 0, random.Random(2)
    for _ in range(times):
        command = [sys.executable, "-m", __spec__.name, "--write", name, str(path), str(blocks), str(size)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            said = int(child.stdout.readline())  # it has started
            os.set_blocking(child.stdout.fileno(), False)
            time.sleep(rng.uniform(0.0, 0.3))
            child.send_signal(signal.SIGKILL)
            child.wait()
            safe = max([safe, said, *map(int, filter(str.strip, (child.stdout.read() or "").split("\n")[:-1]))])
        with opened(name, path) as store:
            there = set(store.keys())
            for turn in range(safe + 1):
                lost += not all(turn * 1000 + number in there for number in range(blocks + 1))
            broken += sum(
                store.read(key) != payload(key // 1000, key % 1000, size) for key in there if key % 1000 < blocks
            )
    return {"kills": times, "turns": safe + 1, "lost": lost, "broken": broken}


def write_until_killed(name: str, path: Path, blocks: int, size: int) -> None:
    with opened(name, path) as store:
        keys = set(store.keys())
        turn = 1 + max((key // 1000 for key in keys), default=-1)
        while True:
            write(store, turn_of(turn, blocks, size))
            print(turn, flush=True)
            turn += 1


def damage(name: str, folder: Path, flips: int, turns: int, blocks: int, size: int) -> dict[str, float]:
    path, bad = folder / "session", folder / "bad"
    with opened(name, path) as store:
        for turn in range(turns):
            write(store, turn_of(turn, blocks, size))
    keys = [turn * 1000 + number for turn in range(turns) for number in range(blocks)]
    rng, unread, wrong = random.Random(3), [], 0
    for _ in range(flips):
        shutil.copyfile(path, bad)
        with bad.open("r+b") as file:
            place = rng.randrange(path.stat().st_size)
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << rng.randrange(8)]))
        lost = 0
        try:
            with opened(name, bad) as store:
                for key in keys:
                    try:
                        wrong += store.read(key) != payload(key // 1000, key % 1000, size)
                    except (DamagedError, sqlite3.Error, KeyError, TypeError):
                        lost += 1
        except (OSError, sqlite3.Error):
            lost = len(keys)
        unread.append(lost)
        for rest in folder.glob("bad*"):
            rest.unlink()
    return {"flips": flips, "records": len(keys), "unread": fmean(unread), "unread_most": max(unread), "wrong": wrong}


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"store": name}
    for part in ("speed", "kills", "damage"):
        with tempfile.TemporaryDirectory(dir=args.folder) as place:
            folder = Path(place)
            if part == "speed":
                found |= speed(name, folder, args.turns, args.blocks, args.size)
            elif part == "kills":
                found |= kills(name, folder, args.kills, args.blocks, args.size)
            else:
                found |= damage(name, folder, args.flips, 5, args.blocks, args.size // 4)
    return found


def main() -> None:
    if sys.argv[1:2] == ["--write"]:
        write_until_killed(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--blocks", type=int, default=4, help="KV blocks per turn")
    parser.add_argument("--size", type=int, default=374_000, help="bytes of a block: 32 tokens of SmolLM2 in 8 bits")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--flips", type=int, default=40)
    parser.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="a folder on the disk to measure; default: the system's for temporary files",
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = [measure(name, args) for name in STORES]
    if args.json:
        print(json.dumps({"schema_version": 1, "stores": found}))
        return
    print(f"{args.turns} turns of {args.blocks} blocks of {args.size:,} bytes")
    print(f"{'':14} turn ms  open ms  read ms  beyond  fork ms  fork MiB  lost  unread  at most  wrong")
    for s in found:
        print(
            f"{s['store']:14} {s['turn_ms']:7.1f} {s['open_ms']:8.2f} {s['read_ms']:8.2f} {s['bytes_beyond']:7.2%} "
            f"{s['fork_ms']:8.1f} {s['fork_bytes'] / 2**20:9.2f} {s['lost']:5} {s['unread']:7.2f} "
            f"{s['unread_most']:8} {s['wrong']:6}"
        )
    print(f"of {found[0]['kills']} kills, and of {found[0]['flips']} flips over {found[0]['records']} records")


if __name__ == "__main__":
    main()
