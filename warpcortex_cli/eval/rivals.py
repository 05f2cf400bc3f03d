"""Rival methods of KV cache compression, under the same interface and budget as ours.

Each is its paper's scorer without layer budgets or eviction over time: the whole context is scored once. Sinks and
newest tokens are kept as in the paper, else as in ours.

KNorm, KeyDiff, SnapKV, TOVA and ExpectedAttention select the same tokens as kvpress 0.5.5 from the same keys and
queries; `python -m warpcortex_cli.lab.agreement` shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from warpcortex_cli.prism.rope import Rope
from warpcortex_cli.synapse.landmarks import SAMPLERS, Hybrid, Landmarks, LayerView
from warpcortex_cli.synapse.landmarks.density import attention_mass
from warpcortex_cli.synapse.mass import attention

_POOL = 7  # SnapKV's pooling width
_AHEAD = 512  # future positions over which ExpectedAttention averages


@dataclass(frozen=True)
class Random(Landmarks):
    """Uniform."""

    name = "random"
    together = False  # all layers draw the same tokens
    seed: int = 0

    def score(self, view: LayerView) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(view.keys.shape[0], view.tokens, generator=generator).to(view.keys.device)


@dataclass(frozen=True)
class Streaming(Landmarks):
    """StreamingLLM (arXiv 2309.17453): four sinks and the newest tokens."""

    name = "streaming"

    def always(self, tokens: int, k: int) -> Tensor:
        if k >= tokens:
            return torch.arange(tokens)
        sinks = min(self.sinks, k)
        return torch.cat([torch.arange(sinks), torch.arange(tokens - (k - sinks), tokens)])

    def score(self, view: LayerView) -> Tensor:
        return torch.zeros(view.keys.shape[0], view.tokens, device=view.keys.device)


@dataclass(frozen=True)
class SnapKV(Landmarks):
    """SnapKV (arXiv 2404.14469): attention of a window of newest queries, averaged over neighbours."""

    name = "snapkv"

    def score(self, view: LayerView) -> Tensor:
        if view.queries is None:
            return torch.zeros(view.keys.shape[0], view.tokens, device=view.keys.device)
        mass = attention_mass(view.queries, view.rotated, view.scale, newest=view.queries.shape[1])
        return F.avg_pool1d(mass[:, None], _POOL, stride=1, padding=_POOL // 2, count_include_pad=False)[:, 0]


@dataclass(frozen=True)
class KNorm(Landmarks):
    """Keys of small norm (arXiv 2406.11430)."""

    name = "knorm"

    def score(self, view: LayerView) -> Tensor:
        return -view.rotated.float().norm(dim=2)


@dataclass(frozen=True)
class KeyDiff(Landmarks):
    """Keys unlike the mean direction of all keys (KeyDiff, arXiv 2504.15364)."""

    name = "keydiff"

    def score(self, view: LayerView) -> Tensor:
        directions = F.normalize(view.rotated.float(), dim=2)
        return -(directions * F.normalize(directions.mean(1, keepdim=True), dim=2)).sum(2)


@dataclass(frozen=True)
class Expected(Landmarks):
    """ExpectedAttention (arXiv 2510.00636): E exp(q k) for Gaussian queries, times the norm of the value.

    Mean and covariance are of the whole context's queries, as `ahead` rotates them. The sinks are kept and excluded
    from the softmax; no other token is kept for its position.
    """

    name = "expected"

    def always(self, tokens: int, k: int) -> Tensor:
        return torch.arange(tokens if k >= tokens else min(self.sinks, k))

    def score(self, view: LayerView) -> Tensor:
        score = torch.zeros(view.keys.shape[0], view.tokens, device=view.keys.device)
        if view.queries is None:
            return score
        heads, count, dim = view.queries.shape
        kv_heads = view.keys.shape[0]
        queries = (view.queries.float() * view.scale).view(kv_heads, heads // kv_heads, count, dim)
        mean = queries.mean(2)
        spread = queries - mean[:, :, None]
        covariance = spread.transpose(2, 3) @ spread / count
        keys = view.rotated[:, self.sinks :].float()
        logits = torch.einsum("hgd,hld->hgl", mean, keys)
        logits = logits + 0.5 * ((keys[:, None] @ covariance) * keys[:, None]).sum(3)
        norms = view.values[:, self.sinks :].float().norm(dim=2)
        score[:, self.sinks :] = torch.softmax(logits, -1).mean(1) * norms
        return score


def ahead(rope: Rope, queries: Sequence[Tensor], context: int) -> list[Tensor]:
    """Queries rotated by the mean rotation of the next positions, as in ExpectedAttention.

    Args:
        queries: unrotated, per layer [heads, n, head_dim].
        context: the first position ahead.
    """
    by = torch.arange(context, context + _AHEAD, device=queries[0].device)[None]
    turned = []
    for layer, query in enumerate(queries):
        if not rope.rotated[layer]:
            turned.append(query)
            continue
        cos, sin = (part.mean(1, keepdim=True) for part in rope.angles(by, layer))
        dims = cos.shape[2]
        turned.append(torch.cat([rope.apply(query[:, :, :dims], cos, sin), query[:, :, dims:].float()], dim=2))
    return turned


@dataclass(frozen=True)
class Tova(Landmarks):
    """TOVA (arXiv 2401.06104): attention of the last token, averaged over all heads of the layer."""

    name = "tova"
    together = False

    def score(self, view: LayerView) -> Tensor:
        if view.queries is None:
            return torch.zeros(view.keys.shape[0], view.tokens, device=view.keys.device)
        last = torch.zeros(view.tokens, device=view.keys.device)
        for _, _, probabilities in attention(view.queries[:, -1:], view.rotated, view.scale, newest=True):
            last += probabilities.sum(0)
        return last.expand(view.keys.shape[0], -1)


@dataclass(frozen=True)
class Method:
    """A way to spend a token budget.

    Attributes:
        landmarks: selects what all Streams share.
        focus: the share of the budget for the task's focus set.
        rereads: the focus set is prefilled again as text, as in pocket's recall, instead of copying its KV.
        grown: tokens added since an earlier selection, from which this one continues.
        ahead: the scorer gets the queries of the whole context, as `ahead` rotates them, instead of the newest.
    """

    landmarks: Landmarks
    focus: float = 0.0
    rereads: bool = False
    grown: int = 0
    ahead: bool = False


FOCUS_SHARE = 0.9  # chosen by `python -m warpcortex_cli.lab.ablation`, whose seed is not that of `eval synapse`
METHODS: dict[str, Method] = {
    "ours": Method(Hybrid(), FOCUS_SHARE),
    "ours-reread": Method(Hybrid(), FOCUS_SHARE, rereads=True),
    "ours-no-focus": Method(Hybrid()),
    **{name: Method(sampler()) for name, sampler in SAMPLERS.items() if sampler is not Hybrid},
    "random": Method(Random()),
    "streaming": Method(Streaming()),
    "snapkv": Method(SnapKV()),
    "knorm": Method(KNorm()),
    "keydiff": Method(KeyDiff()),
    "expected": Method(Expected(), ahead=True),
    "tova": Method(Tova()),
}
