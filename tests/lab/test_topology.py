"""Persistence diagrams of small clouds whose shape is known, and what is compared of them."""

from __future__ import annotations

import math

import pytest
import torch

from warpcortex_cli.lab.topology import Shape, diagrams, shapes, summary
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model

pytest.importorskip("gudhi")


def test_a_circle_has_one_loop_and_two_clusters_one_gap() -> None:
    angles = torch.arange(24) * (2 * math.pi / 24)
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    loops = diagrams(circle)[1]
    assert len(loops) == 1 and float(loops[0, 1] - loops[0, 0]) > 1
    clusters = torch.cat([torch.zeros(5, 2), torch.full((5, 2), 7.0)]) + 0.01 * torch.arange(10)[:, None]
    lives = diagrams(clusters)[0][:, 1]
    assert int((lives > 5).sum()) == 1


def test_landmarks_that_are_all_tokens_have_the_shape_of_the_whole() -> None:
    prism = Prism.load(resolve_model("pocket", "auto"), device="cpu")
    found = list(shapes(prism, context=70, k=10_000, n=1, seed=1, draws=1))
    assert len(found) == 2 * prism.layers * prism.kv_heads
    assert all(max(s.landmarks, s.random) < 1e-9 for s in found)
    assert any(s.landmarks > 1e-3 for s in shapes(prism, context=70, k=12, n=1, seed=1, draws=1))


def test_the_summary_counts_heads_by_dimension() -> None:
    found = [Shape(0, 0, 0, 1.0, 2.0), Shape(0, 1, 0, 3.0, 2.0), Shape(0, 0, 1, 1.0, 5.0), Shape(0, 1, 1, 1.0, 5.0)]
    clusters, loops = summary(found)
    assert (clusters.landmarks, clusters.random, clusters.closer, clusters.n) == (2.0, 2.0, 0.5, 2)
    assert (loops.closer, loops.dimension) == (1.0, 1)
