"""The command for a GPU, rehearsed on the CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from warpcortex_cli.bench import gpu


def test_every_part_runs_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--dry-run", "--seconds", "10000", "--out", str(tmp_path / "gpu.json")])
    assert gpu.main() == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["dry_run"] and found["left_out"] == []
    parts = found["parts"]
    assert list(parts) == ["parity", "bandwidth", "graphs", "1 agents", "2 agents"]
    assert parts["parity"]["fp32"]["error"] == 0 and parts["parity"]["bf16"]["agrees"]
    assert parts["bandwidth"]["gigabytes_per_second"] > 0 < parts["graphs"]["launched_seconds"]
    for name, count in (("1 agents", 1), ("2 agents", 2)):
        assert parts[name]["agents"] == count and parts[name]["over_floor"] > 0 and parts[name]["step_bytes"] > 0
    said = capsys.readouterr()
    assert "failed: none; left out: none." in said.out and "parity: some 25 s" in said.err


def test_what_does_not_fit_is_left_out_and_named() -> None:
    found = gpu.measured(gpu.DRY, 5.0, lambda line: None)
    assert "bandwidth" in found["parts"] and "1 agents" not in found["parts"]
    assert [entry["part"] for entry in found["left_out"]] == ["parity", "graphs", "1 agents", "2 agents"]


def test_a_part_that_fails_is_said_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(plan: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

    monkeypatch.setattr(gpu, "bandwidth", broken)
    monkeypatch.setattr(gpu, "graphs", lambda plan: {"launched_seconds": 1.0})
    found = gpu.measured(gpu.DRY, 20.0, lambda line: None)["parts"]
    assert found["bandwidth"]["error"] == "CUDA out of memory." and found["1 agents"]["over_floor"] is None


def test_without_cuda_it_says_what_can_be_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "gpu.json")])
    assert gpu.main() == 3
    assert capsys.readouterr().err.startswith("warpcortex: there is no CUDA device here. Use --dry-run")
    assert not (tmp_path / "gpu.json").exists()
