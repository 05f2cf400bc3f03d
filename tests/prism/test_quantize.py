"""Weights of 16, 8 and 4 bits: nearly the same output in fewer bytes, with independent rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

from warpcortex_cli.engine.brief import Brief
from warpcortex_cli.engine.workers.base import Host
from warpcortex_cli.engine.workers.model import ModelWorker
from warpcortex_cli.errors import RunError
from warpcortex_cli.gguf.grouped import Grouped
from warpcortex_cli.prism import native, quantize
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.quantize import Packed, Plain, joined
from warpcortex_cli.prism.rows import Row
from warpcortex_cli.profile import Role

TOKENS = [5, 9, 40, 7, 23, 90, 11]
needs_kernels = pytest.mark.skipif(not native.usable(), reason="there is no C++ compiler")
KINDS = ["int8", *(pytest.param(kind, marks=needs_kernels) for kind in ("bf16", "int4"))]


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RunError("the kernels could not be compiled", "Get a compiler.")

    monkeypatch.setattr(native, "kernels", refuse)
    monkeypatch.setattr(native, "usable", lambda: False)


def opened(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> Prism:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return Prism(model, AutoTokenizer.from_pretrained(folder), folder.name, kind)


def logits(prism: Prism, *sequences: list[int]) -> list[torch.Tensor]:
    rows = [Row(s, list(range(len(s))), prism.new_tail(64), logits="all") for s in sequences]
    return [r.logits for r in prism.forward(rows) if r.logits is not None]


ARCHITECTURES = pytest.mark.parametrize(
    "architecture", ["llama", "qwen2", "qwen3", "phi3", "smollm2", "gemma2", "gemma3"]
)


@ARCHITECTURES
def test_int8_hardly_changes_the_output(
    architecture: str, model_folder: Callable[[str], Path], make_prism: Callable[[str], Prism]
) -> None:
    exact = logits(make_prism(architecture), TOKENS)[0]
    rounded = logits(opened(model_folder(architecture), "int8"), TOKENS)[0]
    assert not torch.equal(exact, rounded)
    assert torch.nn.functional.cosine_similarity(exact, rounded).min() > 0.98


@needs_kernels
@ARCHITECTURES
def test_int4_gives_what_its_weights_do(architecture: str, model_folder: Callable[[str], Path]) -> None:
    """Tiny random models say nothing about the accuracy of 4 bits; `eval quantized` measures it."""
    folder = model_folder(architecture)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    head = model.get_output_embeddings()
    for linear in [m for m in model.modules() if type(m) is torch.nn.Linear and m is not head]:
        rows, inputs = linear.weight.shape
        linear.weight.data = native.unpack(
            native.pack(linear.weight, native.INT4), native.INT4, torch.arange(rows), inputs
        )
    rounded = logits(Prism(model, AutoTokenizer.from_pretrained(folder), architecture), TOKENS)[0]
    found = logits(opened(folder, "int4"), TOKENS)[0]
    assert not torch.equal(rounded, found)  # activations are rounded, too
    assert torch.nn.functional.cosine_similarity(rounded, found).min() > 0.99


@needs_kernels
@ARCHITECTURES
def test_bf16_gives_what_its_weights_do_at_least_as_well_as_torch(
    architecture: str, model_folder: Callable[[str], Path]
) -> None:
    """Against fp32 arithmetic over the same weights."""
    folder = model_folder(architecture)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).float()
    exact = logits(Prism(model, AutoTokenizer.from_pretrained(folder), architecture), TOKENS)[0]
    mine = logits(opened(folder, "bf16"), TOKENS)[0]
    theirs = logits(opened(folder, "none", torch.bfloat16), TOKENS)[0].float()
    assert 0 < (mine - exact).norm() < 1.2 * (theirs - exact).norm()
    assert torch.nn.functional.cosine_similarity(exact, mine).min() > 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_the_type_of_the_model(kind: str, model_folder: Callable[[str], Path]) -> None:
    prism = opened(model_folder("qwen2"), kind, torch.bfloat16)
    assert prism.dtype == torch.bfloat16 and logits(prism, TOKENS)[0].dtype == torch.bfloat16


@needs_kernels
@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
def test_greedy_rows_get_the_largest_logit_alone(kind: str, model_folder: Callable[[str], Path]) -> None:
    """With the same tokens. Models that post-process logits compute all of them."""
    for architecture, brief in (("qwen2", True), ("smollm2", True), ("gemma2", False)):
        prism = opened(model_folder(architecture), kind)
        assert (prism.logits_bytes(3) == 0) == brief

        def rows(logits: str, prism: Prism = prism) -> list[Row]:
            few = [Row([5 + i], [3], prism.new_tail(1), logits=logits, logsumexp=True) for i in range(3)]  # type: ignore[arg-type]
            return [*few, Row([1, 2, 3], [0, 1, 2], prism.new_tail(3), logits="last")]

        greedy, whole = prism.forward(rows("largest")), prism.forward(rows("last"))
        for mine, theirs in zip(greedy, whole, strict=True):
            assert mine.largest == theirs.largest and theirs.logits is not None
        for mine, theirs in zip(greedy[:3], whole[:3], strict=True):
            assert (mine.logits is None) == brief and theirs.logits is not None
            if brief:
                assert mine.logsumexp == pytest.approx(float(theirs.logits[0].double().logsumexp(0)), abs=1e-4)
        assert greedy[3].logits is not None


@needs_kernels
def test_a_stream_is_as_sure_of_its_tokens_without_all_logits(model_folder: Callable[[str], Path]) -> None:
    prism = opened(model_folder("qwen2"), "int8")
    role = Role(name="sure", trigger=r"\[SURE: (?P<task>\w+)\]", max_tokens=4)
    worker = ModelWorker(Host(prism, None, 0))  # type: ignore[arg-type]
    streams = [worker.take(Brief(i, role, "x")) for i in range(2)]
    for stream, logits in zip(streams, ("largest", "last"), strict=True):
        for position in range(3):
            result = prism.forward([Row([9 + position], [position], prism.new_tail(1), logits=logits)])[0]  # type: ignore[arg-type]
            assert result.largest is not None
            stream.weigh(result.largest[1], result)
    assert len(streams[0].log_probabilities) == 3
    assert streams[0].log_probabilities == pytest.approx(streams[1].log_probabilities, abs=1e-4)


def test_a_token_that_the_model_does_not_have_is_refused(model_folder: Callable[[str], Path]) -> None:
    prism = opened(model_folder("qwen2"), "int8")
    tail = prism.new_tail(2)
    for token in (prism.vocab_size, -1):
        with pytest.raises(IndexError, match="outside the vocabulary"):
            prism.forward([Row([token], [0], tail)])
    assert tail.length == 0


@needs_kernels
def test_keys_and_values_take_half_the_bytes(model_folder: Callable[[str], Path]) -> None:
    prism = opened(model_folder("qwen2"), "int8")
    assert (prism.dtype, prism.layout.dtype) == (torch.float32, torch.bfloat16)
    tail = prism.new_tail(2)
    assert prism.forward([Row([1, 2], [0, 1], tail)])[0].hidden.dtype == torch.float32
    assert tail.layer(0)[0].dtype == torch.bfloat16 and tail.nbytes == 2 * 2 * 3 * 2 * 16 * 2


@pytest.mark.parametrize("kind", KINDS)
def test_no_row_depends_on_another(kind: str, model_folder: Callable[[str], Path]) -> None:
    """One scale for a whole step would leak the loudest row into all others."""
    prism = opened(model_folder("qwen2"), kind)
    alone = logits(prism, TOKENS)[0]
    beside = logits(prism, TOKENS, [3, 80, 81, 82, 60, 61, 62])[0]
    assert torch.allclose(alone, beside, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "most"),
    [("int8", 0.37), pytest.param("int4", 0.3, marks=needs_kernels), pytest.param("bf16", 0.7, marks=needs_kernels)],
)
def test_weights_take_a_part_of_the_bytes(
    kind: str, most: float, model_folder: Callable[[str], Path], make_prism: Callable[[str], Prism]
) -> None:
    for architecture in ("qwen2", "smollm2"):  # one with a head of its own, one with tied embeddings
        full, small = make_prism(architecture), opened(model_folder(architecture), kind)
        assert 0.1 < small.parameter_bytes / full.parameter_bytes < most


def test_the_factor_of_an_embedding_is_not_rounded_with_its_files() -> None:
    own = Gemma3TextScaledWordEmbedding(10, 80, 0, embed_scale=80**0.5).to(torch.bfloat16)
    table = joined([own], 8)
    found = quantize.Embedding(table, own, torch.float32)
    plain = quantize.Embedding(table, torch.nn.Embedding(10, 80), torch.float32)
    assert torch.allclose(found(torch.arange(10)), plain(torch.arange(10)) * 80**0.5, rtol=1e-6)


def test_a_tied_head_and_the_embedding_are_one_table(model_folder: Callable[[str], Path]) -> None:
    model = opened(model_folder("smollm2"), "int8").model
    assert model.config.tie_word_embeddings
    assert model.get_output_embeddings() is model.get_input_embeddings().table


@pytest.mark.parametrize("kind", [Packed, Plain])
def test_rounding_is_to_a_channels_own_scale(
    kind: type[Packed | Plain], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is Plain:
        request.getfixturevalue("no_compiler")
    linear = torch.nn.Linear(16, 3)
    with torch.no_grad():
        linear.weight[1] *= 1000
    x = torch.randn(4, 16)
    found = joined([linear], 8)
    assert isinstance(found, kind) or not native.usable()
    error = (found(x) - linear(x)).abs().amax(0)
    assert (error / linear(x).abs().amax(0)).max() < 0.03


@needs_kernels
def test_layers_of_different_formats_are_packed_as_one() -> None:
    """As q, k and v of Q4_K_M: packed as one, they take the format that holds all of them."""
    make = torch.Generator().manual_seed(2)

    def some(bits: int, minima: bool, outputs: int) -> Grouped:
        levels = torch.randint(0, 1 << bits, (outputs, 64), generator=make, dtype=torch.uint8)
        scales, low = (torch.randn(outputs, 2, generator=make).half().float() for _ in range(2))
        return Grouped(levels, scales, low if minima else None, bits)

    x, bias = torch.randint(-126, 127, (3, 64), generator=make) / 32, torch.randn(40, generator=make)
    x[:, ::32] = 127 / 32  # so that int8 holds all of them as they are
    for forms in ([(4, False), (4, False)], [(4, True), (8, False)], [(4, False), (4, True)]):
        layers = [some(bits, minima, 20) for bits, minima in forms]
        packed = Packed.of(layers, bias)
        assert packed.sizes == [20, 20]
        wanted = x @ torch.cat([layer.weights() for layer in layers]).T + bias
        torch.testing.assert_close(packed(x), wanted, rtol=1e-3, atol=1e-2)


def test_layers_with_a_common_input_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    block = torch.nn.Module()
    block.gate_proj, block.up_proj = torch.nn.Linear(16, 8), torch.nn.Linear(16, 24, bias=False)
    apart = [joined([layer], 8) for layer in (block.gate_proj, block.up_proj)]
    quantize._exchange(block, 8)
    x, y = torch.randn(3, 16), torch.randn(5, 16)
    wanted = [layer(t) for t in (x, y, x) for layer in apart]
    calls = []
    block.gate_proj.joint.linear.register_forward_hook(lambda _module, args, out: calls.append(len(args[0])))
    found = [layer(t) for t in (x, y, x) for layer in (block.gate_proj, block.up_proj)]
    assert calls == [3, 5, 3]
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert block.gate_proj.joint._of is None and not block.gate_proj.joint._parts  # nothing of a step outlives it


@needs_kernels
def test_without_a_compiler_torch_computes_the_same(
    model_folder: Callable[[str], Path], request: pytest.FixtureRequest
) -> None:
    usual = {name: logits(opened(model_folder(name), "int8"), TOKENS)[0] for name in ("qwen2", "smollm2")}
    request.getfixturevalue("no_compiler")
    for name, wanted in usual.items():
        plain = opened(model_folder(name), "int8")
        assert any(isinstance(m, Plain) for m in plain.model.modules())
        found = logits(plain, TOKENS)[0]
        # A token that attends to itself alone shows the products; others also how weights of attention are rounded.
        assert torch.allclose(found[0], wanted[0], atol=1e-4)
        assert (found - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize("kind", ["bf16", "int4"])
def test_formats_that_need_a_compiler_are_refused_without_one(
    kind: str, no_compiler: None, model_folder: Callable[[str], Path]
) -> None:
    with pytest.raises(RunError, match="could not be compiled"):
        opened(model_folder("qwen2"), kind)
