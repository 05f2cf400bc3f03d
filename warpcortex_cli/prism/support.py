"""Checks whether the engine can serve a model: by its config, and by a trial forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from warpcortex_cli.errors import ModelError
from warpcortex_cli.memory.segment import KVLayout
from warpcortex_cli.prism.attention import Angles, Layer, Limits, running
from warpcortex_cli.prism.low_rank import Adapted
from warpcortex_cli.prism.native import Layers
from warpcortex_cli.prism.rope import Rope, unknown_rope

_SERVED_LAYERS = {"full_attention", "sliding_attention"}
_TRIAL_TOKENS = 4
_TRIAL_DISTANCE = (
    977  # positions between the two copies of each trial token; prime, so that no frequency comes full circle
)
_PART = 16384  # rows of a weight converted to fp32 at once
_HINT = "Choose another model; Llama, Mistral, Qwen2, Qwen3, Phi-3, SmolLM and Gemma are known to work."


def refuse(name: str, reason: str) -> ModelError:
    """The error that says why a model cannot be served."""
    return ModelError(f"warpcortex cannot serve {name}: {reason}.", _HINT)


def check_config(config: Any, name: str) -> None:
    """Refuses a model whose (text) config already rules it out.

    Raises:
        ModelError: with the reason.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise refuse(name, "it is an encoder-decoder model")
    if getattr(config, "use_bidirectional_attention", False) or getattr(config, "is_causal", True) is False:
        raise refuse(name, "its attention is not causal")
    unknown = unknown_rope(config)
    if unknown is not None:
        raise refuse(
            name, f"its rotary embedding is of the type {unknown!r} (rope_type), which transformers does not know"
        )
    strange = sorted(set(getattr(config, "layer_types", None) or ()) - _SERVED_LAYERS)
    if strange:
        raise refuse(
            name,
            f"it has layers of the kind {', '.join(strange)}, which keep no keys and values of all tokens",
        )


def check_tokenizer(tokenizer: Any, vocabulary: int, name: str) -> None:
    """Refuses a tokenizer with tokens that have no embedding: such a token would end a reply with an error.

    Raises:
        ModelError: with the first of these tokens.
    """
    tokens = tokenizer.get_vocab()
    if max(tokens.values(), default=0) >= vocabulary:
        last = max(tokens.items(), key=lambda entry: entry[1])
        raise refuse(
            name,
            f"its tokenizer has a token {last[0]!r} of number {last[1]}, and its embedding ends at {vocabulary - 1}",
        )


def max_context(config: Any) -> int:
    """How many positions the model can be run at.

    LongRoPE changes its frequencies when a context grows past a length, which would invalidate the keys in the cache.
    Up to that length it is an ordinary embedding, so the context ends there. Dynamic NTK does the same at the longest
    length in the config.
    """
    longest: int = getattr(config, "max_position_embeddings", None) or 1 << 20
    rope = getattr(config, "rope_parameters", None) or {}
    for settings in [rope, *(v for v in rope.values() if isinstance(v, dict))]:
        if settings.get("rope_type") == "longrope":
            longest = min(longest, settings.get("original_max_position_embeddings", longest))
    return longest


def check_weights(model: PreTrainedModel, name: str) -> None:
    """Refuses a model with NaN or infinite weights, which quantization would turn into ordinary numbers.

    Raises:
        ModelError: with the first such tensor.
    """
    for tensor, weight in model.named_parameters():
        check_finite(weight.detach(), tensor, name)


def check_finite(weight: Tensor, tensor: str, name: str) -> None:
    """The same for one weight. Weights on meta are checked when they are read."""
    if not weight.is_floating_point() or weight.is_meta:
        return
    parts = (part for part in weight.split(_PART) if len(part)) if weight.dim() else (weight,)
    # A number that is not finite shows in the sum. The sum may also overflow, so then each number is checked.
    if all(bool(p.sum(dtype=torch.float32).isfinite() or p.isfinite().all()) for p in parts):
        return
    kind = str(weight.dtype).removeprefix("torch.")
    hint = "Copy or pull it again, or choose another one."
    raise ModelError(
        f"{name} holds weights that are no finite numbers, in {tensor} ({kind}).",
        more_exact(weight.dtype) if weight.dtype == torch.float16 else hint,
    )


def more_exact(dtype: torch.dtype, quantize: str = "none") -> str:
    """What to try if a model computes something that is not finite."""
    if dtype == torch.float16:
        return "Try --dtype bf16 or fp32: fp16 ends at 65,504."
    if dtype != torch.float32 or quantize != "none":
        return "Try --quantize none --dtype fp32."
    return "It does so in fp32, the widest type that there is: copy or pull the model again, or choose another one."


