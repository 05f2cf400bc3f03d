"""Do our scorers of other papers select the same tokens as `kvpress`? `python -m warpcortex_cli.lab.agreement`.

kvpress needs an older transformers than we do, so it runs in its own environment, in this package's folder:

    python -m venv kv && kv/bin/pip install kvpress==0.5.5
    PYTHONPATH=. kv/bin/python -m warpcortex_cli.lab.agreement

A Qwen2 of two layers with random weights reads random tokens. Both score its second layer's keys, values and queries
(the newest, for ExpectedAttention all); the best k are compared among tokens that neither always keeps.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from warpcortex_cli.eval.rivals import METHODS, Expected, ahead
from warpcortex_cli.prism.rope import Rope
from warpcortex_cli.synapse.landmarks import LayerView

_WINDOW = 32  # newest tokens whose queries are used
_POOL = 7  # SnapKV's pooling width
_TOKENS, _BUDGETS = 600, (32, 64, 128, 256)


class Layer(NamedTuple):
    """A layer's input, keys and values [1, kv_heads, L, head_dim], and cos and sin of positions."""

    module: Any
    rope: Rope
    hidden: Tensor
    keys: Tensor
    values: Tensor
    angles: tuple[Tensor, Tensor]


def read(seed: int) -> Layer:
    """The last layer of a small random model that has read random tokens."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=300, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.3,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    module: Any = model.model.layers[-1].self_attn
    seen: dict[str, Any] = {}
    module.register_forward_pre_hook(lambda _, __, given: seen.update(given), with_kwargs=True)
    cache = DynamicCache(config=config)
    with torch.inference_mode():
        model(torch.randint(0, 300, (1, _TOKENS)), past_key_values=cache, use_cache=True)
    module.rotary_emb = model.model.rotary_emb
    last: Any = cache.layers[-1]
    return Layer(
        module,
        Rope(model.model, ["full_attention"]),
        seen["hidden_states"],
        last.keys,
        last.values,
        seen["position_embeddings"],
    )


def view_of(layer: Layer, queries: Tensor, method: str) -> LayerView:
    """The input of our scorer `method`. `queries`: unrotated, of all tokens, [1, heads, L, head_dim]."""
    from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

    keys, values = layer.keys[0], layer.values[0]
    if METHODS[method].ahead:
        seen = ahead(layer.rope, [queries[0, :, Expected.sinks :]], keys.shape[1])[0]
    else:
        newest = queries[:, :, -_WINDOW:]
        cos, sin = (part[:, -_WINDOW:] for part in layer.angles)
        seen = apply_rotary_pos_emb(newest, newest, cos, sin)[0][0]
    always = METHODS[method].landmarks.always(keys.shape[1], 64)
    scale = float(keys.shape[2] ** -0.5)
    return LayerView(keys - keys.mean(1, keepdim=True), [(keys, values)], seen, always, 64, scale)


def common(ours: Tensor, theirs: Tensor, free: Tensor, k: int) -> float:
    """The overlap of the k best tokens of `free` [n] by both scores [kv_heads, L], as a share."""
    chosen = [score[:, free].topk(k, dim=1).indices.tolist() for score in (ours, theirs)]
    return fmean(len(set(a) & set(b)) / k for a, b in zip(*chosen, strict=True))


def compare(kvpress: Any, seed: int) -> dict[str, dict[int, float]]:
    """The share of tokens selected by both, by scorer and k."""
    layer = read(seed)
    presses = {
        "knorm": kvpress.KnormPress(0.5),
        "keydiff": kvpress.KeyDiffPress(0.5),
        "snapkv": kvpress.SnapKVPress(0.5, window_size=_WINDOW, kernel_size=_POOL),
        "tova": kvpress.TOVAPress(0.5),
        "expected": kvpress.ExpectedAttentionPress(0.5),
    }
    with torch.inference_mode():
        utils = importlib.import_module("kvpress.utils")
        queries = utils.get_prerope_query_states(layer.module, layer.hidden)
        free = torch.arange(Expected.sinks, _TOKENS - _WINDOW)
        found = {}
        for name, press in presses.items():
            given = {"position_embeddings": layer.angles}
            theirs = press.score(layer.module, layer.hidden, layer.keys, layer.values, None, given)[0]
            ours = METHODS[name].landmarks.score(view_of(layer, queries, name))
            found[name] = {k: common(ours, theirs, free, k) for k in _BUDGETS}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=2037)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        kvpress: Any = importlib.import_module("kvpress")
    except ImportError:
        print("kvpress is not installed here; --help says how to install it in its own environment.", file=sys.stderr)
        sys.exit(2)
    found = compare(kvpress, args.seed)
    if args.json:
        print(json.dumps({"schema_version": 1, "seed": args.seed, "common": found}))
        return
    print(f"tokens chosen by both, of k, {_TOKENS} tokens, seed {args.seed}")
    print("          ", *(f"k = {k:<4}" for k in _BUDGETS))
    for name, shares in found.items():
        print(f"{name:10}", *(f"{share:8.1%}" for share in shares.values()))


if __name__ == "__main__":
    main()
