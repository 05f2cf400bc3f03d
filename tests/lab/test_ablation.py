"""`python -m warpcortex_cli.lab.ablation`: one thing of the Synapse changed at a time."""

from __future__ import annotations

import json
import sys

import pytest

from warpcortex_cli.lab import ablation


def test_a_context_that_was_too_short_to_grow_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in (["--context", "200"], ["--n", "0"], ["--k", "0"]):
        monkeypatch.setattr(sys, "argv", ["ablation", *wrong])
        with pytest.raises(SystemExit) as left:
            ablation.main()
        assert left.value.code == 2 and "--context from 512 on" in capsys.readouterr().err


def test_the_shortest_context_is_asked_in_every_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ablation", "--context", "512", "--k", "32", "--n", "1", "--json"])
    ablation.main()
    found = json.loads(capsys.readouterr().out)["results"]
    assert [r["method"] for r in found] == ["full", *ablation.VARIANTS]
    assert len({tuple(r["attention_error"]) for r in found}) > len(found) // 2  # each variant chooses otherwise
