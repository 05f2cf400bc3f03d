"""The bench of session files: each store keeps what it reported as durable, even if killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from warpcortex_cli.lab.stores import STORES, damage, kills, opened, payload, speed


@pytest.mark.parametrize("name", STORES)
def test_a_store_keeps_its_records_and_forks(name: str, tmp_path: Path) -> None:
    found = speed(name, tmp_path, turns=3, blocks=2, size=5000)
    assert found["fork_bytes"] > 0 and 0 < found["bytes_beyond"] < 3
    for file in ("session", "fork"):
        with opened(name, tmp_path / file) as store:
            assert store.keys() == [0, 1, 2, 1000, 1001, 1002, 2000, 2001, 2002]
            assert store.read(1001) == payload(1, 1, 5000)


def test_a_log_loses_one_record_to_a_flipped_bit_and_none_to_a_kill(tmp_path: Path) -> None:
    found = damage("log", tmp_path, 8, turns=2, blocks=2, size=4000)
    assert found["unread_most"] <= 1 and found["wrong"] == 0
    killed = kills("log", tmp_path / "killed", 1, blocks=1, size=2000)
    assert killed["lost"] == killed["broken"] == 0 and killed["turns"] > 0
