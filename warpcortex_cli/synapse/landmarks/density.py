"""Density: how much the River attends to a token, or how dense keys are around it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from warpcortex_cli.synapse.landmarks.base import Landmarks, LayerView
from warpcortex_cli.synapse.mass import CHUNK, attention

_QUERIES = 8  # the newest queries; time is proportional to their number
_ANCHORS = 16  # evenly spaced keys that represent all keys in the kernel density


@dataclass(frozen=True)
class Density(Landmarks):
    """Attention mass of the River's newest queries, averaged over a KV head's query group.

    SnapKV (arXiv 2404.14469) does the same, with pooling over neighbours. Without queries it is a kernel density of the
    keys.
    """

    name = "density"

    def score(self, view: LayerView) -> Tensor:
        return density(view)


def density(view: LayerView) -> Tensor:
    """Non-negative, [kv_heads, L]."""
    if view.queries is None or not view.queries.shape[1]:
        return key_density(view.keys)
    layers = view.queries.split(len(view.queries) // len(view.cached))
    return torch.cat([attention_mass(q, keys, view.scale) for q, (keys, _) in zip(layers, view.cached, strict=True)])


def attention_mass(queries: Tensor, keys: Tensor, scale: float, newest: int = _QUERIES) -> Tensor:
    """Mean attention of the newest queries on each token. Each head's sum is 1.

    Args:
        queries: rotated, of the last W tokens, [heads, W, head_dim].
        keys: rotated, [kv_heads, L, head_dim].
        scale: factor on the scores.
        newest: how many of the queries to use.

    Returns:
        [kv_heads, L], fp32.
    """
    kv_heads, tokens = keys.shape[:2]
    queries = queries[:, -min(newest, tokens) :]
    mass = torch.zeros(kv_heads, tokens, device=keys.device)
    rows = queries.shape[0] * queries.shape[1] // kv_heads
    for head, _, probabilities in attention(queries, keys, scale, newest=True):
        mass[head] += probabilities.sum(0)
    return mass / rows


def key_density(keys: Tensor) -> Tensor:
    """Gaussian kernel density of `LayerView.keys` against evenly spaced ones, [kv_heads, L].

    The kernel's width is each head's mean squared distance, so there is no scale to choose.
    """
    kv_heads, tokens, _ = keys.shape
    anchors = keys[:, torch.linspace(0, tokens - 1, min(_ANCHORS, tokens)).round().long()]
    norms = keys.square().sum(2)
    step = max(1, CHUNK // (kv_heads * anchors.shape[1]))
    width = (norms.mean(1) + anchors.square().sum(2).mean(1)).clamp_min(1e-12)[:, None, None]
    out = torch.empty(kv_heads, tokens, device=keys.device)
    for start in range(0, tokens, step):
        part = slice(start, start + step)
        square = anchors.square().sum(2)[:, :, None] + norms[:, None, part]
        square = torch.baddbmm(square, anchors, keys[:, part].transpose(1, 2), alpha=-2)
        out[:, part] = square.div_(-width).exp_().mean(1)
    return out
