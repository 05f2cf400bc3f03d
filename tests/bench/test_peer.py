"""The comparison with llama.cpp: every parameter of the shape has one place in its file format."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from warpcortex_cli.bench.peer import gguf_name, our_runs
from warpcortex_cli.bench.shapes import SHAPES
from warpcortex_cli.bench.workload import Load


def test_every_parameter_has_a_name_of_its_own() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPES["Qwen2.5-0.5B"]))
    names = [gguf_name(name) for name, _ in model.named_parameters()]
    assert len(set(names)) == len(names) == 290
    assert {"token_embd.weight", "output_norm.weight", "blk.23.attn_q.bias", "blk.0.ffn_down.weight"} <= set(names)


def test_ours_is_what_the_program_itself_measures() -> None:
    load = Load(agents=2, context=64, landmarks=8, tokens=2)
    runs = our_runs("SmolLM2-135M", "int8", load, [1, 2])
    assert [(r.agents, r.context, r.landmarks, r.tokens_per_agent) for r in runs] == [
        (1, 64, 8, 2),
        (2, 64, 8, 2),
    ]
    assert all(r.river_tokens_per_second > 0 < r.stream_tokens_per_second for r in runs)
