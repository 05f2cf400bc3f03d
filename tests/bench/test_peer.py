"""The comparison with llama.cpp: every parameter of the shape has one place in its file format."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from warpcortex_cli.bench.peer import gguf_name
from warpcortex_cli.bench.shapes import SHAPES


def test_every_parameter_has_a_name_of_its_own() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPES["Qwen2.5-0.5B"]))
    names = [gguf_name(name) for name, _ in model.named_parameters()]
    assert len(set(names)) == len(names) == 290
    assert {"token_embd.weight", "output_norm.weight", "blk.23.attn_q.bias", "blk.0.ffn_down.weight"} <= set(names)
