"""Hybrid: greedy coverage in which attended tokens weigh more."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from warpcortex_cli.synapse.landmarks.base import Landmarks, LayerView
from warpcortex_cli.synapse.landmarks.coverage import cover
from warpcortex_cli.synapse.landmarks.density import density


@dataclass(frozen=True)
class Hybrid(Landmarks):
    """alpha * density + (1 - alpha) * coverage, chosen greedily.

    Both are mapped to 0..1 by x / (x + mean x): attention mass is heavy-tailed, and the few tokens with most of it must
    not drown out all others. alpha 0 is `Coverage`, alpha 1 is `Density`.
    """

    name = "hybrid"
    alpha: float = 0.5

    def score(self, view: LayerView) -> Tensor:
        mass = density(view)
        if self.alpha >= 1:
            return mass
        # Sinks have most of the mass and are kept anyway, so the mean is over the others.
        others = mass.clone()
        others[:, view.always] = 0
        mean = others.sum(1, keepdim=True) / max(1, view.tokens - len(view.always))
        share = mass / (mass + mean).clamp_min(1e-30)
        bonus = share.nan_to_num_() * (self.alpha / (1 - self.alpha))
        return cover(view.keys, view.always, view.k - len(view.always), bonus)
