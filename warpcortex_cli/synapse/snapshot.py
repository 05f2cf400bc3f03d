"""The Synapse: an immutable, versioned snapshot of the River's landmarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.memory.tail import Tail, TailView
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import SynapseSettings
from warpcortex_cli.synapse.landmarks import Hybrid, Landmarks, LayerView, best, witnesses

_TOGETHER = 1 << 20  # key numbers handled at once: all layers of a long context would take much memory
_SPARE = 2  # candidates for each landmark
_GROWTH = 8  # when the context has grown by an eighth, all of it is considered again


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates that a full selection leaves for incremental ones while the River grows.

    They are the first `_SPARE` * k tokens of the greedy order, and the newest ones. By coverage, every other token is
    no farther from a candidate than candidates are from each other: a core-set of the k-centre problem, which can be
    joined with other tokens and selected from again (Malkomes et al. 2015, "Fast Distributed k-Center Clustering with
    Outliers on Massive Data"). The result differs from a selection over all tokens, but is as good:
    `python -m warpcortex_cli.lab.ablation`, "grown".

    Attributes:
        context: how many tokens were considered.
        indices: the candidates among them, [layers, kv_heads, R], ascending; always including the newest.
    """

    context: int
    indices: Tensor

    def serve(self, tokens: int) -> bool:
        """Whether these candidates still suffice for a context of this length."""
        grown = tokens - self.context
        return 0 <= grown <= self.context // _GROWTH and self.indices.shape[2] + grown <= tokens // 2

    def pool(self, tokens: int) -> Tensor:
        """The candidates and all tokens since, [layers, kv_heads, P], ascending."""
        layers, kv_heads, _ = self.indices.shape
        since = torch.arange(self.context, tokens, device=self.indices.device)
        return torch.cat([self.indices, since.expand(layers, kv_heads, -1)], 2)


@dataclass(frozen=True, eq=False)
class Synapse:
    """k of the River's L tokens, chosen per layer and KV head; immutable.

    Attributes:
        version: counts snapshots from 1.
        segment: the landmarks' keys and values, copied, at their original positions.
        context: L, the number of tokens of the River's tail that it was taken from.
        position: of the next token, where Streams that read it begin; L unless the River has a past.
        indices: the landmarks among these tokens, [layers, kv_heads, k], ascending.
        sampler: name of the landmark sampler.
        candidates: what the next version chooses from, unless it considers all tokens.
    """

    version: int
    segment: Segment
    context: int
    position: int
    indices: Tensor
    sampler: str
    candidates: Candidates | None

    @property
    def landmarks(self) -> int:
        """k"""
        return self.segment.tokens

    @property
    def nbytes(self) -> int:
        """Bytes of the landmarks' keys and values, held once for all Streams."""
        return self.segment.nbytes

    @property
    def compression(self) -> float:
        """The share of the context's KV that is left out, 0..1; 0.98 for 64 of 3,200."""
        return 1 - self.landmarks / self.context if self.context else 0.0

    @torch.inference_mode()
    def witnesses(self, prism: Prism, tail: Tail) -> Tensor:
        """How many context tokens are nearest to each landmark, [layers, kv_heads, k]; every head's sum is L.

        Computed on demand: on a long context it costs half as much as the selection.

        Raises:
            ValueError: the River's tail has since become shorter than the snapshot's context.
        """
        keys = geometry(prism, tail.view(self.context))
        return torch.stack([witnesses(k, i) for k, i in zip(keys, self.indices, strict=True)])


@torch.inference_mode()
def take(
    prism: Prism,
    tail: Tail,
    settings: SynapseSettings,
    queries: Sequence[Tensor] | Tensor | None,
    version: int,
    *,
    sampler: Landmarks | None = None,
    after: Synapse | None = None,
) -> Synapse:
    """Chooses landmarks out of a River's tail and copies them.

    If the tail has only grown a little since an earlier version, the sampler sees only that version's candidates and
    the tokens since. The cost then does not depend on the length of the context.

    Args:
        prism: the model; its rotary embedding gives keys without positions.
        tail: the River's.
        settings: `landmarks` (k, at most L is taken), and alpha, sinks and recent of the default sampler.
        queries: rotated queries of the newest tokens, per layer [heads, W, head_dim], or None.
        version: the new snapshot's.
        sampler: the landmark sampler; None: `Hybrid`.
        after: an earlier version, taken with the same settings and sampler from the first tokens of the same tail.
    """
    sampler = sampler or Hybrid(settings.sinks, settings.recent, settings.alpha)
    view = tail.view(tail.length)
    k = min(settings.landmarks, view.tokens)
    candidates = after.candidates if after and after.candidates and after.candidates.serve(view.tokens) else None
    if k in (0, view.tokens):  # nothing to choose: no geometry is needed
        everything = torch.arange(k, device=prism.device)
        indices = everything.expand(prism.layers, prism.kv_heads, -1).clone()
    elif candidates:
        pool = candidates.pool(view.tokens)
        always = sampler.always(pool.shape[2], k).to(prism.device)
        views = _views(prism, sampler, view, pool, queries, always, k)
        indices = pool.gather(2, _layered(prism, [sampler.select(v) for v in views]))
    else:
        indices, candidates = _from_all(prism, view, queries, sampler, k)
    keys, values = [], []
    for layer, chosen in enumerate(indices):
        layer_keys, layer_values = view.layer(layer)
        keys.append(_of(layer_keys, chosen))
        values.append(_of(layer_values, chosen))
    return Synapse(
        version=version,
        segment=Segment(tuple(keys), tuple(values), view.positions[indices]),
        context=view.tokens,
        position=int(view.positions[-1]) + 1 if view.tokens else 0,
        indices=indices,
        sampler=sampler.name,
        candidates=candidates,
    )


