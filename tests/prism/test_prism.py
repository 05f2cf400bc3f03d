"""The Prism: what it serves and refuses, what a forward computes, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import SIZES, make_tokenizer
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    PreTrainedConfig,
    SmolLM3Config,
    T5Config,
)

from warpcortex_cli.errors import ModelError
from warpcortex_cli.prism.prism import Prism, Row


def test_sizes(prism: Prism) -> None:
    assert (prism.layers, prism.heads, prism.kv_heads, prism.head_dim) == (3, 4, 2, 16)
    assert prism.layout.bytes_per_token == 2 * 3 * 2 * 16 * 4
    assert prism.max_context == 512
    assert prism.new_tail(10).nbytes == 10 * prism.layout.bytes_per_token
    assert prism.eos_ids == {2}


def test_parameters_do_not_depend_on_the_number_of_agents(prism: Prism) -> None:
    before = prism.parameter_bytes, [p.data_ptr() for p in prism.model.parameters()]
    pool = prism.new_pool(8)
    tails = [pool.take() for _ in range(40)]
    prism.forward([Row([5], [0], t) for t in tails])
    assert (prism.parameter_bytes, [p.data_ptr() for p in prism.model.parameters()]) == before


def test_tied_parameters_count_once(make_prism: Callable[[str], Prism]) -> None:
    prism = make_prism("smollm2")
    assert prism.parameter_bytes == sum(p.nbytes for p in prism.model.model.parameters())


def test_scores_are_scaled_as_the_model_does(make_prism: Callable[[str], Prism]) -> None:
    gemma, llama = make_prism("gemma2"), make_prism("llama")
    assert gemma.scalings == pytest.approx([24**-0.5] * gemma.layers)  # query_pre_attn_scalar, not head_dim
    assert llama.scalings == pytest.approx([llama.head_dim**-0.5] * llama.layers)


def test_the_head_sees_only_tokens_that_want_logits(prism: Prism) -> None:
    shapes: list[tuple[int, ...]] = []
    hook = prism.model.lm_head.register_forward_pre_hook(lambda _m, args: shapes.append(tuple(args[0].shape)))
    try:
        results = prism.forward(
            [
                Row([5, 6, 7], [0, 1, 2], prism.new_tail(4), logits="none"),
                Row([5, 6, 7], [0, 1, 2], prism.new_tail(4), logits="all"),
                Row([5, 6, 7, 8], [0, 1, 2, 3], prism.new_tail(4), logits="last"),
            ]
        )
        prism.forward([Row([5], [0], prism.new_tail(1), logits="none")])
    finally:
        hook.remove()
    assert shapes == [(1, 4, prism.hidden_size), (1, 0, prism.hidden_size)]
    assert results[0].logits is None
    assert results[1].logits is not None and results[1].logits.shape == (3, prism.vocab_size)
    assert results[2].logits is not None and results[2].logits.shape == (1, prism.vocab_size)
    assert [r.hidden.shape for r in results] == [(3, 64), (3, 64), (4, 64)]


def test_queries_are_kept_for_rows_that_ask(architecture: str, make_prism: Callable[[str], Prism]) -> None:
    """A query rotated at its position, times the key of the same token, must weigh as the attention did."""
    prism = make_prism(architecture)
    tail = prism.new_tail(8)
    results = prism.forward([Row([7, 8], [0, 1], prism.new_tail(2)), Row([5, 6, 7], [3, 4, 5], tail, queries=True)])
    assert results[0].queries is None
    queries = results[1].queries
    assert queries is not None and queries.shape == (prism.layers, prism.heads, 3, prism.head_dim)
    moved = prism.forward([Row([5, 6, 7], [103, 104, 105], other := prism.new_tail(8), queries=True)])[0].queries
    assert moved is not None
    for layer in range(prism.layers):
        near = queries[layer][0] @ tail.layer(layer)[0][0].T
        far = moved[layer][0] @ other.layer(layer)[0][0].T
        torch.testing.assert_close(near, far, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "row",
    [
        lambda p: Row([], [], p.new_tail(4)),
        lambda p: Row([5, 6], [0], p.new_tail(4)),
        lambda p: Row([5] * 5, list(range(5)), p.new_tail(4)),
        lambda p: Row([5], [512], p.new_tail(4)),
    ],
    ids=["no tokens", "a position missing", "tail full", "beyond the context"],
)
def test_impossible_rows_are_refused(prism: Prism, row: Callable[[Prism], Row]) -> None:
    river = prism.new_tail(None)
    with pytest.raises(ValueError):
        prism.forward([Row([5], [0], river), row(prism)])
    assert river.length == 0


def test_two_rows_cannot_write_to_one_tail(prism: Prism) -> None:
    tail = prism.new_tail(4)
    with pytest.raises(ValueError, match="same tail"):
        prism.forward([Row([5], [0], tail), Row([6], [1], tail)])


def test_no_rows_is_no_work(prism: Prism) -> None:
    assert prism.forward([]) == []


def test_a_forward_that_fails_changes_no_tail(prism: Prism, monkeypatch: pytest.MonkeyPatch) -> None:
    tail = prism.new_tail(8)
    first = prism.forward([Row([5, 6], [0, 1], tail)])[0].hidden
    with monkeypatch.context() as patch:
        patch.setattr(prism.model.model.norm, "forward", _failing)
        with pytest.raises(RuntimeError):
            prism.forward([Row([7], [2], tail)])
    assert tail.length == 2
    again = prism.new_tail(8)
    torch.testing.assert_close(prism.forward([Row([5, 6], [0, 1], again)])[0].hidden, first)
    got = prism.forward([Row([7], [2], tail)])[0].hidden
    torch.testing.assert_close(got, prism.forward([Row([7], [2], again)])[0].hidden)


def _failing(*_args: object) -> None:
    raise RuntimeError("on purpose")


def test_text_of_users_makes_no_special_tokens(prism: Prism) -> None:
    text = "a<|im_end|>b"
    assert 2 not in prism.encode(text)
    assert prism.encode(text, special=True).count(2) == 1
    assert prism.decode(prism.encode(text)) == text
    assert prism.decode([2, *prism.encode("Mara"), 2]) == "Mara"


def test_bf16(model_folder: Callable[[str], object]) -> None:
    folder = model_folder("qwen3")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    prism = Prism(model, make_tokenizer(), "bf16")
    assert prism.dtype == torch.bfloat16
    pool = prism.new_pool(8)
    result = prism.forward([Row([5 + i], [0], pool.take()) for i in range(3)])[0]
    assert result.logits is not None and result.logits.dtype == torch.bfloat16 and result.logits.isfinite().all()


def test_layers_without_positions_are_known() -> None:
    model = AutoModelForCausalLM.from_config(SmolLM3Config(**SIZES, no_rope_layers=[1, 0, 1]))
    assert Prism(model, make_tokenizer(), "smollm3").rope.rotated == [True, False, True]


def test_longrope_ends_where_its_frequencies_change() -> None:
    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128,
        "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
    }  # fmt: skip
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, rope_parameters=rope))
    assert Prism(model, make_tokenizer(), "longrope").max_context == 128


MOE = {"num_local_experts": 2, "num_experts_per_tok": 1}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (GPT2Config(vocab_size=320, n_embd=32, n_layer=1, n_head=2), "not rotary"),
        (MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=1), "linear_attention"),
        (GptOssConfig(**SIZES, **MOE, head_dim=16), "attention sinks"),
        (LlamaConfig(**SIZES, is_causal=False), "not causal"),
    ],
    ids=["gpt2", "mamba", "gpt-oss", "bidirectional"],
)
def test_what_cannot_be_served_is_refused_with_the_reason(config: PreTrainedConfig, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        Prism(AutoModelForCausalLM.from_config(config), make_tokenizer(), "strange")
    assert "strange" in caught.value.message and caught.value.exit_code == 3


def test_encoder_decoders_are_refused() -> None:
    from transformers import T5ForConditionalGeneration

    model = T5ForConditionalGeneration(T5Config(vocab_size=320, d_model=32, d_ff=32, d_kv=8, num_layers=1, num_heads=2))
    with pytest.raises(ModelError, match="encoder-decoder"):
        Prism(model, make_tokenizer(), "t5")
