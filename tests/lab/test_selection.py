"""`lab.selection`: a grown River costs what is new, not what is there."""

from __future__ import annotations

import json
import sys

import pytest

from warpcortex_cli.lab import selection


def test_it_prints_what_was_looked_at(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    args = ["selection", "--shape", "SmolLM2-135M", "--tokens", "3000", "--grow", "50", "--runs", "1"]
    monkeypatch.setattr(sys, "argv", [*args, "--json"])
    selection.main()
    found = json.loads(capsys.readouterr().out)
    assert found["looked_at"] == 2 * 64 + 32 + 50
    assert min(found[name] for name in ("first", "all", "grown", "focus")) > 0  # seconds
    monkeypatch.setattr(sys, "argv", ["selection", "--grow", "0"])
    with pytest.raises(SystemExit) as left:
        selection.main()
    assert left.value.code == 2 and "--grow" in capsys.readouterr().err
