"""The effect of fewer bits: none against itself, small but real on pocket."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from warpcortex_cli.cli.evaluate import app
from warpcortex_cli.errors import UsageError
from warpcortex_cli.eval import quantized
from warpcortex_cli.eval.quantized import conversations, run, windows
from warpcortex_cli.prism import native
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model

POCKET = resolve_model("pocket", "auto")


def test_int8_changes_little_and_fp32_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Prism.load
    monkeypatch.setattr(
        Prism, "load", lambda source, device, *_, quantize="none": load(source, device, "fp32", quantize=quantize)
    )
    (tokens, exact), (_, none), (_, int8) = run(POCKET, conversations(3, 1), ["none", "int8"])
    assert tokens > 100 and exact.perplexity > 1 and exact.bytes == none.bytes > int8.bytes
    assert none.greedy_agreement == 1 and abs(none.kl) < 1e-6 and none.perplexity == exact.perplexity
    assert 0 < int8.kl < 0.01 and 0.97 < int8.greedy_agreement <= 1


@pytest.mark.skipif(not native.usable(), reason="there is no C++ compiler")
def test_all_formats_are_told(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(conversations(2, 4)))
    done = CliRunner().invoke(app, ["quantized", "--text", str(text), "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert set(found) == {"schema_version", "model", "tokens", "results"} and found["schema_version"] == 1
    results = {r.pop("format"): r for r in found["results"]}
    assert list(results) == ["fp32", "bf16", "int8", "int4"]
    assert all(set(r) == {"bytes", "perplexity", "greedy_agreement", "kl"} for r in results.values())
    assert results["fp32"]["kl"] == 0 and results["fp32"]["greedy_agreement"] == 1
    assert 0 < results["int8"]["kl"] < results["int4"]["kl"] < 0.1
    assert [r["bytes"] for r in results.values()] == sorted((r["bytes"] for r in results.values()), reverse=True)


def test_a_text_is_read_in_windows_of_which_the_second_half_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    prism = Prism.load(POCKET, "cpu")
    text = conversations(1, 4)[0]
    ids = prism.encode(text)
    monkeypatch.setattr(quantized, "WINDOW", 40)
    some = windows(prism, text)
    assert len(some) == len(ids) // 40 and all(len(w.ids) == 40 and w.first == 20 for w in some)
    begins = prism.tokenizer.bos_token_id if prism.tokenizer("a").input_ids[0] == prism.tokenizer.bos_token_id else None
    plain = ids[1:] if begins is not None else ids
    assert some[1].ids == [begins or plain[40], *plain[41:80]]
    short = windows(prism, text[:30])
    assert len(short) == 1 and short[0].first == len(short[0].ids) // 2


def test_kl_is_from_fp32_to_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    def scores_of(prism: Prism, ids: list[int]) -> torch.Tensor:
        sharp = torch.zeros(len(ids), prism.vocab_size)
        sharp[:, 0] = 5.0 if prism.quantize == "none" else 0.0
        return torch.log_softmax(sharp, 1)

    monkeypatch.setattr(quantized, "scores_of", scores_of)
    _, (_, flat) = run(POCKET, conversations(1, 1), ["int8"])
    prism = Prism.load(POCKET, "cpu")
    exact, even = scores_of(prism, [0])[0], math.log(prism.vocab_size)
    assert flat.kl == pytest.approx(float((exact.exp() * (exact + even)).sum()), rel=1e-4)


def test_too_little_text_is_refused() -> None:
    with pytest.raises(UsageError, match="too short"):
        list(run(POCKET, ["a few words"], []))
    with pytest.raises(UsageError, match="there is no format"):
        CliRunner().invoke(app, ["quantized", "--formats", "int5"], catch_exceptions=False, standalone_mode=False)
