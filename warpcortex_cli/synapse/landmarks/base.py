"""The interface of landmark samplers. A sampler is one file with one method, `score`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from warpcortex_cli.synapse.mass import CHUNK


@dataclass(frozen=True, eq=False)
class LayerView:
    """Some layers of the River as a sampler sees them, with the heads of all layers in one dimension.

    Attributes:
        keys: [kv_heads, L, head_dim] of all these layers, fp32, unrotated, with each head's mean subtracted: geometry
            that does not depend on positions. (Key biases are large and common; distances would lose digits to them.)
        cached: keys and values of each layer as in the cache, [the layer's kv_heads, L, head_dim] each.
        queries: rotated queries of the newest W tokens, [heads, W, head_dim], or None.
        always: [a] tokens that are always kept, ascending; a sampler need not score them.
        k: how many landmarks to choose, `always` included.
        scale: the model's factor on attention scores.
    """

    keys: Tensor
    cached: Sequence[tuple[Tensor, Tensor]]
    queries: Tensor | None
    always: Tensor
    k: int
    scale: float

    @property
    def tokens(self) -> int:
        """L"""
        return self.keys.shape[1]

    @property
    def rotated(self) -> Tensor:
        """Keys of all layers as in the cache, [kv_heads, L, head_dim]; a copy if there are several layers."""
        return _joined([keys for keys, _ in self.cached])

    @property
    def values(self) -> Tensor:
        """Values of all layers, [kv_heads, L, head_dim]; a copy if there are several layers."""
        return _joined([values for _, values in self.cached])


def _joined(layers: Sequence[Tensor]) -> Tensor:
    return layers[0] if len(layers) == 1 else torch.cat(list(layers))


@dataclass(frozen=True)
class Landmarks(ABC):
    """Chooses k tokens per layer and KV head.

    The base class keeps the first tokens (`sinks`, on which attention rests, arXiv 2309.17453) and the newest ones
    (`recent`), and takes the rest by the sampler's score. With a small k each of the two gets at most a quarter of it,
    so that half is left to the sampler.
    """

    name: ClassVar[str]
    together: ClassVar[bool] = True  # heads are scored independently, so layers can be seen together
    sinks: int = 4
    recent: int = 16

    @abstractmethod
    def score(self, view: LayerView) -> Tensor:
        """How much each token is worth keeping, [kv_heads, L]. Higher is better; only the order counts."""

    def always(self, tokens: int, k: int) -> Tensor:
        """The tokens, of `tokens`, that are always kept, ascending, [<= k]."""
        if k >= tokens:
            return torch.arange(tokens)
        sinks = min(self.sinks, -(-k // 4))
        recent = min(self.recent, k // 4)
        return torch.cat([torch.arange(sinks), torch.arange(tokens - recent, tokens)])

    def rank(self, view: LayerView) -> Tensor:
        """`score` with non-finite numbers removed, and with `always` above all others."""
        score = torch.nan_to_num(self.score(view).float(), nan=-torch.inf, posinf=None, neginf=-torch.inf)
        score[:, view.always] = torch.inf
        return score

    def select(self, view: LayerView) -> Tensor:
        """The chosen tokens, [kv_heads, min(k, L)], ascending."""
        kv_heads, tokens = view.keys.shape[:2]
        if view.k >= tokens:
            return torch.arange(tokens, device=view.keys.device).expand(kv_heads, -1).clone()
        return best(self.rank(view), view.k)


def best(rank: Tensor, count: int) -> Tensor:
    """The `count` tokens of highest rank [kv_heads, L], ascending, [kv_heads, count]."""
    return rank.topk(count, dim=1).indices.sort(dim=1).values


def witnesses(keys: Tensor, indices: Tensor) -> Tensor:
    """How many context tokens are nearest to each landmark (Euclidean, in key space); rows sum to L.

    Args:
        keys: [kv_heads, L, head_dim], as in `LayerView.keys`.
        indices: [kv_heads, k] landmarks.

    Returns:
        [kv_heads, k], int64.
    """
    kv_heads, tokens, dim = keys.shape
    k = indices.shape[1]
    counts = torch.zeros(kv_heads, k, dtype=torch.long, device=keys.device)
    if not k:
        return counts
    marks = keys.gather(1, indices[:, :, None].expand(-1, -1, dim))
    half_norms = marks.square().sum(2)[:, None] / -2
    step = max(1, CHUNK // max(1, kv_heads * k))
    for start in range(0, tokens, step):
        closeness = torch.baddbmm(half_norms, keys[:, start : start + step], marks.transpose(1, 2))
        nearest = closeness.argmax(2)
        counts.scatter_add_(1, nearest, torch.ones_like(nearest))
    return counts
