"""Seconds and memory of programs in turn."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from warpcortex_cli.errors import RunError
from warpcortex_cli.lab.startup import TORCH, TRANSFORMERS, Run, asking, run, table


def test_a_program_is_measured() -> None:
    found = run([sys.executable, "-c", "bytearray(1 << 26)"])
    assert found.cpu > 0 and found.seconds > 0 and found.peak > 1 << 26


def test_a_program_that_fails_is_named_with_its_last_words() -> None:
    with pytest.raises(RunError, match=r"raise SystemExit\('no'\): exit code 1: no"):
        run([sys.executable, "-c", "raise SystemExit('no')"])


def test_a_table_compares_models_with_the_import(tmp_path: Path) -> None:
    runs = {TORCH: [Run(1, 1, 1 << 20)], TRANSFORMERS: [Run(4, 4, 3 << 20)], "tiny": [Run(2.5, 5, 7 << 20)]}
    said = table(runs, {"tiny": 2 << 20})
    assert "| tiny | 2.50 | -1.50 | 5.00 | 7 | 2.00 of 2 MiB |" in said
    assert "tiny" in asking("tiny", tmp_path) and "--notes" in asking("pocket", tmp_path)
