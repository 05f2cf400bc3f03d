"""Landmark samplers, one file each. To add one, write `score` and name it in `SAMPLERS`, which evals read."""

from __future__ import annotations

from warpcortex_cli.synapse.landmarks.base import Landmarks, LayerView, best, witnesses
from warpcortex_cli.synapse.landmarks.coverage import Coverage
from warpcortex_cli.synapse.landmarks.density import Density
from warpcortex_cli.synapse.landmarks.hybrid import Hybrid

SAMPLERS: dict[str, type[Landmarks]] = {sampler.name: sampler for sampler in (Hybrid, Density, Coverage)}

__all__ = ["SAMPLERS", "Coverage", "Density", "Hybrid", "Landmarks", "LayerView", "best", "witnesses"]
