"""Do landmarks preserve the keys' topology? `python -m warpcortex_cli.lab.topology` (needs gudhi: the extra `eval`).

For each layer and KV head the keys of a context are a point cloud. Its persistence diagrams (Vietoris-Rips; clusters in
dimension 0, loops in dimension 1) are compared with those of the landmarks and of equally many random tokens by
bottleneck distance; smaller is better. Distances are in units of the cloud's mean distance.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from warpcortex_cli.engine.session import Session
from warpcortex_cli.eval.statistics import interval
from warpcortex_cli.eval.synapse import make_case
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import load_profile
from warpcortex_cli.synapse.snapshot import geometry, take

_DIMENSIONS = (0, 1)


@dataclass(frozen=True)
class Shape:
    """Bottleneck distances from one head's cloud to the landmarks and to random tokens (mean over draws)."""

    layer: int
    head: int
    dimension: int
    landmarks: float
    random: float


def diagrams(points: Tensor) -> list[Tensor]:
    """Finite persistence pairs [n, 2] of a cloud [tokens, d], for clusters and loops."""
    import gudhi

    distances = torch.cdist(points.double(), points.double())
    tree = gudhi.RipsComplex(distance_matrix=distances.numpy()).create_simplex_tree(max_dimension=1)
    tree.collapse_edges()
    tree.expansion(2)
    tree.compute_persistence()
    found = [torch.tensor(tree.persistence_intervals_in_dimension(d)).view(-1, 2) for d in _DIMENSIONS]
    return [pairs[torch.isfinite(pairs).all(1)] for pairs in found]


def shapes(prism: Prism, context: int, k: int, n: int, seed: int, draws: int = 3) -> Iterator[Shape]:
    """The distances of all heads over `n` contexts of notes."""
    import gudhi

    rng = random.Random(seed)
    settings = load_profile("pocket").synapse.model_copy(update={"landmarks": k})
    generator = torch.Generator().manual_seed(seed)
    for i in range(n):
        session = Session(prism, load_profile("pocket").with_whole_context(), streams=False)
        session.load_notes(make_case(rng, prism, context, i % 10, "recall").notes)
        river = session.river
        synapse = take(prism, river.tail, settings, river.queries, 1)
        for layer, keys in enumerate(geometry(prism, river.tail.view(river.position))):
            for head, cloud in enumerate(keys.cpu()):
                cloud = cloud / torch.pdist(cloud).mean()
                whole = diagrams(cloud)
                ours = diagrams(cloud[synapse.indices[layer, head].cpu()])
                # In the cloud's order, like the landmarks: rounding depends on it.
                subsets = [torch.randperm(len(cloud), generator=generator)[:k].sort().values for _ in range(draws)]
                drawn = [diagrams(cloud[subset]) for subset in subsets]
                for d in _DIMENSIONS:
                    others = [gudhi.bottleneck_distance(whole[d].numpy(), r[d].numpy()) for r in drawn]
                    mine = gudhi.bottleneck_distance(whole[d].numpy(), ours[d].numpy())
                    yield Shape(layer, head, d, mine, fmean(others))


@dataclass(frozen=True)
class Comparison:
    """One dimension: mean distances, and the share of `n` heads in which the landmarks are closer."""

    dimension: int
    landmarks: float
    random: float
    closer: float
    ci95: tuple[float, float]
    n: int


def summary(found: Sequence[Shape]) -> list[Comparison]:
    """Averages over all heads, by dimension."""
    out = []
    for d in _DIMENSIONS:
        of_it = [s for s in found if s.dimension == d]
        closer = sum(s.landmarks < s.random for s in of_it)
        out.append(
            Comparison(
                dimension=d,
                landmarks=fmean(s.landmarks for s in of_it),
                random=fmean(s.random for s in of_it),
                closer=closer / len(of_it),
                ci95=interval(closer, len(of_it)),
                n=len(of_it),
            )
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="pocket")
    parser.add_argument("--context", type=int, default=400)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--n", type=int, default=8, help="contexts")
    parser.add_argument("--seed", type=int, default=2031)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    prism = Prism.load(resolve_model(args.model, "auto"))
    rows = summary(list(shapes(prism, args.context, args.k, args.n, args.seed)))
    if args.json:
        print(
            json.dumps(
                {
                    "schema_version": 1,
                    "model": prism.name,
                    "seed": args.seed,
                    "k": args.k,
                    "shapes": [vars(r) for r in rows],
                }
            )
        )
        return
    print(f"{prism.name}, {args.k} of {args.context} tokens, {args.n} contexts, seed {args.seed}")
    for row in rows:
        print(
            f"dimension {row.dimension}: landmarks {row.landmarks:.3f}, random {row.random:.3f}; closer in "
            f"{row.closer:.0%} of {row.n} heads ({row.ci95[0]:.0%} to {row.ci95[1]:.0%})"
        )


if __name__ == "__main__":
    main()
