"""A folder whose tensors are the model's parameters is read as transformers reads it; another one is left to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from warpcortex_cli.errors import ModelError
from warpcortex_cli.prism import load
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.source import ModelSource

PLAIN = ["llama", "mistral", "qwen2", "qwen3", "phi3", "smollm2", "gemma2", "gemma3", "granite", "llama_yarn"]


@pytest.fixture
def folder(model_folder: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda architecture: Path(shutil.copytree(model_folder(architecture), tmp_path / "tiny"))


def loaded(folder: Path, dtype: str = "fp32") -> torch.nn.Module:
    return load.load_prism_parts(ModelSource("folder", folder, "tiny"), LoadOptions("cpu", dtype))[0]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("architecture", PLAIN)
def test_it_is_what_transformers_loads(
    architecture: str, dtype: str, folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder(architecture)
    want = AutoModelForCausalLM.from_pretrained(path, dtype=load.DTYPES[dtype])
    monkeypatch.setattr(load, "_converted_model", lambda *_: pytest.fail("it is plain"))
    found = loaded(path, dtype)
    named, buffers = dict(found.named_parameters()), dict(found.named_buffers())
    assert named.keys() == dict(want.named_parameters()).keys()
    assert all(p.dtype == want.dtype and torch.equal(named[name], p) for name, p in want.named_parameters())
    assert all(torch.equal(buffers[name], b) for name, b in want.named_buffers())
    assert found.generation_config.to_dict() == want.generation_config.to_dict()  # type: ignore[union-attr, operator]
    assert len({id(p) for p in found.parameters()}) == len({id(p) for p in want.parameters()}), "tied as there"


@pytest.mark.parametrize("change", ["a prefix less", "tied and stored", "another type", "another shape", "one less"])
def test_another_one_is_left_to_transformers(
    change: str, folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder("smollm2")
    weights = load_file(path / "model.safetensors")
    if change == "a prefix less":
        weights = {name.removeprefix("model."): weight for name, weight in weights.items()}
    elif change == "tied and stored":
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    elif change == "another type":
        weights["model.norm.weight"] = weights["model.norm.weight"].double()
    elif change == "another shape":
        weights["model.norm.weight"] = weights["model.norm.weight"][1:].clone()
    else:
        del weights["model.norm.weight"]
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    converted = load._converted_model
    asked: list[bool] = []
    monkeypatch.setattr(load, "_converted_model", lambda *a: asked.append(True) or converted(*a))
    if change in ("another shape", "one less"):
        with pytest.raises(ModelError):
            loaded(path)
    else:
        loaded(path)
    assert asked == [True]


def test_tensors_of_nobody_are_passed_over(folder: Callable[[str], Path]) -> None:
    path = folder("llama")
    weights = load_file(path / "model.safetensors")
    save_file({**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}, path / "model.safetensors")
    found = dict(loaded(path).named_parameters())
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
