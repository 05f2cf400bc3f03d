"""A model with weights, or sums of them, that are no finite numbers is refused when it is loaded, in every type."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from warpcortex_cli.errors import ModelError
from warpcortex_cli.prism import native
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import ModelSource
from warpcortex_cli.prism.support import more_exact

needs_kernels = pytest.mark.skipif(not native.usable(), reason="there is no C++ compiler")
KINDS = [
    ("none", "auto"),
    ("none", "bf16"),
    ("int8", "auto"),
    ("int8", "fp32"),
    *(pytest.param(kind, "auto", marks=needs_kernels) for kind in ("bf16", "int4")),
]


@pytest.fixture
def load(model_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., Prism]:
    """Opens a tiny Qwen2 of which one weight was changed."""

    def opened(tensor: str, change: Callable[[torch.Tensor], object], quantize: str, dtype: str) -> Prism:
        folder = Path(shutil.copytree(model_folder("qwen2"), tmp_path / "tiny"))
        weights = load_file(folder / "model.safetensors")
        change(weights[tensor])
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return Prism.load(ModelSource("folder", folder, "tiny"), "cpu", dtype, quantize)

    return opened


@pytest.mark.parametrize(("quantize", "dtype"), KINDS)
@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        ("model.layers.1.mlp.down_proj.weight", "nan"),
        ("lm_head.weight", "inf"),
        ("model.embed_tokens.weight", "-inf"),
        ("model.layers.0.self_attn.q_proj.bias", "nan"),
        ("model.norm.weight", "nan"),
    ],
)
def test_a_weight_that_is_no_number_is_named(
    tensor: str, value: str, quantize: str, dtype: str, load: Callable[..., Prism]
) -> None:
    def change(weight: torch.Tensor) -> None:
        weight.view(-1)[7] = float(value)

    with pytest.raises(ModelError) as told:
        load(tensor, change, quantize, dtype)
    assert told.value.message.startswith(f"tiny holds weights that are no finite numbers, in {tensor} (")
    assert told.value.hint == "Copy or pull it again, or choose another one."


@pytest.mark.parametrize(
    ("quantize", "dtype", "factor", "hint"),
    [
        ("none", "fp16", 3e4, "--dtype bf16 or fp32"),
        ("none", "fp32", 1e38, "in fp32, the widest type"),
        ("int8", "auto", 1e38, "--quantize none --dtype fp32"),
        pytest.param("int4", "auto", 1e38, "--quantize none --dtype fp32", marks=needs_kernels),
        pytest.param("bf16", "auto", 1e38, "--quantize none --dtype fp32", marks=needs_kernels),
    ],
)
def test_sums_that_are_too_large_are_seen(
    quantize: str, dtype: str, factor: float, hint: str, load: Callable[..., Prism]
) -> None:
    with pytest.raises(ModelError) as told:
        load("model.layers.1.mlp.down_proj.weight", lambda w: w.mul_(factor), quantize, dtype)
    assert "computes numbers that are not finite" in told.value.message
    assert told.value.hint is not None and hint in told.value.hint


def test_large_weights_whose_sum_is_not_finite_are_served(load: Callable[..., Prism]) -> None:
    """The last norm makes up for them."""
    prism = load("model.embed_tokens.weight", lambda w: w.fill_(1e35).view(-1)[::2].mul_(-1), "none", "fp32")
    assert prism.vocab_size == 320


def test_fp16_is_said_to_be_narrow_where_its_weights_are_infinite(load: Callable[..., Prism]) -> None:
    with pytest.raises(ModelError, match=r"lm_head\.weight \(float16\)") as told:
        load("lm_head.weight", lambda w: w.view(-1)[:1].fill_(1e6), "none", "fp16")
    assert told.value.hint == more_exact(torch.float16)
