"""Loading weights: devices, dtypes, and models that must be refused with a reason."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from warpcortex_cli.errors import MemoryLimitError, ModelError, UsageError
from warpcortex_cli.prism import load
from warpcortex_cli.prism.load import choose_device, choose_dtype, load_prism_parts, stored_parameters
from warpcortex_cli.prism.source import ModelSource, resolve_model


@pytest.fixture
def folder(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A tiny Qwen2 that may be broken."""
    return Path(shutil.copytree(model_folder("qwen2"), tmp_path / "tiny"))


def attempt(folder: Path, dtype: str = "auto") -> None:
    load_prism_parts(ModelSource("folder", folder, "tiny"), "cpu", dtype)


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("gpu", "cuda:", "cuda:x", "cpu:0", "auto:1", "", "mps:0", "cuda:-1"):
        with pytest.raises(UsageError, match="there is no device"):
            choose_device(name)
    with pytest.raises(ModelError, match="cuda:99 was asked for"):
        choose_device("cuda:99")


def test_dtypes() -> None:
    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu) is torch.float32
    assert choose_dtype("auto", torch.device("mps")) is torch.float16
    assert choose_dtype("bf16", cpu) is torch.bfloat16
    with pytest.raises(UsageError, match="there is no dtype 'int3'"):
        choose_dtype("int3", cpu)


@pytest.mark.parametrize(
    ("name", "dtype"), [("auto", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_model_is_loaded_frozen(folder: Path, name: str, dtype: torch.dtype) -> None:
    source = ModelSource("folder", folder, "tiny")
    model, tokenizer = load_prism_parts(source, "cpu", name)
    assert not model.training
    assert {(p.dtype, p.requires_grad) for p in model.parameters()} == {(dtype, False)}
    assert len(tokenizer) > 0
    stored = load_file(folder / "model.safetensors")
    assert stored_parameters(source) == sum(t.numel() for t in stored.values())


def test_pocket_reads_text_as_it_was_trained() -> None:
    _, tokenizer = load_prism_parts(resolve_model("pocket"), "cpu", "auto")
    text = "Mara keeps ropes: 47, brown, in the old mill.\nÖ \U0001f98a?"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_too_little_memory_is_seen_before_loading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "available_memory", lambda: 2**20)
    with pytest.raises(
        MemoryLimitError, match=r"tiny needs about 0\.3 GiB in float32, and cpu has 0\.0 GiB free"
    ) as caught:
        attempt(folder)
    assert caught.value.exit_code == 4


def test_an_allocation_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(load.AutoModelForCausalLM, "from_pretrained", fails)
    with pytest.raises(MemoryLimitError, match="too little memory on cpu for tiny"):
        attempt(folder)


def test_code_of_the_folder_never_runs(folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(trap)!r}, 'w')\nclass Own: pass\n")
    change_config(folder, model_type="own_kind", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"})
    with pytest.raises(ModelError, match="needs code out of its own repository, and that never runs"):
        attempt(folder)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "nothing_like_it"}, "does not know the architecture of tiny .'nothing_like_it'"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized weights"),
        ({"model_type": "t5"}, "encoder-decoder"),
        ({"model_type": "clip_vision_model"}, "not a language model that writes text"),
        ({"num_hidden_layers": 4}, r"cannot be loaded: .*num_hidden_layers"),
        ({"hidden_size": 32}, "tiny cannot be loaded"),
    ],
)
def test_what_cannot_be_served(folder: Path, changes: dict[str, object], message: str) -> None:
    change_config(folder, **changes)
    with pytest.raises(ModelError, match=message) as caught:
        attempt(folder)
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_a_missing_tensor_is_not_made_up(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"one of its weights is missing \(model\.layers\.1\.mlp\.up_proj\.weight\)"):
        attempt(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no",
        struct.pack("<Q", 2**60),
        struct.pack("<Q", 5) + b"12345",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 9) + b'{"a": 1 }',
    ],
)
def test_damaged_weights(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        attempt(folder)


def test_half_a_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"damaged \(it ends too early"):
        attempt(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_files_that_are_not_json(folder: Path, name: str) -> None:
    (folder / name).write_text("not json")
    with pytest.raises(ModelError, match=r"cannot be loaded|does not know"):
        attempt(folder)
