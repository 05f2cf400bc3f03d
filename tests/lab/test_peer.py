"""The comparison with llama.cpp: every parameter of the shape has one place in its file format."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from warpcortex_cli.bench.shapes import SHAPES
from warpcortex_cli.bench.workload import Load
from warpcortex_cli.lab.peer import Figures, described, gguf_name, mean_kl, our_runs, ratio, table


def test_every_parameter_has_a_name_of_its_own() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPES["Qwen2.5-0.5B"]))
    names = [gguf_name(name) for name, _ in model.named_parameters()]
    assert len(set(names)) == len(names) == 290
    assert {"token_embd.weight", "output_norm.weight", "blk.23.attn_q.bias", "blk.0.ffn_down.weight"} <= set(names)


def test_our_speeds_are_those_of_the_bench_command() -> None:
    load = Load(agents=2, context=64, landmarks=8, tokens=2)
    runs = our_runs(["--random-weights", "SmolLM2-135M"], "int8", load, [1, 2])
    assert [(r.agents, r.context, r.landmarks, r.tokens_per_agent) for r in runs] == [
        (1, 64, 8, 2),
        (2, 64, 8, 2),
    ]
    assert all(r.river_tokens_per_second > 0 < r.stream_tokens_per_second for r in runs)
    assert all(r.prefill_tokens_per_second > 0 for r in runs)


def test_a_format_is_compared_with_those_that_are_as_faithful() -> None:
    kinds = {"F16": (0.0, 10), "Q8_0": (0.003, 20), "Q4_0": (0.2, 40)}
    theirs = {name: Figures((kl,), {"a": speed}) for name, (kl, speed) in kinds.items()}
    assert ratio(Figures((0.001,), {"a": 30}), theirs, "a") == (3.0, "F16")
    assert ratio(Figures((0.003,), {"a": 30}), theirs, "a") == (1.5, "Q8_0")
    assert ratio(Figures((0.3,), {"a": 30}), theirs, "a") == (0.75, "Q4_0")
    assert ratio(Figures(None, {"a": 30}), theirs, "a") == (0.75, "Q4_0")  # nobody knows: the fastest counts
    assert ratio(Figures((0.001,), {}), theirs, "a") is None
    on_two = {"F16": Figures((0.0, 0.0), {"a": 10}), "Q8_0": Figures((0.003, 0.001), {"a": 20})}
    assert ratio(Figures((0.002, 0.002), {"a": 30}), on_two, "a") == (1.5, "Q8_0")  # as faithful on one text is enough
    assert "| to its best | | 3.00 (F16) |" in table({"int8": Figures((0.001,), {"a": 30})}, theirs, ["a"])


def test_kl_is_parsed_from_llama_perplexity() -> None:
    said = "====== KL divergence statistics ======\nMean    KLD:   0.003434 ±   0.000112\nMaximum KLD:   0.5"
    assert mean_kl(said) == 0.003434


def test_the_target_of_a_build_is_shown(tmp_path: Path) -> None:
    (tmp_path / "CMakeCache.txt").write_text("GGML_NATIVE:BOOL=OFF\nGGML_AVX2:BOOL=ON\nGGML_AVX512:BOOL=OFF\n")
    assert described(tmp_path) == f"{tmp_path} (AVX2)"
    assert "unknown target" in described(tmp_path / "elsewhere")
