"""Fused layers: what the layers of transformers give, for every architecture of their form, and only for these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

from tests.conftest import GEMMA
from warpcortex_cli.prism import fused, native, prism
from warpcortex_cli.prism.fused import FusedLayer, fuse
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row

pytestmark = pytest.mark.skipif(not native.usable(), reason="there is no C++ compiler")
SERVED = ["llama", "mistral", "qwen2", "qwen3", "phi3", "smollm2", "gemma2", "gemma3", "llama_yarn"]
LONG = 140  # tokens, more than the kernels take at once, and than any window


def opened(folder: Path, quantize: str, dtype: torch.dtype = torch.float32) -> Prism:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return Prism(model, AutoTokenizer.from_pretrained(folder), folder.name, quantize)


def unfused(folder: Path, quantize: str, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype = torch.float32) -> Prism:
    with monkeypatch.context() as patch:
        patch.setattr(prism, "fuse", lambda *_: 0)
        return opened(folder, quantize, dtype)


def layers(of: Prism) -> nn.ModuleList:
    found: nn.ModuleList = of.model.get_decoder().layers
    return found


def read(of: Prism) -> list[torch.Tensor]:
    """Logits and queries of a long prefill, and of a River that goes on beside three Streams."""
    river = of.new_tail()
    tokens = [3 + 7 * i % 300 for i in range(LONG)]
    results = of.forward([Row(tokens, list(range(LONG)), river, logits="all", queries=True)])
    shared = river.freeze(0, 9)
    streams = [Row([20 + i, 40], [9, 10], of.new_tail(4), (shared,)) for i in range(3)]
    results += of.forward([Row([7], [LONG], river, queries=True), *streams])
    return [part.float() for r in results for part in (r.logits, r.queries) if part is not None]


@pytest.mark.parametrize("quantize", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("architecture", SERVED)
def test_they_give_what_the_layers_do(
    architecture: str, quantize: str, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = (
        opened(model_folder(architecture), quantize),
        unfused(model_folder(architecture), quantize, monkeypatch),
    )
    assert all(isinstance(layer, FusedLayer) for layer in layers(mine))
    assert not any(isinstance(layer, FusedLayer) for layer in layers(theirs))
    for a, b in zip(read(mine), read(theirs), strict=True):
        # What is rounded to int8 falls to either side, and tiny models with loud weights make much of it.
        close = nn.functional.cosine_similarity(a, b, -1)
        assert close.mean() > 0.999 and close.min() > 0.95


def one_by_one(of: Prism) -> Prism:
    """Its layers no longer take those that follow along."""
    for layer in layers(of):
        if isinstance(layer, FusedLayer):
            layer.together = None
    return of


def short(of: Prism) -> list[torch.Tensor]:
    """Before any window hides something: logits and queries of a few tokens, of which one row is watched or two are."""
    found = []
    for watched in (1, 2):
        rows = [
            Row([40], [2], of.new_tail(1), queries=watched > 1),
            Row([9, 30, 31], [0, 1, 2], of.new_tail(3), logits="all", queries=True),
            Row([50], [5], of.new_tail(1)),
        ]
        found += [part for r in of.forward(rows) for part in (r.logits, r.queries) if part is not None]
    return found


def counted(of: Prism, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many layers each call takes from now on."""
    calls: list[int] = []
    run = native.Layers.run
    monkeypatch.setattr(native.Layers, "run", lambda self, *args: calls.append(self.count) or run(self, *args))
    return calls


def same(together: list[torch.Tensor], apart: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))


