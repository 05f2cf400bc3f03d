"""Runs layers with packed weights as kernels: two calls, before and after attention, or one call for many layers.

A step of few tokens spends nearly as long in dozens of small operations as in reading the weights. At load, each layer
whose parts have names that the kernels know is run both ways on four tokens. It is replaced only if the outputs agree
within 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from warpcortex_cli.prism import attention
from warpcortex_cli.prism.low_rank import Place
from warpcortex_cli.prism.native import LayerKernels, Layers, Linear, Norm, Parts
from warpcortex_cli.prism.quantize import Packed, Share
from warpcortex_cli.prism.support import Trial

_TOKENS, _POSITIONS = (1, 2, 3, 4), (0, 1, 100)  # of the trial; the last token is at the end of the model's context
_NEAR = 0.05  # allowed relative difference: more than rounding, far less than that of a layer of another form
_SILU, _GELU = {"SiLU", "SiLUActivation"}, {"GELUTanh", "PytorchGELUTanh"}


class Fused(NamedTuple):
    """How a layer is fused.

    Attributes:
        number: the layer's, from 0.
        heads, kv_heads, head_dim, scaling, softcap, window: the arguments of its attention, the same in each step.
        angles: equal for layers that get the same cosines and sines.
    """

    number: int
    heads: int
    kv_heads: int
    head_dim: int
    scaling: float
    softcap: float | None
    window: int | None
    angles: int


class FusedLayer(nn.Module):
    """A decoder layer that runs as kernels.

    Args:
        like: its number and the arguments of its attention.
        parts: its weights.
        dtype: the type of keys and values.
        made_of: the model's own layer, over the same packed weights.

    Attributes:
        together: this layer and those after it, if they can run in one call; else None.
    """

    def __init__(self, like: Fused, parts: Parts, dtype: torch.dtype, made_of: nn.Module) -> None:
        super().__init__()
        self.made_of = (made_of,)  # in a tuple, so that its parameters are not counted twice
        self.number, self.kernels, self.like = like.number, LayerKernels(parts, like.number), like
        self._heads, self._kv_heads = parts.heads, parts.kv_heads
        self._dtype = dtype
        self.scaling, self.softcap, self.window = like.scaling, like.softcap, like.window
        self.together: tuple[Layers, attention.Limits] | None = None
        held = [t for linear in parts.linears.values() for t in (linear.packed, linear.bias) if t is not None]
        held += [norm.weight for norm in parts.norms.values()]
        self.held = nn.ParameterList(nn.Parameter(t, requires_grad=False) for t in held)  # so that they are counted

    def forward(self, hidden: Tensor, *_: Any, position_embeddings: tuple[Tensor, Tensor], **__: Any) -> Tensor:
        """[1, tokens, width] -> the same shape and type."""
        if attention.already_computed(self.number):
            return hidden
        x = hidden[0].float()
        cosine, sine = (angles[0].float() for angles in position_embeddings)
        if self.together is not None and hidden.dtype == torch.float32:  # one call does not round between layers
            found = attention.through(*self.together, (cosine, sine), x)
            if found is not None:
                return found[None]
        adapted = attention.adapted()
        qkv = self.kernels.before(x, cosine, sine, adapted).to(self._dtype)
        query, key, value = qkv.split((self._heads, self._kv_heads, self._kv_heads))
        layer = attention.Layer(self.number, query, key, value, self.scaling, self.softcap, self.window)
        read = attention.attend(layer)
        return self.kernels.after(x, read.float(), adapted).to(hidden.dtype)[None]

    def place(self, module: nn.Module) -> Place | None:
        """Where a linear layer of the model's own layer is among the kernels' weights; None for other modules."""
        packed = module.joint.linear if isinstance(module, Share) else module
        for name, linear in self.kernels.parts.linears.items():
            if isinstance(packed, Packed) and linear.packed is packed.weight:
                first = sum(packed.sizes[: module.number]) if isinstance(module, Share) else 0
                return Place(self.number, name, first)
        return None

    def take_along(self, others: Sequence[FusedLayer]) -> None:
        """Lets the next layers run in the same call, if a step allows it."""
        layers = [self, *others]
        joint = Layers(self.number, [layer.kernels for layer in layers], [layer.scaling for layer in layers])
        self.together = joint, frozenset((layer.softcap, layer.window) for layer in layers)


@dataclass
class _Seen:
    """A layer's input and output in the trial."""

    hidden: Tensor
    position_embeddings: tuple[Tensor, Tensor]
    out: Tensor


@torch.inference_mode()
def fuse(decoder: Any, max_context: int, dtype: torch.dtype) -> int:
    """Replaces the layers that the kernels can run; returns how many.

    Args:
        max_context: of the model; the trial includes its last position, as some models treat far ones differently.
        dtype: of keys and values.
    """
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        return 0
    trial, seen = _tried(decoder, layers, [min(p, max_context - 1) for p in (*_POSITIONS, max_context)])
    angles = {id(found.position_embeddings[0]): n for n, found in seen.items()}
    done = []
    for number, found in seen.items():
        given = trial.given[number]
        like = Fused(
            number, len(given.query), len(given.key), given.key.shape[-1],
            given.scaling, given.softcap, given.window, angles[id(found.position_embeddings[0])],
        )  # fmt: skip
        try:
            fused = FusedLayer(like, _parts(layers[number], like), dtype, layers[number])
            same = _gives_the_same(fused, found, given)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
            continue  # the layer has another form
        if same:
            done.append(fused)
    _put(layers, done)
    return len(done)


