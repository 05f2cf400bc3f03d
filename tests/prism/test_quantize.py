"""int8 weights: nearly the same output, a quarter of the bytes, and still no row that touches another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from warpcortex_cli.prism import quantize
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.quantize import Int8Linear, Int8Weight, PackedWeight, packs, quantize_int8
from warpcortex_cli.prism.rows import Row

TOKENS = [5, 9, 40, 7, 23, 90, 11]


def int8(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Prism:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    quantize_int8(model)
    return Prism(model, AutoTokenizer.from_pretrained(folder), name)


def logits(prism: Prism, *sequences: list[int]) -> list[torch.Tensor]:
    rows = [Row(s, list(range(len(s))), prism.new_tail(64), logits="all") for s in sequences]
    return [r.logits for r in prism.forward(rows) if r.logits is not None]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "phi3", "smollm2", "gemma2", "gemma3"])
def test_the_output_hardly_changes(
    architecture: str, model_folder: Callable[[str], Path], make_prism: Callable[[str], Prism]
) -> None:
    exact = logits(make_prism(architecture), TOKENS)[0]
    rounded = logits(int8(model_folder(architecture), architecture), TOKENS)[0]
    assert not torch.equal(exact, rounded)
    assert torch.nn.functional.cosine_similarity(exact, rounded).min() > 0.98


def test_no_row_depends_on_another(model_folder: Callable[[str], Path]) -> None:
    """One scale for a whole step would leak the loudest row into all others."""
    prism = int8(model_folder("qwen2"), "qwen2")
    alone = logits(prism, TOKENS)[0]
    beside = logits(prism, TOKENS, [3, 80, 81, 82, 60, 61, 62])[0]
    assert torch.allclose(alone, beside, atol=1e-4)


def test_weights_take_a_quarter(model_folder: Callable[[str], Path], make_prism: Callable[[str], Prism]) -> None:
    for architecture in ("qwen2", "smollm2"):  # one with a head of its own, one with tied embeddings
        full, small = make_prism(architecture), int8(model_folder(architecture), architecture)
        embedding = small.model.get_input_embeddings().weight.nbytes
        assert (embedding > 0) and small.parameter_bytes > 0.25 * full.parameter_bytes
        # A tied head that is packed cannot share the embedding's rows.
        again = embedding if packs() and full.model.config.tie_word_embeddings else 0
        assert small.parameter_bytes - again < 0.35 * full.parameter_bytes


def test_rounding_is_to_a_channels_own_scale() -> None:
    linear = torch.nn.Linear(16, 3)
    with torch.no_grad():
        linear.weight[1] *= 1000
    x = torch.randn(4, 16)
    error = (Int8Linear([linear])(x) - linear(x)).abs().amax(0)
    size = linear(x).abs().amax(0)
    assert (error / size).max() < 0.03


def test_layers_that_are_given_the_same_input_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    block = torch.nn.Module()
    block.gate_proj, block.up_proj = torch.nn.Linear(16, 8), torch.nn.Linear(16, 24, bias=False)
    apart = [Int8Linear([layer]) for layer in (block.gate_proj, block.up_proj)]
    quantize._exchange(block)
    calls = []
    whole = quantize._activations
    monkeypatch.setattr(quantize, "_activations", lambda x: calls.append(x) or whole(x))
    x, y = torch.randn(3, 16), torch.randn(5, 16)
    found = [layer(t) for t in (x, y, x) for layer in (block.gate_proj, block.up_proj)]
    assert [len(c) for c in calls] == [3, 5, 3]
    for a, b in zip(found, [layer(t) for t in (x, y, x) for layer in apart], strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert block.gate_proj.joint._of is None and not block.gate_proj.joint._parts  # nothing of a step outlives it


@pytest.mark.skipif(not packs(), reason="this CPU does not multiply packed weights")
@pytest.mark.parametrize("rows", [0, 1, 2, 5, 33])
def test_packed_weights_give_what_plain_ones_do(rows: int) -> None:
    torch.manual_seed(3)
    values = torch.randint(-127, 128, (48, 64), dtype=torch.int8)
    scale = torch.rand(48)
    x = torch.randint(0, 256, (rows, 64), dtype=torch.uint8)
    assert torch.allclose(PackedWeight(values, scale)(x), Int8Weight(values, scale)(x), rtol=1e-5, atol=1e-3)


def test_a_cpu_without_vnni_serves_it_too(model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    usual = logits(int8(model_folder("qwen2"), "qwen2"), TOKENS)[0]
    monkeypatch.setattr(quantize, "packs", lambda: False)
    assert torch.allclose(logits(int8(model_folder("qwen2"), "qwen2"), TOKENS)[0], usual, atol=1e-4)
