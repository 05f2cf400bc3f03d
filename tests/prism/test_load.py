"""Loading weights: devices, dtypes, and models that must be refused with a reason."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen2Config

from warpcortex_cli.errors import MemoryLimitError, ModelError, UsageError
from warpcortex_cli.prism import load, native
from warpcortex_cli.prism.fingerprint import fingerprint
from warpcortex_cli.prism.folder import stored_tensors
from warpcortex_cli.prism.load import (
    choose_device,
    choose_dtype,
    choose_quantize,
    load_prism_parts,
    stored_values,
)
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row
from warpcortex_cli.prism.source import ModelSource, resolve_model


@pytest.fixture
def folder(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A tiny Qwen2 that may be broken."""
    return Path(shutil.copytree(model_folder("qwen2"), tmp_path / "tiny"))


def attempt(folder: Path, dtype: str = "auto") -> None:
    load_prism_parts(ModelSource("folder", folder, "tiny"), LoadOptions("cpu", dtype))


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
    model, tokenizer = load_prism_parts(source, LoadOptions("cpu", name))
    assert not model.training
    assert {(p.dtype, p.requires_grad) for p in model.parameters()} == {(dtype, False)}
    assert len(tokenizer) > 0
    stored = load_file(folder / "model.safetensors")
    assert stored_values(source).parameters == sum(t.numel() for t in stored.values())


@pytest.fixture
def bf16_folder(folder: Path) -> Path:
    """The same, stored as most models are published."""
    stored = load_file(folder / "model.safetensors")
    save_file({n: t.bfloat16() for n, t in stored.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_files_of_one_type_are_loaded_in_it(folder: Path) -> None:
    """Of others none is rounded."""
    source = ModelSource("folder", folder, "tiny")
    assert stored_values(source).dtype is torch.float32
    stored = load_file(folder / "model.safetensors")
    last = max(stored)
    for most, one, known in (
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16, torch.float16),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float64, torch.float64, torch.float32),
    ):
        made = {n: t.to(one if n == last else most) for n, t in stored.items()}
        save_file(made, folder / "model.safetensors", {"format": "pt"})
        assert stored_values(source).dtype is known
        assert choose_quantize(source, LoadOptions("cpu", quantize="auto")) == (
            "bf16" if known is torch.bfloat16 and sys.platform == "linux" and native.usable() else "none"
        )