def fuse_again(decoder: Any, known: Sequence[Fused], dtype: torch.dtype) -> None:
    """Replaces the layers that `fuse` replaced, without a trial. Raises ValueError if they have another form."""
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or any(not 0 <= like.number < len(layers) for like in known):
        raise ValueError("these are no layers of the model")
    try:
        found = [FusedLayer(like, _parts(layers[like.number], like), dtype, layers[like.number]) for like in known]
    except (AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    _put(layers, found)


def fused_layers(decoder: Any) -> list[Fused]:
    """The fused layers of a model, for `fuse_again`."""
    return [layer.like for layer in getattr(decoder, "layers", ()) if isinstance(layer, FusedLayer)]


def _put(layers: nn.ModuleList, fused: Sequence[FusedLayer]) -> None:
    """Puts fused layers in their places; consecutive ones with the same angles run together."""
    for layer in fused:
        layers[layer.number] = layer

    def angles(layer: nn.Module) -> int | None:
        return layer.like.angles if isinstance(layer, FusedLayer) else None

    for given, run in groupby(layers, angles):
        if given is not None:
            first, *others = cast(list[FusedLayer], list(run))
            first.take_along(others)


def _tried(decoder: Any, layers: nn.ModuleList, positions: list[int]) -> tuple[Trial, dict[int, _Seen]]:
    """Runs a few tokens; layers that are called in an unusual way are not recorded."""
    seen: dict[int, _Seen] = {}

    def keep(number: int, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        angles = kwargs.get("position_embeddings")
        if args and isinstance(out, Tensor) and isinstance(angles, tuple):
            seen[number] = _Seen(args[0], angles, out)

    hooks = [
        layer.register_forward_hook(lambda _, args, kwargs, out, n=n: keep(n, args, kwargs, out), with_kwargs=True)
        for n, layer in enumerate(layers)
    ]
    trial = Trial()
    try:
        with attention.running(trial):
            decoder(input_ids=torch.tensor([_TOKENS]), position_ids=torch.tensor([positions]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return trial, seen


def _gives_the_same(fused: FusedLayer, seen: _Seen, given: attention.Layer) -> bool:
    trial = Trial()
    with attention.running(trial):
        out = fused(seen.hidden, position_embeddings=seen.position_embeddings)
    mine = trial.given[fused.number]
    pairs = [(mine.query, given.query), (mine.key, given.key), (mine.value, given.value)]
    pairs.append((out - seen.hidden, seen.out - seen.hidden))
    return given.key.dtype in (torch.float32, torch.bfloat16) and all(_near(a, b) for a, b in pairs)


def _near(mine: Tensor, given: Tensor) -> bool:
    """Whether two tensors [n, tokens, d] nearly agree for each token."""
    mine, given = (x.float().transpose(0, 1).flatten(1) for x in (mine, given))
    return bool(((mine - given).norm(dim=1) <= _NEAR * given.norm(dim=1)).all())


def _parts(layer: Any, like: Fused) -> Parts:
    """The parts of a layer, by the names that transformers gives them.

    Raises:
        AttributeError, TypeError, ValueError, RuntimeError: the layer has another form.
    """
    own, mlp = layer.self_attn, layer.mlp
    gate = type(getattr(mlp, "act_fn", None) or mlp.activation_fn).__name__
    if gate not in _SILU | _GELU:
        raise ValueError(f"gates of the kind {gate}")
    head_dim, width = like.head_dim, layer.input_layernorm.weight.shape[0]
    four = hasattr(layer, "pre_feedforward_layernorm")
    return Parts(
        heads=like.heads,
        kv_heads=like.kv_heads,
        head_dim=head_dim,
        qkv=_linear(own.qkv_proj if hasattr(own, "qkv_proj") else own.q_proj),
        output=_linear(own.o_proj),
        gate_up=_linear(mlp.gate_up_proj if hasattr(mlp, "gate_up_proj") else mlp.gate_proj),
        down=_linear(mlp.down_proj),
        first=norm_of(layer.input_layernorm, width),
        second=norm_of(layer.pre_feedforward_layernorm if four else layer.post_attention_layernorm, width),
        query=norm_of(own.q_norm, head_dim) if hasattr(own, "q_norm") else None,
        key=norm_of(own.k_norm, head_dim) if hasattr(own, "k_norm") else None,
        attended=norm_of(layer.post_attention_layernorm, width) if four else None,
        fed=norm_of(layer.post_feedforward_layernorm, width) if four else None,
        gelu=gate in _GELU,
    )


def _linear(module: Packed | Share) -> Linear:
    packed = module.joint.linear if isinstance(module, Share) else module
    if not isinstance(packed, Packed):
        raise TypeError("weights that are not packed")
    return Linear(packed.weight, packed.bias, packed.format, sum(packed.sizes))


def norm_of(module: nn.Module, size: int) -> Norm:
    """A norm with its weights as they are applied: Gemma stores weight - 1."""
    epsilon = float(getattr(module, "variance_epsilon", None) or module.eps)  # type: ignore[arg-type]
    ones = torch.ones(size)  # in fp32, so that Gemma's sum with 1 is not rounded
    return Norm(module(ones).float() * (1 + epsilon) ** 0.5, epsilon)