@pytest.mark.parametrize("architecture", SERVED)
def test_many_layers_in_one_call_give_what_they_give_one_by_one(
    architecture: str, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(model_folder(architecture), "int8")
    calls = counted(found, monkeypatch)
    together = short(found)
    served = native.Readers.serves(found.layout.dtype, found.head_dim) and architecture != "gemma2"
    assert calls == [found.layers] * served  # scores with a cap are torch's, and so is where two rows are watched
    together += read(found)
    calls.clear()
    assert same(together, [*short(one_by_one(found)), *read(found)]) and not calls


def _prompt(prism: Prism, n: int) -> Row:
    return Row([5 + i % 90 for i in range(n)], list(range(n)), prism.new_tail(n), logits="all")


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_any_number_of_threads_gives_the_same(
    quantize: str, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few tokens, of which each thread rounds all for itself, and many, which they share."""
    found = opened(model_folder("qwen2"), quantize)
    given = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        several = [Row([3 + i] * 20, list(range(20)), found.new_tail(20), logits="all") for i in range(3)]
        long = [r for n in (257, 264, 268) for r in found.forward([_prompt(found, n)])]  # the last chunk would be short
        given.append([*short(found), *read(found)])
        given[-1] += [r.logits for r in (*found.forward(several), *long) if r.logits is not None]
    assert same(given[0], given[1]) and same(given[0], given[2])


def test_layers_that_are_given_other_angles_are_other_calls(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    sizes = {"head_dim": 32, "num_hidden_layers": 4, "layer_types": kinds}
    model = AutoModelForCausalLM.from_config(Gemma3TextConfig(**{**GEMMA, **sizes}))
    found = Prism(model, AutoTokenizer.from_pretrained(model_folder("gemma3")), "gemma3", "int8")
    calls = counted(found, monkeypatch)
    together = short(found)
    assert calls == [2, 1, 1]
    together += read(found)  # where windows hide something: that is left to torch
    assert same(together, [*short(one_by_one(found)), *read(found)])


def test_hidden_states_in_bf16_are_rounded_in_each_layer_whoever_is_there(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(model_folder("qwen2"), "int8", torch.bfloat16)
    calls = counted(found, monkeypatch)
    assert same(short(found), short(one_by_one(found))) and not calls


def test_a_layer_between_them_that_is_not_fused(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = unfused(model_folder("qwen2"), "int8", monkeypatch)
    decoder = found.model.get_decoder()
    decoder.layers[1].mlp.register_forward_hook(lambda _module, _args, out: out * 0.9)
    assert fuse(decoder, found.max_context, found.layout.dtype) == len(decoder.layers) - 1
    calls = counted(found, monkeypatch)
    together = short(found)
    assert calls == [1, 1]
    assert same(together, short(one_by_one(found)))


@pytest.mark.parametrize("architecture", ["qwen2", "gemma3"])
def test_the_type_of_the_model_stays(
    architecture: str, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = opened(model_folder(architecture), "int8", torch.bfloat16)
    assert all(isinstance(layer, FusedLayer) for layer in layers(mine))
    result = mine.forward([Row([5, 9], [0, 1], mine.new_tail(2), logits="all")])[0]
    assert result.logits is not None and result.logits.dtype == result.hidden.dtype == torch.bfloat16
    theirs = unfused(model_folder(architecture), "int8", monkeypatch, torch.bfloat16)
    other = theirs.forward([Row([5, 9], [0, 1], theirs.new_tail(2), logits="all")])[0].logits
    assert other is not None
    assert nn.functional.cosine_similarity(result.logits.float(), other.float(), -1).min() > 0.99


def test_norms_are_as_exact_as_the_layer_uses_them() -> None:
    """Gemma adds 1 to its weights in fp32; in bf16 the sum would be rounded."""
    module = Gemma3RMSNorm(64).bfloat16()
    module.weight.data = torch.linspace(-0.9, 0.9, 64).bfloat16()
    torch.testing.assert_close(fused.norm_of(module, 64).weight, 1 + module.weight.float(), atol=1e-6, rtol=1e-6)


def test_weights_are_counted_as_before(model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for architecture in ("qwen2", "gemma3"):
        mine = opened(model_folder(architecture), "int8").parameter_bytes
        theirs = unfused(model_folder(architecture), "int8", monkeypatch).parameter_bytes
        assert mine == theirs


def test_layers_of_another_form_stay(model_folder: Callable[[str], Path]) -> None:
    """Granite's have all parts under the usual names, and multiply what they add to the residual stream."""
    assert not any(isinstance(layer, FusedLayer) for layer in layers(opened(model_folder("granite"), "int8")))


def otherwise_far_away(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """As Ministral 3, which scales its queries from some position on."""

    def changed(hidden: torch.Tensor, position_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return forward(hidden, position_ids=position_ids, **kwargs) * (1 + 0.2 * (position_ids > 400))[..., None]

    return changed


@pytest.mark.parametrize(
    "spoil",
    [
        lambda layer: layer.self_attn.register_forward_hook(lambda _module, _args, out: (out[0] * 1.1, out[1])),
        lambda layer: layer.mlp.register_forward_hook(lambda _module, _args, out: out * 0.9),
        lambda layer: setattr(layer.mlp, "act_fn", nn.ReLU()),
        lambda layer: setattr(layer.input_layernorm, "forward", lambda x: x),
        lambda layer: setattr(layer.self_attn, "o_proj", nn.Linear(64, 64)),
        lambda layer: setattr(layer, "forward", otherwise_far_away(layer.forward)),
        lambda layer: delattr(layer.mlp, "act_fn") or setattr(layer.mlp, "act_fn", lambda x: x),
    ],
)
def test_a_layer_that_gives_something_else_stays(
    spoil: Callable[[Any], None], model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = unfused(model_folder("qwen2"), "int8", monkeypatch)
    decoder = found.model.get_decoder()
    spoil(decoder.layers[1])
    assert fuse(decoder, found.max_context, found.layout.dtype) == len(decoder.layers) - 1
    assert not isinstance(decoder.layers[1], FusedLayer)


def test_sizes_that_do_not_fit_are_refused(model_folder: Callable[[str], Path]) -> None:
    """The kernels read and write what they are told to: a gate in the queries, say, would lie behind their room."""
    parts = layers(opened(model_folder("qwen3"), "int8"))[0].kernels.parts  # type: ignore[union-attr]
    wide = native.Linear(native.pack(torch.randn(400, 64), 8), None, 8, 400)
    short = native.Linear(native.pack(torch.randn(64, 32), 8), None, 8, 64)
    for name, other in (("qkv", wide), ("output", short), ("down", short), ("gate_up", short)):
        with pytest.raises(ValueError, match=name):
            native.LayerKernels(replace(parts, **{name: other}), 0)
    uneven = native.Linear(native.pack(torch.randn(48, 64), 8), None, 8, 48)
    with pytest.raises(ValueError, match="24 gates are not a multiple of 16"):
        native.LayerKernels(replace(parts, gate_up=uneven), 0)
    with pytest.raises(ValueError, match="norm"):
        native.LayerKernels(replace(parts, second=native.Norm(torch.ones(8), 1e-6)), 0)
    with pytest.raises(ValueError, match="not of 3 tokens"):
        native.LayerKernels(parts, 0).before(torch.zeros(3, 64), torch.zeros(3, 26), torch.zeros(3, 26))


def test_what_is_not_finite_stays_in_its_row(model_folder: Callable[[str], Path]) -> None:
    layer: Any = layers(opened(model_folder("qwen2"), "int8"))[0]
    around = layer.kernels
    torch.manual_seed(3)
    hidden, read = torch.randn(6, 64), torch.randn(6, 4, 16)
    angles = torch.randn(6, 16), torch.randn(6, 16)
    fine = around.before(hidden, *angles), around.after(hidden, read)
    hidden[2, 5] = float("nan")
    broken = around.before(hidden, *angles), around.after(hidden, read)
    others = [0, 1, 3, 4, 5]
    assert broken[0][:, 2].isnan().all() and broken[1][2].isnan().all()
    assert torch.equal(broken[0][:, others], fine[0][:, others]) and torch.equal(broken[1][others], fine[1][others])
