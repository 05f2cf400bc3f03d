"""Which tensors of a GGUF file make up a transformers parameter, and how llama.cpp's converters changed them.

They rename tensors, interleave the two halves of Llama's query and key heads (since its rotary embedding rotates
neighbours), add one to Gemma's norms, and may join q, k and v. Rows are whole in every type, so all but the added one
is undone on packed rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from warpcortex_cli.gguf.header import TensorInfo

_LAYER = re.compile(r"model\.layers\.(?P<number>\d+)\.(?P<rest>.+)\.(?P<what>weight|bias)")
_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_COMMON = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA = {
    **_COMMON,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_PHI3 = {**_COMMON, "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
_QKV = ("attn_q", "attn_k", "attn_v")


@dataclass(frozen=True)
class Origin:
    """Where a parameter comes from.

    Attributes:
        names: of tensors in the file, whose rows are concatenated; empty: the parameter is zero.
        rows: the range of these rows, [first, stop); None: all.
        heads: number of heads with interleaved halves; 0: none.
        shift: added to each value.
    """

    names: tuple[str, ...]
    rows: tuple[int, int] | None = None
    heads: int = 0
    shift: float = 0.0


@dataclass(frozen=True)
class FileRows:
    """Rows of a matrix as they lie in a file, one after the other.

    Attributes:
        offset: of the first row, in bytes.
        count: number of rows.
        heads: number of heads whose halves are interleaved, as in `Origin`.
    """

    path: Path
    offset: int
    count: int
    heads: int = 0


@dataclass(frozen=True)
class Layout:
    """The layout of one architecture.

    Attributes:
        names: of a layer's parts, from transformers' to the file's.
        interleaved: whether the halves of query and key heads are interleaved.
        shifted: whether norms are stored plus one.
    """

    names: Mapping[str, str]
    interleaved: bool = False
    shifted: bool = False

    def origin(self, parameter: str, tensors: Mapping[str, TensorInfo], sizes: tuple[int, int, int]) -> Origin:
        """Where a parameter of the model is stored.

        Args:
            parameter: its name in transformers.
            tensors: of the file.
            sizes: heads, KV heads, head size.

        Raises:
            LookupError: with the name of the missing tensor.
        """
        found = self._found(parameter, tensors, sizes)
        return replace(found, shift=-1.0) if self.shifted and parameter.endswith("norm.weight") else found

    def _found(self, parameter: str, tensors: Mapping[str, TensorInfo], sizes: tuple[int, int, int]) -> Origin:
        if parameter in _TOP:
            name = _TOP[parameter]
            if name == "output.weight" and name not in tensors:
                name = "token_embd.weight"  # tied
            return _one(name, tensors)
        match = _LAYER.fullmatch(parameter)
        part = self.names.get(match["rest"]) if match else None
        if match is None or part is None:
            raise LookupError(parameter)
        prefix, suffix = f"blk.{match['number']}.", f".{match['what']}"
        heads, kv_heads, head_dim = sizes
        rows = {"attn_q": heads * head_dim, "attn_k": kv_heads * head_dim, "attn_v": kv_heads * head_dim}
        turned = {"attn_q": heads, "attn_k": kv_heads}.get(part, 0) if self.interleaved else 0
        name = prefix + part + suffix
        if name in tensors:
            return Origin((name,), heads=turned)
        joint = f"{prefix}attn_qkv{suffix}"
        if part in rows and joint in tensors:
            start = sum(rows[p] for p in _QKV[: _QKV.index(part)])
            return Origin((joint,), rows=(start, start + rows[part]), heads=turned)
        if part == "attn_qkv" and all(prefix + p + suffix in tensors for p in _QKV):
            return Origin(tuple(prefix + p + suffix for p in _QKV))
        if (
            match["what"] == "bias"
        ):  # transformers gives q, k, v and o a bias each; llama.cpp stores those that are not 0
            return Origin(())
        raise LookupError(name)


def _one(name: str, tensors: Mapping[str, TensorInfo]) -> Origin:
    if name not in tensors:
        raise LookupError(name)
    return Origin((name,))


LAYOUTS = {
    "llama": Layout(_COMMON, interleaved=True),
    "qwen2": Layout(_COMMON),
    "qwen3": Layout(_COMMON),
    "gemma2": Layout(_GEMMA, shifted=True),
    "gemma3": Layout(_GEMMA, shifted=True),
    "phi3": Layout(_PHI3),
}
