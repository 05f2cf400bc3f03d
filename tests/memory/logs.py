"""What the tests of logs share."""

from __future__ import annotations

from warpcortex_cli.memory.log import DamagedError, RecordLog

Entry = tuple[int, int, bytes]


def entries_of(log: RecordLog) -> list[Entry | None]:
    """Its records as they are read; None for one that is damaged."""
    out: list[Entry | None] = []
    for record in log.records:
        try:
            out.append((record.kind, record.key, log.read(record)))
        except DamagedError:
            out.append(None)
    return out
