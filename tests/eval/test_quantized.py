"""The effect of fewer bits: none against itself, small but real on pocket."""

from __future__ import annotations

import json
import sys

import pytest

from warpcortex_cli.eval.quantized import effect, main, texts
from warpcortex_cli.prism import native
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model


def test_int8_changes_little_and_nothing_changes_nothing() -> None:
    source = resolve_model("pocket", "auto")
    plain = Prism.load(source, "cpu")
    samples = texts(3, 1)
    nothing = effect(plain, plain, samples)
    assert nothing.greedy_agreement == 1 and abs(nothing.kl) < 1e-6
    assert nothing.perplexity == nothing.perplexity_quantized
    int8 = effect(plain, Prism.load(source, "cpu", quantize="int8"), samples)
    assert int8.tokens == nothing.tokens and int8.perplexity == nothing.perplexity
    assert 0 < int8.kl < 0.2 and 0.9 < int8.greedy_agreement <= 1


@pytest.mark.skipif(not native.usable(), reason="there is no C++ compiler")
def test_all_kinds_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["quantized", "--n", "2", "--json"])
    main()
    kinds = json.loads(capsys.readouterr().out)["kinds"]
    assert list(kinds) == ["bf16", "int8", "int4"]
    assert 0 < kinds["bf16"]["kl"] < kinds["int8"]["kl"] < kinds["int4"]["kl"]
