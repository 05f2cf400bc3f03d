"""What models of 2024 and 2025 set in their files, served as transformers serves it.

Each row has the settings of a real `config.json` and `generation_config.json`, in the form in which they are published;
only sizes are small, weights random, and factors of LongRoPE fewer. Positions go up to the end of the context.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.engine.conftest import make_profile, run
from tests.prism.families import tokenizer
from warpcortex_cli import events as ev
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.text import TextBuilder
from warpcortex_cli.prism.prism import Prism, Row
from warpcortex_cli.prism.source import ModelSource, check_folder

SMALL = {
    "vocab_size": 640, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.3, "bos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
BYTE_LEVEL, BYTE_FALLBACK = "byte-level", "always"


@dataclass(frozen=True)
class Real:
    """A model of the field.

    Attributes:
        source: its repository on huggingface.co, whose config.json, generation_config.json and tokenizer are meant.
        config: what its config.json says, but sizes.
        ends: tokens that end a reply, as generation_config.json lists them.
        tied: whether the head is the embedding.
        template, tokenizer: as in `families`.
        context: tokens that it is served with.
    """

    source: str
    config: dict[str, Any]
    ends: tuple[str, ...]
    tied: bool
    template: str
    context: int
    tokenizer: str = BYTE_LEVEL
    small: dict[str, Any] = field(default_factory=dict)


REAL = [
    Real(
        "meta-llama/Llama-3.2-1B-Instruct",
        {
            "model_type": "llama", "max_position_embeddings": 131072, "rope_theta": 500000.0,
            "rope_scaling": {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 8192},
        },
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"), True, "llama-3", 131072,
    ),
    Real(
        "meta-llama/Llama-3.1-8B-Instruct",
        {
            "model_type": "llama", "max_position_embeddings": 131072, "rope_theta": 500000.0,
            "rope_scaling": {**LLAMA3, "factor": 8.0, "original_max_position_embeddings": 8192},
        },
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"), False, "llama-3", 131072,
    ),
    Real(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        {"model_type": "llama", "max_position_embeddings": 8192, "rope_theta": 100000, "rope_scaling": None},
        ("<|im_end|>",), True, "qwen2.5", 8192,
        small={"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 48},
    ),
    Real(
        "HuggingFaceTB/SmolLM3-3B",  # every fourth layer carries no positions
        {
            "model_type": "smollm3", "max_position_embeddings": 65536, "rope_theta": 5000000.0, "rope_scaling": None,
            "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0], "use_sliding_window": False,
        },
        ("<|im_end|>",), True, "qwen3", 65536, small={"num_hidden_layers": 4},
    ),
    Real(
        "Qwen/Qwen2.5-0.5B-Instruct",
        {
            "model_type": "qwen2", "max_position_embeddings": 32768, "rope_theta": 1000000.0,
            "sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 21,
        },
        ("<|im_end|>", "<|endoftext|>"), True, "qwen2.5", 32768,
    ),
    Real(
        "Qwen/Qwen2.5-Coder-32B-Instruct",  # with the YaRN that its README gives for long texts
        {
            "model_type": "qwen2", "max_position_embeddings": 32768, "rope_theta": 1000000.0,
            "sliding_window": 131072, "use_sliding_window": False, "max_window_layers": 70,
            "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
        },
        ("<|im_end|>", "<|endoftext|>"), False, "qwen2.5", 32768,
    ),
    Real(
        "Qwen/Qwen3-0.6B",
        {
            "model_type": "qwen3", "max_position_embeddings": 40960, "rope_theta": 1000000, "rope_scaling": None,
            "sliding_window": None, "use_sliding_window": False, "max_window_layers": 28,
        },
        ("<|im_end|>", "<|endoftext|>"), True, "qwen3", 40960, small={"head_dim": 24},
    ),
    Real(
        "Qwen/Qwen3-32B",  # with the YaRN that its README gives for long texts
        {
            "model_type": "qwen3", "max_position_embeddings": 131072, "rope_theta": 1000000,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        },
        ("<|im_end|>", "<|endoftext|>"), False, "qwen3", 131072, small={"head_dim": 24},
    ),
    Real(
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        {
            "model_type": "qwen2", "max_position_embeddings": 131072, "rope_theta": 10000, "sliding_window": 4096,
            "use_sliding_window": False, "max_window_layers": 21,
        },
        ("<\uff5cend\u2581of\u2581sentence\uff5c>",), False, "deepseek-r1", 131072,
    ),
    Real(
        "deepseek-ai/deepseek-coder-1.3b-instruct",
        {
            "model_type": "llama", "max_position_embeddings": 16384, "rope_theta": 100000,
            "rope_scaling": {"factor": 4.0, "type": "linear"},
        },
        ("<|EOT|>",), False, "user", 16384,
    ),
    Real(
        "OpenGVLab/InternVL2-8B",  # its language model, InternLM2.5, in the layout of Llama
        {
            "model_type": "llama", "max_position_embeddings": 32768, "rope_theta": 1000000,
            "rope_scaling": {"factor": 2.0, "type": "dynamic"},
        },
        ("</s>", "<|im_end|>"), False, "chatml", 32768, BYTE_FALLBACK,
    ),
    Real(
        "google/gemma-3-1b-it",
        {
            "model_type": "gemma3_text", "max_position_embeddings": 32768, "rope_theta": 1000000,
            "rope_local_base_freq": 10000, "rope_scaling": None, "sliding_window": 512, "sliding_window_pattern": 6,
            "query_pre_attn_scalar": 256, "attn_logit_softcapping": None, "final_logit_softcapping": None,
        },
        ("<eos>", "<end_of_turn>"), True, "gemma-3", 32768, BYTE_FALLBACK,
        {"num_hidden_layers": 6, "num_key_value_heads": 1, "initializer_range": 0.1},
    ),
    Real(
        "google/gemma-3-12b-it",  # its language model: layers that attend to all have their positions divided by 8
        {
            "model_type": "gemma3_text", "max_position_embeddings": 131072, "rope_theta": 1000000,
            "rope_local_base_freq": 10000, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024, "sliding_window_pattern": 6, "query_pre_attn_scalar": 256,
        },
        ("<eos>", "<end_of_turn>"), True, "gemma-3", 131072, BYTE_FALLBACK,
        {"num_hidden_layers": 6, "initializer_range": 0.1},
    ),
    Real(
        "microsoft/Phi-3.5-mini-instruct",  # two tables of factors; the second begins where the context ends here
        {
            "model_type": "phi3", "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
            "rope_theta": 10000.0, "sliding_window": 262144,
            "rope_scaling": {
                "type": "longrope", "short_factor": [1.0, 1.02, 1.03, 1.05, 1.08, 1.1, 1.5, 2.0],
                "long_factor": [1.08, 1.11, 1.15, 2.5, 16.4, 31.2, 48.5, 64.0],
            },
        },
        ("<|endoftext|>", "<|end|>"), False, "phi-3", 4096, BYTE_FALLBACK,
    ),
    Real(
        "microsoft/Phi-4-mini-instruct",  # three quarters of each head turn
        {
            "model_type": "phi3", "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
            "rope_theta": 10000.0, "partial_rotary_factor": 0.75, "sliding_window": 262144,
            "rope_scaling": {
                "type": "longrope", "short_factor": [1.0] * 6,
                "long_factor": [1, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897],
            },
        },
        ("<|end|>", "<|endoftext|>"), True, "phi-4-mini", 4096,
    ),
    Real(
        "mistralai/Mistral-7B-Instruct-v0.3",
        {"model_type": "mistral", "max_position_embeddings": 32768, "rope_theta": 1000000.0, "sliding_window": None},
        ("</s>",), False, "mistral-v3", 32768, BYTE_FALLBACK,
    ),
    Real(
        "mistralai/Ministral-8B-Instruct-2410",
        {"model_type": "mistral", "max_position_embeddings": 32768, "rope_theta": 100000000.0, "sliding_window": 32768},
        ("</s>",), False, "mistral-v3", 32768, small={"head_dim": 24},
    ),
    Real(
        "ibm-granite/granite-3.3-2b-instruct",
        {
            "model_type": "granite", "max_position_embeddings": 131072, "rope_theta": 10000000.0, "rope_scaling": None,
            "attention_multiplier": 0.015625, "embedding_multiplier": 12.0, "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
        },
        ("<|end_of_text|>",), True, "granite-3", 131072,
    ),
]  # fmt: skip
each = pytest.mark.parametrize("real", REAL, ids=lambda real: real.source)


@dataclass(frozen=True)
class Loaded:
    """A small one of the kind, through the product's loader, and transformers' own."""

    prism: Prism
    reference: PreTrainedModel
    ends: list[int]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Real], Loaded]:
    @cache
    def found(source: str) -> Loaded:
        real = next(r for r in REAL if r.source == source)
        return written(real, tmp_path_factory.mktemp(source.partition("/")[2]))

    return lambda real: found(real.source)


def written(real: Real, folder: Path) -> Loaded:
    made = tokenizer.__wrapped__(real.tokenizer, real.template)
    made.add_tokens([AddedToken(end, special=True, normalized=False) for end in real.ends])
    ends: list[int] = made.convert_tokens_to_ids(list(real.ends))
    made.save_pretrained(folder)
    config = {**real.config, **SMALL, **real.small, "tie_word_embeddings": real.tied, "eos_token_id": ends[0]}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(0.05)
    model.save_pretrained(folder / "weights")
    (folder / "weights" / "model.safetensors").rename(folder / "model.safetensors")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends if len(ends) > 1 else ends[0]}))
    prism = Prism.load(ModelSource("folder", check_folder(folder, real.source), real.source), "cpu", "fp32")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return Loaded(prism, plain.eval(), ends)


TOKENS = [4 + 11 * i % 300 for i in range(24)]


@each
def test_logits_are_transformers_at_the_beginning_and_at_the_end_of_the_context(
    real: Real, load: Callable[[Real], Loaded]
) -> None:
    model = load(real)
    assert model.prism.max_context == real.context
    for start in (0, real.context - len(TOKENS)):
        positions = list(range(start, start + len(TOKENS)))
        rows = [Row(TOKENS, positions, model.prism.new_tail(None), logits="all")]
        with torch.inference_mode():
            want = model.reference(torch.tensor([TOKENS]), position_ids=torch.tensor([positions])).logits[0]
        got = model.prism.forward(rows)[0].logits
        assert got is not None
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
        assert float(want.std()) > 0.01


@each
def test_keys_that_are_moved_are_those_that_are_computed_there(real: Real, load: Callable[[Real], Loaded]) -> None:
    prism = load(real).prism

    def at(start: int) -> Any:
        tail = prism.new_tail(len(TOKENS))
        prism.forward([Row(TOKENS, list(range(start, start + len(TOKENS))), tail, logits="none")])
        return tail.freeze(0, len(TOKENS))

    far = at(real.context - len(TOKENS))
    moved = at(0).moved(prism.rope, far.positions)
    for layer in range(prism.layers):
        scale = float(far.keys[layer].abs().max())  # fp32 counts 2^17 positions to some 1e-2 of a turn
        torch.testing.assert_close(moved.keys[layer], far.keys[layer], rtol=0, atol=2e-2 * scale)


@each
def test_the_prompt_is_the_templates(real: Real, load: Callable[[Real], Loaded]) -> None:
    prism = load(real).prism
    assert prism.chat.templated, prism.chat.problem
    told = [{"role": "user", "content": "How many ropes? 47 \U0001f422"}]
    ids = prism.tokenizer.apply_chat_template(told, add_generation_prompt=True, return_dict=False)
    assert prism.chat.prompt(told[0]["content"]) == ids


@each
def test_each_end_token_ends_a_reply(
    real: Real, load: Callable[[Real], Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(real)
    usual = model.prism.forward
    for end in model.ends:
        says = iter([*model.prism.encode("47 ropes"), end])

        def forward(rows: list[Row], says: Any = says) -> Any:
            results = usual(rows)
            for i, row in enumerate(rows):
                if row.logits == "largest":
                    results[i] = type(results[i])(**{**vars(results[i]), "largest": (1.0, next(says))})
            return results

        monkeypatch.setattr(model.prism, "forward", forward)
        session = Session(model.prism, make_profile(river={"max_tokens": 40}, model="auto"), streams=False)
        events = run(session)
        assert next(e.reason for e in events if isinstance(e, ev.RiverFinished)) == "stop"
        assert session.transcript()[-1].text.strip() == "47 ropes"


@each
def test_the_head_is_the_embedding_where_it_is_tied(real: Real, load: Callable[[Real], Loaded]) -> None:
    model = load(real).prism.model
    same = model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert same == real.tied
    numbers = sum(p.numel() for p in load(real).reference.parameters())
    assert load(real).prism.parameter_bytes == 4 * numbers


@pytest.mark.parametrize("kind", [BYTE_LEVEL, BYTE_FALLBACK])
def test_characters_of_several_byte_tokens_come_whole(kind: str, load: Callable[[Real], Loaded]) -> None:
    prism = load(next(r for r in REAL if r.tokenizer == kind)).prism
    said = "47 \U0001f422 ropes \u4e2d\u6587 \U0001f469\u200d\U0001f52c"
    builder = TextBuilder(prism)
    ids = prism.encode(said)
    assert kind == BYTE_LEVEL or "<0xF0>" in prism.tokenizer.convert_ids_to_tokens(ids)
    pieces = [builder.add(token) for token in ids]
    assert pieces.count("") >= 6 and "".join(pieces) + builder.finish() == builder.text
    assert builder.text.strip() == said and not any("\ufffd" in piece for piece in pieces)
