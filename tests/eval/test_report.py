"""`eval all`: one folder with what the single commands print, in three forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warpcortex_cli.cli import evaluate
from warpcortex_cli.cli.app import main
from warpcortex_cli.eval.report import Grid


def test_the_report_holds_all_three_evaluations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in evaluate.QUICK_CASES:
        monkeypatch.setitem(evaluate.QUICK_CASES, name, 2)
    monkeypatch.setitem(evaluate.NOTES, "thoughts", 5)
    monkeypatch.setattr(evaluate, "QUICK_CONTEXTS", [256])
    monkeypatch.setattr(evaluate, "QUICK_BUDGETS", [32])
    with pytest.raises(SystemExit) as left:
        main(["eval", "all", "--quick", "-m", "pocket", "--out", str(tmp_path / "out")])
    assert not left.value.code
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {r["method"] for r in document["synapse"]["results"]} >= {"ours", "full", "random"}
    assert document["gate"]["n"] > 0 and len(document["thoughts"]["conditions"]) == 8
    text = (tmp_path / "out" / "report.md").read_text()
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("context of 256 tokens", "calibrated", "oracle", "irrelevant thoughts beside the right one"):
        assert words in text and words in printed
    assert "`warpcortex eval all --quick --seed 2026 -m pocket`" in text
    assert "Seeds: synapse 2026, gate 2027, thoughts 2028." in text and "tuned with 5, 6, 77 and 78" in text
    assert (tmp_path / "out" / "accuracy.svg").read_text().lstrip().startswith("<?xml")


def test_a_grid_in_markdown_has_a_row_for_each_of_its_rows() -> None:
    lines = Grid("what", ("a", "b"), (("1", "2"), ("3", "4"))).markdown().splitlines()
    assert lines == ["what:", "", "| a | b |", "|---|---|", "| 1 | 2 |", "| 3 | 4 |"]