def _from_all(
    prism: Prism, view: TailView, queries: Sequence[Tensor] | Tensor | None, sampler: Landmarks, k: int
) -> tuple[Tensor, Candidates | None]:
    """Landmarks [layers, kv_heads, k] from all tokens, and candidates for later versions, if that pays off."""
    always = sampler.always(view.tokens, k).to(prism.device)
    newest = 0 if queries is None else queries[0].shape[1]
    spare = _SPARE * k + newest
    if 2 * spare > view.tokens:
        views = _views(prism, sampler, view, None, queries, always, k)
        return _layered(prism, [sampler.select(v) for v in views]), None
    chosen, left = [], []
    for layers in _views(prism, sampler, view, None, queries, always, _SPARE * k):
        rank = sampler.rank(layers)
        chosen.append(best(rank, k))
        rank[:, view.tokens - newest :] = torch.inf  # the columns that attention hides from the newest queries
        left.append(best(rank, spare))
    return _layered(prism, chosen), Candidates(view.tokens, _layered(prism, left))


def _layered(prism: Prism, chosen: list[Tensor]) -> Tensor:
    """The selections of all views, [layers, kv_heads, n]."""
    return torch.cat(chosen).view(prism.layers, prism.kv_heads, -1)


def _together(prism: Prism, sampler: Landmarks, tokens: int) -> Iterator[range]:
    """How many layers a sampler sees at once: a selection has many small steps, whose cost is then shared."""
    numbers = prism.kv_heads * prism.head_dim * max(1, tokens)
    most = max(1, _TOGETHER // numbers) if sampler.together else 1
    first = 0
    for layer in range(1, prism.layers + 1):
        ended = layer == prism.layers or prism.scalings[layer] != prism.scalings[first]
        if ended or layer - first == most:
            yield range(first, layer)
            first = layer


def _views(
    prism: Prism,
    sampler: Landmarks,
    view: TailView,
    pool: Tensor | None,
    queries: Sequence[Tensor] | Tensor | None,
    always: Tensor,
    k: int,
) -> Iterator[LayerView]:
    """Views of all layers, several at once: of all tokens, or of those in `pool` [layers, kv_heads, P].

    A view is valid until the next one: all are written to the same memory.
    """
    tokens = view.tokens if pool is None else pool.shape[2]
    keys = torch.empty(0)
    turn = prism.rope.turning(-view.positions)
    for layers in _together(prism, sampler, tokens):
        shape = len(layers) * prism.kv_heads, tokens, prism.head_dim
        keys = keys if keys.shape == shape else torch.empty(shape, device=prism.device)
        seen: list[tuple[Tensor, Tensor]] = []
        for layer, out in zip(layers, keys.split(prism.kv_heads), strict=True):
            seen.append(view.layer(layer))
            if pool is not None:
                turn = prism.rope.turning(-view.positions[pool[layer]])
                seen[-1] = _of(seen[-1][0], pool[layer]), _of(seen[-1][1], pool[layer])
            _centre(turn(layer, seen[-1][0], out))
        found = None if queries is None else torch.cat([queries[i] for i in layers])
        yield LayerView(keys, seen, found, always, k, prism.scalings[layers[0]])


def _of(tokens: Tensor, chosen: Tensor) -> Tensor:
    """The entries of [kv_heads, L, head_dim] that each head chose, by [kv_heads, n]."""
    return tokens.gather(1, chosen[:, :, None].expand(-1, -1, tokens.shape[2]))


def geometry(prism: Prism, view: TailView) -> Iterator[Tensor]:
    """The keys of each layer as in `LayerView.keys`."""
    turn = prism.rope.turning(-view.positions)
    for layer in range(prism.layers):
        rotated, _ = view.layer(layer)
        yield _centre(turn(layer, rotated, torch.empty(rotated.shape, device=rotated.device)))


def _centre(keys: Tensor) -> Tensor:
    """Subtracts each head's mean from its keys [kv_heads, n, head_dim]."""
    return keys.sub_(keys.mean(1, keepdim=True))
