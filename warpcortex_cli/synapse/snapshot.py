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
from warpcortex_cli.synapse.landmarks import Hybrid, Landmarks, LayerView, witnesses


@dataclass(frozen=True, eq=False)
class Synapse:
    """k of the River's L tokens, chosen per layer and KV head; never changed after it was taken.

    Attributes:
        version: counts snapshots from 1.
        segment: the landmarks' keys and values, copied, at their original positions.
        context: L, the River tokens it was taken from.
        position: where the tails of Streams that read it begin.
        indices: River tokens that are landmarks, [layers, kv_heads, k], ascending.
        sampler: name of the landmark sampler.
    """

    version: int
    segment: Segment
    context: int
    position: int
    indices: Tensor
    sampler: str

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

        Counted when asked for: on a long context it costs half as much as the selection.

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
) -> Synapse:
    """Chooses landmarks out of a River's tail and copies them.

    Args:
        prism: the model; its rotary embedding gives keys without positions.
        tail: the River's.
        settings: `landmarks` (k, at most L is taken), and alpha, sinks and recent of the default sampler.
        queries: rotated queries of the newest tokens, per layer [heads, W, head_dim], or None.
        version: the new snapshot's.
        sampler: another way to choose; `Hybrid` otherwise.
    """
    sampler = sampler or Hybrid(settings.sinks, settings.recent, settings.alpha)
    view = tail.view(tail.length)
    k = min(settings.landmarks, view.tokens)
    always = sampler.always(view.tokens, k).to(prism.device)
    if k in (0, view.tokens):  # nothing to choose: no geometry is needed
        indices = always.expand(prism.layers, prism.kv_heads, -1).clone()
    else:
        views = _layer_views(prism, view, queries, always, k)
        indices = torch.stack([sampler.select(v) for v in views])
    keys, values = [], []
    for layer, chosen in enumerate(indices):
        spread = chosen[:, :, None].expand(-1, -1, prism.head_dim)
        layer_keys, layer_values = view.layer(layer)
        keys.append(layer_keys.gather(1, spread))
        values.append(layer_values.gather(1, spread))
    return Synapse(
        version=version,
        segment=Segment(tuple(keys), tuple(values), view.positions[indices]),
        context=view.tokens,
        position=int(view.positions[-1]) + 1 if view.tokens else 0,
        indices=indices,
        sampler=sampler.name,
    )


def _layer_views(
    prism: Prism, view: TailView, queries: Sequence[Tensor] | Tensor | None, always: Tensor, k: int
) -> Iterator[LayerView]:
    for layer, keys in enumerate(geometry(prism, view)):
        rotated, values = view.layer(layer)
        yield LayerView(
            keys=keys,
            rotated=rotated,
            values=values,
            queries=None if queries is None else queries[layer],
            always=always,
            k=k,
            scale=prism.scalings[layer],
        )


def geometry(prism: Prism, view: TailView) -> Iterator[Tensor]:
    """Keys of each layer as samplers see them: `LayerView.keys`."""
    rotated = [view.layer(i)[0] for i in range(prism.layers)]
    plain = prism.rope.unrotated(rotated, view.positions)
    while plain:
        keys = plain.pop(0).float()
        yield keys - keys.mean(1, keepdim=True)