@dataclass(frozen=True)
class Shape:
    """A model's attention, as a trial shows it.

    Attributes:
        layout: shape of its keys and values.
        heads: query heads of each layer.
        scalings: the factor on the attention scores of each layer.
        rope: its rotary embedding.
    """

    layout: KVLayout
    heads: int
    scalings: tuple[float, ...]
    rope: Rope

    def held(self) -> dict[str, Any]:
        """As JSON types."""
        layout = self.layout
        return {
            "layers": layout.layers, "heads": self.heads, "kv_heads": layout.kv_heads, "head_dim": layout.head_dim,
            "dtype": str(layout.dtype), "device": str(layout.device), "scalings": list(self.scalings),
            "rotated": self.rope.rotated,
        }  # fmt: skip

    @classmethod
    def restored(cls, held: Any, decoder: torch.nn.Module, config: Any) -> Shape:
        """The inverse of `held`. Raises ValueError, KeyError, TypeError or LookupError if it does not fit the model."""
        parameter = next(decoder.parameters())
        layers, heads, kv_heads, head_dim = (int(held[n]) for n in ("layers", "heads", "kv_heads", "head_dim"))
        dtype = getattr(torch, str(held["dtype"]).removeprefix("torch."))
        scalings, rotated = tuple(map(float, held["scalings"])), [bool(r) for r in held["rotated"]]
        if layers != config.num_hidden_layers or not layers == len(scalings) == len(rotated) or heads % kv_heads:
            raise ValueError("these are no layers of the model")
        if str(parameter.device) != held["device"] or not isinstance(dtype, torch.dtype):
            raise ValueError("its keys are elsewhere, or of no type")
        rope = Rope(decoder, layer_kinds(config))
        rope.rotated = rotated
        return cls(KVLayout(layers, kv_heads, head_dim, dtype, parameter.device), heads, scalings, rope)


def layer_kinds(config: Any) -> Sequence[str]:
    """The kind of each layer, from the configuration."""
    return getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers


class Trial:
    """A step in which every token sees only itself. It keeps each layer's input."""

    adapted: Adapted | None = None

    def __init__(self) -> None:
        self.given: dict[int, Layer] = {}

    def through(self, layers: Layers, limits: Limits, angles: Angles, hidden: Tensor) -> Tensor | None:
        return None  # so that each layer attends by itself

    def attend(self, layer: Layer) -> Tensor:
        self.given[layer.number] = layer
        return layer.value.repeat_interleave(layer.query.shape[0] // layer.key.shape[0], 0).transpose(0, 1)


def try_out(model: PreTrainedModel, decoder: torch.nn.Module, config: Any, name: str, quantize: str = "none") -> Shape:
    """Runs a few tokens, each at two positions, and looks at the keys that reach the attention function.

    A token that sees only itself has the same hidden state at every position, so its keys may differ only by their
    rotation. That proves, for each layer, that the keys arrive here and can be moved.

    Args:
        quantize: how its weights are stored, for the message.

    Raises:
        ModelError: with what is wrong.
    """
    layers: int = config.num_hidden_layers
    try:
        rope = Rope(decoder, layer_kinds(config))
    except LookupError as error:
        raise refuse(name, str(error)) from error
    distance = min(_TRIAL_DISTANCE, max_context(config) - 1)
    device: torch.device = next(model.parameters()).device
    tokens = torch.arange(1, 1 + _TRIAL_TOKENS, device=device).repeat(2)[None]
    positions = torch.tensor([0] * _TRIAL_TOKENS + [distance] * _TRIAL_TOKENS, device=device)[None]
    trial = Trial()
    try:
        with torch.inference_mode(), running(trial):
            out = decoder(input_ids=tokens, position_ids=positions, use_cache=False)[0]
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise refuse(name, f"a trial forward failed ({str(error).splitlines()[0]})") from error
    if sorted(trial.given) != list(range(layers)):
        raise refuse(
            name, f"{len(trial.given)} of its {layers} layers attend through transformers' attention interface"
        )
    given = [trial.given[i] for i in range(layers)]
    sizes = {(len(g.query), len(g.key), g.key.shape[-1], g.value.shape[-1]) for g in given}
    if len(sizes) > 1:
        raise refuse(name, "its layers differ in their number or size of attention heads")
    heads, kv_heads, head_dim, value_dim = sizes.pop()
    if head_dim != value_dim:
        raise refuse(name, "its keys and values differ in size")
    keys = [g.key for g in given]
    for number, states in enumerate([*keys, out]):
        if not bool(states.isfinite().all()):
            where = f"before layer {number}" if number < layers else "in its last layer"
            kind = str(states.dtype).removeprefix("torch.") + (f", weights {quantize}" if quantize != "none" else "")
            raise ModelError(
                f"{name} computes numbers that are not finite, {where} ({kind}).", more_exact(states.dtype, quantize)
            )
    _check_turns(rope, keys, distance, name)
    layout = KVLayout(layers, kv_heads, head_dim, keys[0].dtype, device)
    return Shape(layout, heads, tuple(g.scaling for g in given), rope)


def _check_turns(rope: Rope, keys: list[Tensor], distance: int, name: str) -> None:
    """Compares keys at the far position with rotated ones from position 0. Marks layers without positions."""
    near = [k[:, :_TRIAL_TOKENS] for k in keys]
    far = [k[:, _TRIAL_TOKENS:] for k in keys]
    turned = rope.turn(near, torch.full((_TRIAL_TOKENS,), distance, device=keys[0].device))
    for layer, (start, want, got) in enumerate(zip(near, far, turned, strict=True)):
        # bf16 keeps 8 bits of each factor. A wrong rotation is off by as much as the keys themselves.
        tolerance = (1e-3 if want.dtype == torch.float32 else 5e-2) * float(want.abs().max())
        if float((got - want).abs().max()) <= tolerance:
            continue
        if float((start - want).abs().max()) > tolerance:
            raise refuse(name, f"the keys of layer {layer} do not turn with their position as rotary embeddings do")
        rope.leave(layer)
