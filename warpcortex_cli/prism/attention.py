"""The interface between a model's layers and the code that computes their attention.

transformers calls `attention` in every layer with the queries, keys and values of all packed tokens, rotated for each
row's own positions. The layer says which one it is (`number_layers`), and `running` says which `Step` serves it. All of
this goes through one operator of torch, so that layers can be compiled around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from warpcortex_cli.prism.low_rank import Adapted
from warpcortex_cli.prism.native import Layers

NAME = "warpcortex"


class Layer(NamedTuple):
    """The input of one attention layer, for all T packed tokens.

    Attributes:
        number: the layer's, from 0.
        query: [heads, T, head_dim], rotated.
        key, value: [kv_heads, T, head_dim], the key rotated.
        scaling: multiplies the scores.
        softcap: bounds scores to softcap * tanh(score / softcap); None: no bound.
        window: how many positions back a token sees, itself included; None: all.
    """

    number: int
    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float
    softcap: float | None
    window: int | None


Angles = tuple[Tensor, Tensor]
"""Cosine and sine of each token, [T, rotary dims]."""
Limits = frozenset[tuple[float | None, int | None]]
"""`softcap` and `window` of some layers, each once."""


class Step(Protocol):
    """Computes the attention of all layers in one forward.

    Attributes:
        adapted: tokens with LoRA adapters, of the layers that are kernels.
    """

    adapted: Adapted | None

    def through(self, layers: Layers, limits: Limits, angles: Angles, hidden: Tensor) -> Tensor | None:
        """Runs whole layers at once: hidden states [T, width] after them; None if they have to attend one by one."""
        ...

    def attend(self, layer: Layer) -> Tensor:
        """The layer's output [T, heads, head_dim]."""
        ...


@dataclass
class _Forward:
    """A forward that runs. `computed`: layers before this number have been computed `through` others."""

    step: Step
    computed: int = 0


_now: ContextVar[_Forward | None] = ContextVar("_now", default=None)  # of each thread its own


@contextmanager
def running(step: Step) -> Iterator[None]:
    """The model's forward in this context attends through `step`."""
    token = _now.set(_Forward(step))
    try:
        yield
    finally:
        _now.reset(token)


def already_computed(number: int) -> bool:
    """Whether an earlier layer of the forward that runs was computed together with this one."""
    forward = _now.get()
    return forward is not None and forward.computed > number


def through(layers: Layers, limits: Limits, angles: Angles, hidden: Tensor) -> Tensor | None:
    """As `Step.through`, for the forward that runs."""
    forward = _now.get()
    if forward is None:
        return None
    found = forward.step.through(layers, limits, angles, hidden)
    if found is not None:
        forward.computed = layers.first + layers.count
    return found


def adapted() -> Adapted | None:
    """The tokens with adapters of the forward that runs."""
    forward = _now.get()
    return None if forward is None else forward.step.adapted


def attend(layer: Layer) -> Tensor:
    """One layer of the forward that runs, to [T, heads, head_dim].

    Raises:
        RuntimeError: no forward runs in this thread.
    """
    forward = _now.get()
    if forward is None:
        raise RuntimeError("no step is running: these attention layers serve only Prism.forward")
    return forward.step.attend(layer)


_library = torch.library.Library("warpcortex", "FRAGMENT")
# The number is a tensor. An int would become a constant in compiled code, and each layer would be compiled by itself.
_library.define("attend(Tensor n, Tensor q, Tensor k, Tensor v, float scaling, float? softcap, int? window) -> Tensor")


def attend_numbered(
    number: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """The operator: `attend` with the layer's number as a tensor [] on the CPU."""
    return attend(Layer(int(number), query, key, value, scaling, softcap, window))


_library.impl("attend", attend_numbered, "CompositeExplicitAutograd")


@torch.library.register_fake("warpcortex::attend")
def _attended(
    number: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    return query.new_empty(query.shape[1], query.shape[0], value.shape[2])


def number_layers(decoder: nn.Module) -> None:
    """Tells each attention module of a decoder which layer it is, as transformers numbers them for its caches."""
    for module in decoder.modules():
        number = getattr(module, "layer_idx", None)
        if isinstance(number, int):
            module.layer_number = torch.tensor(number, device="cpu")


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer: query [1, heads, T, head_dim] -> [1, T, heads, head_dim].

    No mask is registered under this name, so `attention_mask` is None: the step decides which token sees which.
    """
    if s_aux is not None:
        raise NotImplementedError("it has attention sinks outside its keys")
    number = getattr(module, "layer_number", None)
    if number is None:
        raise NotImplementedError("its attention layers do not say which layer they are")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out: Tensor = torch.ops.warpcortex.attend(number, query[0], key[0], value[0], scale, softcap, sliding_window)
    return out[None], None


AttentionInterface.register(NAME, attention)
