"""A transformers configuration from a GGUF file's metadata.

transformers reads these files, too, but ignores some of their keys: in version 5.24 RoPE scaling, Qwen3's head size,
and Gemma's attention scale, soft caps and sliding pattern are its classes' defaults, whatever the file says. This reads
what llama.cpp reads (`load_arch_hparams` in its src/models).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from warpcortex_cli.errors import ModelError
from warpcortex_cli.gguf.header import Header

_AGAIN = "Copy or pull the file again."
_OTHER = "Choose another model; Llama, Mistral, Qwen2, Qwen3, Phi-3 and Gemma 2 and 3 are supported as GGUF."


def configured(header: Header, factors: Callable[[str], list[float]]) -> dict[str, Any]:
    """The values of a configuration, including `model_type`.

    Args:
        header: of the file, whose architecture is supported.
        factors: reads a small tensor of the file by name, for the factors of the rotary embedding.

    Raises:
        ModelError: metadata is missing, inconsistent, or states something that is not supported.
    """
    kind = header.architecture
    _check_layers(header, kind)
    values = _common(header, kind)
    values |= {"gemma2": _gemma2, "gemma3": _gemma3, "phi3": _phi3}.get(kind, _plain)(header, kind)
    values["rope_parameters"] = _rope(header, kind, values, factors)
    return values


def _check_layers(header: Header, kind: str) -> None:
    """Compares the number of layers with the tensors, before anything is made for each layer."""
    count, held = header.whole(f"{kind}.block_count"), len({n.split(".")[1] for n in header.tensors if n[:4] == "blk."})
    if count > held:
        raise ModelError(f"{header.name} is incomplete: it states {count} layers and holds {held}.", _AGAIN)


def _common(header: Header, kind: str) -> dict[str, Any]:
    hidden, heads = header.whole(f"{kind}.embedding_length"), header.whole(f"{kind}.attention.head_count")
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2 or embedding.shape[1] != hidden or not heads or not hidden:
        raise ModelError(f"{header.name} is damaged (its sizes do not fit its embedding).", _AGAIN)
    head_dim = header.whole(f"{kind}.attention.key_length", hidden // heads)
    inner = header.whole(f"{kind}.feed_forward_length")
    for name, inputs in (("blk.0.attn_output.weight", heads * head_dim), ("blk.0.ffn_down.weight", inner)):
        found = header.tensors.get(name)
        if found is not None and found.shape[-1] != inputs:  # before a model of that size is made
            raise ModelError(f"{header.name} is damaged (its sizes do not fit {name}).", _AGAIN)
    if header.whole(f"{kind}.attention.value_length", head_dim) != head_dim:
        raise ModelError(f"{header.name} has keys and values of different sizes, which is not supported.", _OTHER)
    return {
        "model_type": kind,
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": header.whole(f"{kind}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.whole(f"{kind}.attention.head_count_kv", heads) or heads,
        "head_dim": head_dim,
        "max_position_embeddings": header.whole(f"{kind}.context_length"),
        "rms_norm_eps": header.number(f"{kind}.attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _plain(header: Header, kind: str) -> dict[str, Any]:
    """Llama, Mistral, Qwen2, Qwen3."""
    tensors = header.tensors
    found: dict[str, Any] = {
        "attention_bias": any(f"blk.0.attn_{part}.bias" in tensors for part in ("q", "k", "v", "output", "qkv")),
    }
    if kind == "llama":
        found["mlp_bias"] = any(f"blk.0.ffn_{part}.bias" in tensors for part in ("gate", "up", "down"))
        window = header.whole("llama.attention.sliding_window", 0)
        if window:
            found |= {"model_type": "mistral", "sliding_window": window}
    elif header.whole(f"{kind}.attention.sliding_window", 0):
        raise ModelError(f"{header.name} has sliding windows, which are not supported for {kind}.", _OTHER)
    return found


def _gemma(header: Header, kind: str, pattern: int, largest: int) -> dict[str, Any]:
    """What Gemma 2 and 3 share. Only the model of `largest` layers scales attention by the mean head size."""
    layers, heads = header.whole(f"{kind}.block_count"), header.whole(f"{kind}.attention.head_count")
    hidden = header.whole(f"{kind}.embedding_length")
    scalar = header.whole(f"{kind}.attention.key_length", hidden // max(1, heads))
    if layers == largest:
        scalar = hidden // max(1, heads)
    scale = header.number(f"{kind}.attention.scale", 0)
    return {
        "query_pre_attn_scalar": max(1, round(1 / scale**2)) if scale > 0 else scalar,
        "layer_types": _layer_types(header, kind, layers, pattern),
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }


def _layer_types(header: Header, kind: str, layers: int, pattern: int) -> list[str]:
    """Every `pattern`-th layer has full attention, unless the file says otherwise."""
    key = f"{kind}.attention.sliding_window_pattern"
    given = header.numbers(key)
    if given:
        slides = [bool(s) for s in given]
    else:
        pattern = header.whole(key, pattern)
        slides = [bool(pattern) and i % pattern < pattern - 1 for i in range(layers)]
    if len(slides) != layers:
        raise ModelError(f"{header.name} is damaged ({key} has {len(slides)} values).", _AGAIN)
    return ["sliding_attention" if s else "full_attention" for s in slides]


def _gemma2(header: Header, kind: str) -> dict[str, Any]:
    return {
        **_gemma(header, kind, pattern=2, largest=46),
        **_windows(header, kind, 4096),
        "attn_logit_softcapping": header.number(f"{kind}.attn_logit_softcapping", 50.0) or None,
        "final_logit_softcapping": header.number(f"{kind}.final_logit_softcapping", 30.0) or None,
    }


def _gemma3(header: Header, kind: str) -> dict[str, Any]:
    return {
        **_gemma(header, kind, pattern=6, largest=62),
        **_windows(header, kind, 0),
        "model_type": "gemma3_text",
        "final_logit_softcapping": header.number(f"{kind}.final_logit_softcapping", 0) or None,
    }


def _windows(header: Header, kind: str, usual: int) -> dict[str, Any]:
    """The width of sliding windows; with 0 no layer has one."""
    window = header.whole(f"{kind}.attention.sliding_window", usual)
    if not window:
        return {"layer_types": ["full_attention"] * header.whole(f"{kind}.block_count")}
    return {"sliding_window": window}


def _phi3(header: Header, kind: str) -> dict[str, Any]:
    length = header.whole(f"{kind}.context_length")
    return {
        "sliding_window": header.whole(f"{kind}.attention.sliding_window", 0) or None,
        "original_max_position_embeddings": header.whole(f"{kind}.rope.scaling.original_context_length", length),
    }


# -- the rotary embedding ------------------------------------------------------------------------------------


def _rope(
    header: Header, kind: str, values: Mapping[str, Any], factors: Callable[[str], list[float]]
) -> dict[str, Any]:
    base = header.number(f"{kind}.rope.freq_base", 10_000.0)
    dims = header.whole(f"{kind}.rope.dimension_count", values["head_dim"])
    plain: dict[str, Any] = {"rope_type": "default", "rope_theta": base}
    if kind == "phi3":
        plain["partial_rotary_factor"] = dims / values["head_dim"]
    elif dims != values["head_dim"]:
        raise ModelError(
            f"{header.name} rotates only part of each head, which is not supported for its architecture.", _OTHER
        )
    found = plain | _scaling(header, kind, values, factors)
    if kind != "gemma3":
        return found
    local = header.number(f"{kind}.rope.freq_base_swa", 10_000.0)
    return {"full_attention": found, "sliding_attention": {"rope_type": "default", "rope_theta": local}}


def _scaling(
    header: Header, kind: str, values: Mapping[str, Any], factors: Callable[[str], list[float]]
) -> dict[str, Any]:
    prefix = f"{kind}.rope.scaling"
    length = values["max_position_embeddings"]
    original = header.whole(f"{prefix}.original_context_length", length) or length
    scaling = header.text(f"{prefix}.type") or "linear"
    factor = header.number(f"{prefix}.factor", header.number(f"{kind}.rope.scale_linear", 0)) or 1.0
    attention = header.number(f"{prefix}.attn_factor", 1.0)
    longer, shorter = "rope_factors_long.weight", "rope_factors_short.weight"
    if scaling == "longrope" or longer in header.tensors:
        if longer not in header.tensors or shorter not in header.tensors:
            raise ModelError(f"{header.name} lacks the factors of its rotary embedding.", _AGAIN)
        return {
            "rope_type": "longrope",
            "long_factor": factors(longer),
            "short_factor": factors(shorter),
            "factor": length / original,
            "original_max_position_embeddings": original,
            "attention_factor": attention,
        }
    if "rope_freqs.weight" in header.tensors:  # Llama 3: each frequency is divided by its own factor, at any length
        each = factors("rope_freqs.weight")
        return {
            "rope_type": "longrope",
            "long_factor": each,
            "short_factor": each,
            "factor": 1.0,
            "original_max_position_embeddings": length,
            "attention_factor": attention,
        }
    if factor == 1.0 or scaling == "none":
        return {}
    if scaling == "linear":
        return {"rope_type": "linear", "factor": factor}
    if scaling == "yarn":
        scale = 0.1 * math.log(max(factor, 1.0))
        usual = (1.0 + scale) / (1.0 + scale * header.number(f"{prefix}.yarn_log_multiplier", 0))
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
            "attention_factor": attention * header.number(f"{prefix}.yarn_attn_factor", usual),
            "beta_fast": header.number(f"{prefix}.yarn_beta_fast", 32.0),
            "beta_slow": header.number(f"{prefix}.yarn_beta_slow", 1.0),
        }
    raise ModelError(f"{header.name} uses rope scaling {scaling[:40]!r}, which is not supported.", _OTHER)