def test_experts_are_not_packed(bf16_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So their bytes are counted as they will be, and nothing is taken by itself."""
    source = ModelSource("folder", bf16_folder, "tiny")
    stored = load_file(bf16_folder / "model.safetensors")
    expert = torch.zeros(1000, 1000, dtype=torch.bfloat16)
    save_file({**stored, "model.layers.0.mlp.experts.0.up_proj.weight": expert}, bf16_folder / "model.safetensors")
    assert choose_quantize(source, LoadOptions("cpu", quantize="auto")) == "none"
    monkeypatch.setattr(load, "available_memory", lambda: load.HEADROOM + 4_000_000)
    with pytest.raises(MemoryLimitError, match="as int8"):
        load_prism_parts(source, LoadOptions("cpu", "auto", "int8"))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "bf16" if sys.platform == "linux" else "none"),
        ({"kind": "int8"}, "int8"),
        ({"kind": "none"}, "none"),
        ({"dtype": "fp32"}, "none"),
        ({"dtype": "bf16"}, "none"),
        ({"usable": False}, "none"),
        ({"of": "fp32"}, "none"),
        ({"of": "pocket"}, "none"),
    ],
)
def test_weights_that_are_published_in_bf16_are_computed_with_as_they_are(
    changes: dict[str, object],
    kind: str,
    bf16_folder: Path,
    model_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = {"kind": "auto", "dtype": "auto", "usable": True, "of": "bf16", **changes}
    compiled: list[bool] = []
    monkeypatch.setattr(load, "usable", lambda: compiled.append(True) or asked["usable"])
    sources = {
        "bf16": ModelSource("folder", bf16_folder, "tiny"),
        "fp32": ModelSource("folder", model_folder("qwen2"), "tiny"),
        "pocket": ModelSource("pocket", bf16_folder, "pocket"),
    }
    options = LoadOptions("cpu", str(asked["dtype"]), str(asked["kind"]))
    assert choose_quantize(sources[str(asked["of"])], options) == kind
    assert compiled == [] or kind == "bf16" or not asked["usable"]  # it takes seconds, the first time


def test_what_is_quantized_takes_the_memory_of_what_is_packed(
    bf16_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ModelSource("folder", bf16_folder, "tiny")
    for bytes_each, fits in ((3, "bf16"), (9 / 8, "int8")):  # with the scales of its groups
        monkeypatch.setattr(
            load, "available_memory", lambda n=bytes_each: load.HEADROOM + int(n * stored_values(source).parameters)
        )
        with pytest.raises(MemoryLimitError, match="in float32"):
            Prism.load(source, "cpu")
        assert Prism.load(source, "cpu", quantize=fits).dtype is torch.float32
    with pytest.raises(MemoryLimitError, match="as bf16"):
        Prism.load(source, "cpu", quantize="bf16")


LOADED = """
import sys, threading, time
from warpcortex_cli.process import prepare
prepare()
import torch
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model

def own():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon"))

source = resolve_model(sys.argv[1])
Prism.load(source, "cpu", quantize="int8")  # with all that is loaded once
most, before, ended = 0, own(), False

def watch():
    global most
    while not ended:
        most = max(most, own())
        time.sleep(0.001)

thread = threading.Thread(target=watch)
thread.start()
prism = Prism.load(source, "cpu", quantize="int8")
ended = True
thread.join()
print(most - before, prism.parameter_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is read from /proc")
def test_weights_are_packed_out_of_the_files(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """On the way they are never held in memory of the process as a whole."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8}
    config = Qwen2Config(**sizes, num_key_value_heads=2, vocab_size=4096)
    AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(tmp_path)
    for path in model_folder("qwen2").glob("token*"):
        shutil.copy(path, tmp_path)
    done = subprocess.run([sys.executable, "-c", LOADED, str(tmp_path)], capture_output=True, text=True, check=True)
    most, packed = map(int, done.stdout.split())
    assert 30e6 < packed < most < 1.5 * packed


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "phi3", "smollm2", "gemma2", "gemma3"])
def test_it_is_the_same_as_out_of_fp32(architecture: str, model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(model_folder(architecture), tmp_path / "bf16"))
    rounded = {n: t.bfloat16() for n, t in load_file(path / "model.safetensors").items()}
    found, prints = [], []
    for stored in (rounded, {n: t.float() for n, t in rounded.items()}):
        save_file(stored, path / "model.safetensors", {"format": "pt"})
        prism = Prism.load(ModelSource("folder", path, "tiny"), "cpu", quantize="int8")
        row = Row([5, 9, 40, 7], [0, 1, 2, 300], prism.new_tail(4), logits="all")
        found.append(prism.forward([row])[0].logits)
        prints.append(fingerprint(prism))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    assert prints[0] == prints[1], "what was measured or stored for one serves the other"


def test_pocket_reads_text_as_it_was_trained() -> None:
    _, tokenizer = load_prism_parts(resolve_model("pocket"), LoadOptions("cpu", "auto"))
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

    monkeypatch.setattr(load, "fill_all", fails)  # of a folder that is read tensor by tensor
    monkeypatch.setattr(load.AutoModelForCausalLM, "from_pretrained", fails)  # and of one that is converted
    for plain in (load.weights_of, lambda *_: None):
        monkeypatch.setattr(load, "weights_of", plain)
        with pytest.raises(MemoryLimitError, match="too little memory on cpu for tiny"):
            attempt(folder)


def test_code_of_the_folder_never_runs(folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(trap)!r}, 'w')\nclass Own: pass\n")
    change_config(folder, model_type="own_kind", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"})
    with pytest.raises(ModelError, match="requires trust_remote_code, which is never enabled"):
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


def headed(dtype: str, shape: str, offsets: str = "[0, 8]") -> bytes:
    """A file of one tensor of 8 bytes."""
    header = f'{{"a": {{"dtype": {dtype}, "shape": {shape}, "data_offsets": {offsets}}}}}'.encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 200_000) + b"[" * 200_000,  # nested deeper than Python reads
        b"",
        b"no",
        struct.pack("<Q", 2**60),
        struct.pack("<Q", 5) + b"12345",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 9) + b'{"a": 1 }',
        headed('"F32"', '[1, "x"]'),
        headed('"F32"', '{"1": 2}'),
        headed('"F32"', f"[{10**400}]"),
        headed('"F32"', "[1000000000000]"),  # which is not a large model
        headed('"I4"', "[1000000000000]"),
        headed('"F32"', "[-2, -1]"),
        headed('["F32"]', "[2]"),
        headed('"F32"', "[2]", "[8, 0]"),
        headed('"F32"', "[2]", "[0, 8.0]"),
    ],
)
def test_damaged_weights(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        attempt(folder)


def test_half_a_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"damaged \(it is truncated"):
        attempt(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_files_that_are_not_json(folder: Path, name: str) -> None:
    (folder / name).write_text("not json")
    with pytest.raises(ModelError, match=r"cannot be loaded|does not know"):
        attempt(folder)


def test_tensors_of_every_type_are_where_the_header_says(tmp_path: Path) -> None:
    kinds = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64, torch.bool, torch.uint8]
    numbers = torch.arange(6).view(2, 3)
    tensors = {f"{i} {kind}": numbers.to(kind) for i, kind in enumerate(kinds)} | {"empty": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    found = stored_tensors(ModelSource("folder", tmp_path, "mine"))
    assert found.keys() == tensors.keys()
    data = (tmp_path / "model.safetensors").read_bytes()
    for name, tensor in tensors.items():
        stored = found[name]
        held = data[stored.offset : stored.offset + stored.nbytes]
        assert held == bytes(tensor.view(torch.uint8).flatten().tolist()) and stored.shape == tuple(tensor.shape)
