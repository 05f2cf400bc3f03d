"""GGUF files for tests, written as llama.cpp's converters write them, with the gguf package's own names and writer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

# Of transformers' model types: llama.cpp's name, and whether heads are interleaved and norms are stored plus one.
_FAMILIES = {
    "llama": ("llama", True, False),
    "mistral": ("llama", True, False),
    "qwen2": ("qwen2", False, False),
    "qwen3": ("qwen3", False, False),
    "phi3": ("phi3", False, False),
    "gemma2": ("gemma2", False, True),
    "gemma3_text": ("gemma3", False, True),
}
Pack = Callable[[np.ndarray, str], tuple[np.ndarray, GGMLQuantizationType]]


def as_fp32(values: np.ndarray, name: str) -> tuple[np.ndarray, GGMLQuantizationType]:
    return values.astype(np.float32), GGMLQuantizationType.F32


def packed_as(kind: str) -> Pack:
    """Matrices in a type that the gguf package can write, the rest in fp32."""
    number = GGMLQuantizationType[kind]

    def pack(values: np.ndarray, name: str) -> tuple[np.ndarray, GGMLQuantizationType]:
        if values.ndim < 2:
            return as_fp32(values, name)
        return gguf.quants.quantize(values.astype(np.float32), number), number

    return pack


def random_blocks(kind: str, rows: int, columns: int, seed: int = 5) -> np.ndarray:
    """Bytes of a type, with any levels and small, finite scales: uint8 [rows, bytes]."""
    number = GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[number]
    made = np.random.default_rng(seed)
    raw = made.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
    halves = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q2_K": (80, 82), "Q6_K": (208,)}
    places = {"Q3_K": (108,), **halves}.get(kind, (0,))
    for place in places:
        scales = made.uniform(-0.02, 0.02, raw.shape[:2]).astype(np.float16)
        raw[..., place : place + 2] = scales[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


def permuted(values: np.ndarray, heads: int) -> np.ndarray:
    """`LlamaModel.permute` of llama.cpp's conversion/llama.py."""
    return (
        values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    )


def write_model(
    folder: Path,
    path: Path,
    pack: Pack = as_fp32,
    metadata: Mapping[str, Any] | None = None,
    change: Callable[[dict[str, np.ndarray]], None] | None = None,
    tokenizer: bool = True,
) -> PreTrainedModel:
    """Writes the model of a folder as GGUF.

    Args:
        metadata: what is said besides, or otherwise.
        change: may change tensors, by their names in the file, before they are written.

    Returns:
        The model of transformers.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    config = model.config
    name, interleaved, shifted = _FAMILIES[config.model_type]
    writer = GGUFWriter(path, name)
    said = _described(name, config) | (_tokenizer(folder) if tokenizer else {}) | dict(metadata or {})
    for key, value in said.items():
        _add(writer, key, value)
    tensors = _tensors(model, name, interleaved, shifted)
    if change:
        change(tensors)
    for key, values in tensors.items():
        data, kind = pack(values, key)
        writer.add_tensor(key, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _tensors(model: PreTrainedModel, name: str, interleaved: bool, shifted: bool) -> dict[str, np.ndarray]:
    config = model.config
    arch = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == name)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    found = {}
    for parameter, tensor in model.named_parameters():  # tied ones once
        stem, _, what = parameter.rpartition(".")
        values = tensor.detach().numpy()
        if interleaved and stem.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if stem.endswith("q_proj") else config.num_key_value_heads
            values = permuted(values, heads)
        if shifted and stem.endswith("norm"):
            values = values + 1
        key = names.get_name(stem)
        assert key is not None, parameter
        found[f"{key}.{what}"] = values
    return found


def _described(name: str, config: PreTrainedConfig) -> dict[str, Any]:
    """Keys that llama.cpp's converters write."""
    rope = config.rope_parameters
    whole = rope.get("full_attention", rope)
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    said = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.freq_base": float(whole["rope_theta"]),
        "rope.dimension_count": int(head_dim * whole.get("partial_rotary_factor", 1.0)),
    }
    if name.startswith("gemma") or name == "phi3":
        said["attention.sliding_window"] = config.sliding_window or 0
    if name == "gemma2":
        said["attn_logit_softcapping"] = float(config.attn_logit_softcapping)
        said["final_logit_softcapping"] = float(config.final_logit_softcapping)
    if whole["rope_type"] in ("linear", "yarn"):
        said["rope.scaling.type"] = whole["rope_type"]
        said["rope.scaling.factor"] = float(whole["factor"])
    if whole["rope_type"] == "yarn":
        said["rope.scaling.original_context_length"] = whole["original_max_position_embeddings"]
    return {f"{name}.{key}": value for key, value in said.items()}


def _tokenizer(folder: Path) -> dict[str, Any]:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [token for token, _ in vocabulary],
        "tokenizer.ggml.token_type": [3 if number in special else 1 for _, number in vocabulary],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": tokenizer.chat_template,
    }


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif value is not None:
        writer.add_uint32(key, value)
