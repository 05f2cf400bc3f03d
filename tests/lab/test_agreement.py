"""Our scorers against kvpress's, if it is installed; it needs its own environment."""

from __future__ import annotations

import sys

import pytest
import torch

from warpcortex_cli.lab import agreement


def test_without_kvpress_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kvpress", None)
    monkeypatch.setattr(sys, "argv", ["agreement"])
    with pytest.raises(SystemExit) as left:
        agreement.main()
    assert left.value.code == 2 and "kvpress is not installed" in capsys.readouterr().err


def test_what_both_choose_is_counted_among_free_tokens() -> None:
    ours, theirs = torch.tensor([[9.0, 1, 2, 3, 4]]), torch.tensor([[0.0, 1, 5, 3, 4]])
    free = torch.arange(1, 5)
    assert agreement.common(ours, ours + 1, free, 2) == 1.0
    assert agreement.common(ours, theirs, free, 2) == 0.5


def test_both_choose_the_same() -> None:
    kvpress = pytest.importorskip("kvpress")
    found = agreement.compare(kvpress, 5)
    assert all(share == 1 for name in ("knorm", "keydiff", "tova", "expected") for share in found[name].values())
    assert min(found["snapkv"].values()) > 0.95
