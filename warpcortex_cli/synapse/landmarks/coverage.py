"""Geometric coverage: farthest-point order in key space, the greedy k-centre algorithm of Gonzalez (1985).

The largest distance of a token to its nearest landmark is at most twice the optimum for k landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from warpcortex_cli.synapse.landmarks.base import Landmarks, LayerView
from warpcortex_cli.synapse.mass import CHUNK

_UNCHECKED = 8  # picks between checks whether a token outside the pool is worth more
_POOL = 256  # `python -m warpcortex_cli.lab.selection` prints what a selection costs


@dataclass(frozen=True)
class Coverage(Landmarks):
    """Each landmark is the token farthest from the landmarks before it."""

    name = "coverage"

    def score(self, view: LayerView) -> Tensor:
        return cover(view.keys, view.always, view.k - len(view.always))


class _Distances:
    """Squared distance of each token to its nearest centre, [kv_heads, L], as centres are added."""

    def __init__(self, keys: Tensor, centres: Tensor) -> None:
        self.keys = keys
        self.norms = torch.linalg.vector_norm(keys, dim=2).square_()
        if not torch.isfinite(self.norms).all():  # a broken head would choose the same token again and again
            self.keys = keys.nan_to_num(0.0, 0.0, 0.0)
            self.norms = torch.linalg.vector_norm(self.keys, dim=2).square_()
        # Without a centre yet, the mean of the keys, which is 0, takes its place.
        self.square = self.norms.clone()
        if len(centres):
            self.square.fill_(torch.inf)
            self.add(self.keys[:, centres])

    def add(self, centres: Tensor) -> None:
        """Adds centres [kv_heads, n, head_dim] in one pass over the keys."""
        kv_heads, tokens, _ = self.keys.shape
        norms = centres.square().sum(2)[:, :, None]
        step = max(1, CHUNK // (kv_heads * centres.shape[1]))
        for start in range(0, tokens, step):
            part = slice(start, start + step)
            dots = torch.baddbmm(norms, centres, self.keys[:, part].transpose(1, 2), alpha=-2)
            nearest = dots.amin(1).add_(self.norms[:, part]).clamp_min_(0)
            torch.minimum(self.square[:, part], nearest, out=self.square[:, part])


def cover(keys: Tensor, always: Tensor, count: int, bonus: Tensor | None = None) -> Tensor:
    """Greedy order of `count` tokens; each has the largest `bonus` + room when it is chosen.

    A token's room is d / (d + mean d), where d is its squared distance to the nearest centre and the mean is taken at
    the start: 0 on a centre, always below 1, and robust to a few outlying keys. Without a bonus this is farthest-point
    order.

    It takes few passes over the keys, not one for each landmark: rooms only shrink, so stale ones are upper bounds. The
    best `_POOL` tokens are kept exact while centres are picked among them. As long as the best of them beats the bound
    of all others, it is the best of all.

    Args:
        keys: [kv_heads, L, head_dim], as in `LayerView.keys`.
        always: [a] centres from the start, never chosen again.
        count: how many tokens to choose, at most L - a.
        bonus: [kv_heads, L] finite extra worth of each token, or None.

    Returns:
        [kv_heads, L]: chosen tokens score above 1, the first one highest; others score 0.
    """
    kv_heads, tokens, dim = keys.shape
    distances = _Distances(keys, always)
    mean = distances.square.mean(1, keepdim=True).clamp_min(1e-12)
    worth = torch.zeros(kv_heads, tokens, device=keys.device) if bonus is None else bonus
    closed = torch.zeros(kv_heads, tokens, dtype=torch.bool, device=keys.device)
    closed[:, always] = True
    score = torch.zeros(kv_heads, tokens, device=keys.device)
    done = 0
    while done < count:
        gain = _worth(worth + 1, mean, distances.square + mean).masked_fill_(closed, -torch.inf)
        top, pool = gain.topk(min(_POOL, tokens - len(always) - done), dim=1)
        floor = top[:, -1].clone()  # no token outside the pool is worth more
        pooled = distances.keys.gather(1, pool[:, :, None].expand(-1, -1, dim))
        square, norms, own = (x.gather(1, pool) for x in (distances.square, distances.norms, worth))
        apart = torch.baddbmm(norms[:, None], pooled, pooled.transpose(1, 2), alpha=-2)
        apart.add_(norms[:, :, None]).clamp_min_(0)  # squared distances within the pool
        all_of_them = pool.shape[1] == tokens - len(always) - done
        places = _pick(top, square, mean, own, apart, min(count - done, pool.shape[1]), None if all_of_them else floor)
        chosen = pool.gather(1, places)
        order = torch.arange(done, done + places.shape[1], device=keys.device)
        score.scatter_(1, chosen, (2 - order / count).expand(kv_heads, -1))
        closed.scatter_(1, chosen, True)
        done += places.shape[1]
        if done < count:
            distances.add(distances.keys.gather(1, chosen[:, :, None].expand(-1, -1, dim)))
    return score


def _worth(ahead: Tensor, mean: Tensor, near: Tensor, out: Tensor | None = None) -> Tensor:
    """Bonus + room: d / (d + mean) is 1 - mean / (d + mean).

    Args:
        ahead: bonuses + 1.
        near: d + mean.
    """
    return torch.addcdiv(ahead, mean, near, value=-1, out=out)


def _pick(
    worth: Tensor, square: Tensor, mean: Tensor, own: Tensor, apart: Tensor, count: int, floor: Tensor | None
) -> Tensor:
    """The greedy order within a pool, [kv_heads, 1 to `count`]. It ends when a token outside may be better.

    Args:
        worth: current worth, [kv_heads, P]; changed.
        square: distances to the nearest centre, [kv_heads, P].
        mean: as in `cover`, [kv_heads, 1].
        own: bonuses, [kv_heads, P].
        apart: distances within the pool, [kv_heads, P, P]; changed.
        floor: worth of the best outside, [kv_heads], or None.
    """
    kv_heads, size = worth.shape
    ahead, near, rows = own + 1, square + mean, apart.add_(mean[:, :, None]).view(-1, size)
    first = torch.arange(0, kv_heads * size, size, device=worth.device)
    places: list[Tensor] = []
    while len(places) < count:
        best: list[Tensor] = []
        for _ in range(min(_UNCHECKED, count - len(places))):
            value, place = worth.max(1)
            best.append(value)
            places.append(place)
            place = first + place
            ahead.view(-1).index_fill_(0, place, -torch.inf)
            torch.minimum(near, rows.index_select(0, place), out=near)
            _worth(ahead, mean, near, worth)
        if floor is not None:
            stale = int((torch.stack(best) < floor).any(1).sum())  # those at the end: the best worth only falls
            if stale:
                places = places[: max(1, len(places) - stale)]
                break
    return torch.stack(places, 1)
