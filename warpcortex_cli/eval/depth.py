"""The error of a step's attention against exact attention over all tokens ever read, by their number.

A River with a window reads notes; after N tokens it is asked questions on the oldest. The compared quantity is
attention's output for the question's tokens, in each layer and head, from the same queries, keys and values: unrotated,
in the model's type, as the engine computed them over its working set. The reference attends to all N tokens and
causally to the question in float64, with token t at position t and the question after them. Sines and cosines are
always float64, so that every position is exact. It is compared with

- rounding: the same, rotated, then computed in the model's type by torch's fused attention, like a prefill on a CPU;
- quantization: the same in float64, but with blocks packed and unpacked in their storage format;
- omission: exact keys and values in float64, but only of the working set, at the product's positions: first tokens at
  0, 1, ..., recalled tokens just before the tail, tail, question;
- in place: as omission, with each token at its position in the reference, so that only the omission counts;
- total: the working set at the product's positions, from stored blocks except for the tail, in the model's type.

An error is the norm of the difference relative to the reference's norm, over all tokens of the question, averaged over
layers and heads. Errors are not propagated to the next layer. Softcaps and sliding windows are not applied.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from warpcortex_cli.engine.dialogue import NOTES_BREAK
from warpcortex_cli.engine.session import Session
from warpcortex_cli.eval import pocket
from warpcortex_cli.eval.recall import KINDS, make_facts, unrotated
from warpcortex_cli.eval.report import Grid
from warpcortex_cli.eval.statistics import relative_error
from warpcortex_cli.memory.formats import POLICIES, BlockFormat, pack_block, unpack_block
from warpcortex_cli.memory.store import BLOCK
from warpcortex_cli.pocket import world
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row
from warpcortex_cli.profile import Profile

ERRORS = ("rounding", "quantization", "omission", "in_place", "total")
QUESTIONS = 4  # per text
_RESAMPLES = 1000
_LEAST = 1e-30  # an error of 0 has no logarithm


@dataclass(frozen=True)
class Point:
    """Mean errors over `n` questions after `depth` tokens. `attended`: the most tokens that any of them read."""

    depth: int
    errors: dict[str, float]
    attended: int
    n: int


@dataclass(frozen=True)
class Slope:
    """Growth of an error's natural logarithm per doubling of the depth, with a 95 % bootstrap interval."""

    slope: float
    ci95: tuple[float, float]


class Question(NamedTuple):
    """A question's unrotated queries [heads, n, head_dim], and keys and values [kv_heads, n, head_dim], per layer."""

    queries: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]


class Rotation:
    """The model's rotary embedding in float64, for any position.

    Frequencies and pairs of dimensions are derived from the model's rotation of unit vectors at position 1.
    """

    def __init__(self, prism: Prism) -> None:
        dim = prism.head_dim
        unit = torch.eye(dim, device=prism.device)[None]
        turned = prism.rope.turn([unit] * prism.layers, torch.ones(dim, dtype=torch.long, device=prism.device))
        self._layers = []
        for rows in turned:
            matrix = rows[0].double().cpu()
            cosine = matrix.diagonal()
            others = matrix - cosine.diag()
            sine, pair = others.abs().max(0)
            sign = others[pair, torch.arange(dim)].sign()
            self._layers.append((torch.atan2(sine, cosine), pair, sign))

    def turn(self, layer: int, vectors: Tensor, positions: Tensor) -> Tensor:
        """Unrotated [heads, n, head_dim] -> float64, rotated for positions [n]."""
        angle, pair, sign = self._layers[layer]
        angles = positions.double()[:, None] * angle
        wide = vectors.double()
        return wide * angles.cos() + wide[..., pair] * (sign * angles.sin())


class Stored(NamedTuple):
    """Unrotated keys, and values, per layer [kv_heads, N, head_dim], in the model's type on the CPU."""

    keys: list[Tensor]
    values: list[Tensor]


class Reader:
    """A text that a River reads in parts, and the questions asked after each part."""

    def __init__(self, prism: Prism, profile: Profile, budget: int, tokens: int, first: int, seed: int) -> None:
        """`tokens`: length of the text. The questions are on its first `first` tokens."""
        rng = random.Random(seed)
        facts = list(make_facts(rng, prism, tokens).items())
        memory = profile.memory.model_copy(update={"window": budget, "recall": budget, "stored": "exact"})
        self.prism = prism
        self.session = Session(prism, profile.model_copy(update={"memory": memory}), streams=False)
        self.river = self.session.river
        self.rotation = Rotation(prism)
        opening = [*prism.chat.opening(profile.river.prompt), *prism.chat.user_open()]
        self._text = [*opening, *prism.encode("\n".join(sentence for sentence, _ in facts))]
        self._break = prism.encode(NOTES_BREAK)
        self._used = 0
        early = facts[: max(QUESTIONS, first // 32)]
        self.questions: list[list[int]] = []
        for i, (_, fact) in enumerate(rng.sample(early, QUESTIONS)):
            answer = pocket.QUESTIONS[KINDS[i % len(KINDS)]](world.World((fact,), {}), rng)
            assert answer is not None
            self.questions.append([*prism.encode(answer.question), *prism.chat.user_close()])
        self._packed: defaultdict[str, list[Stored]] = defaultdict(list)  # by format

    def read_to(self, tokens: int) -> None:
        """Reads on until the River has `tokens` tokens."""
        count = tokens - self.river.length - len(self._break)
        piece = self._text[self._used : self._used + count]
        assert len(piece) == count > 0, "the text is too short"
        self._used += count
        self.session.conversation.read([*piece, *self._break])
        while self.river.state == "reading" and self.session.step():
            pass

    @torch.inference_mode()
    def errors(self, stored: BlockFormat) -> tuple[NDArray[np.float64], int]:
        """Errors of each question after the text read so far, [questions, ERRORS], and the most tokens attended."""
        exact = self.everything()
        packed = self._through(exact, stored)
        length = self.river.length
        # Rotated once for all questions.
        whole, coarse = (
            [self._turned(i, side.keys[i], 0) for i in range(self.prism.layers)] for side in (exact, packed)
        )
        rows, attended = [], 0
        for ids in self.questions:
            question = self.ask(ids)
            kept, at = self.working()
            here, own = self.river.position, self.prism.layout.dtype
            attended = max(attended, len(kept) + len(ids))
            found = []
            for i in range(self.prism.layers):
                attend = partial(self._attend, i, question)
                values, stored_values = exact.values[i], packed.values[i]
                moved = self.rotation.turn(i, exact.keys[i][:, kept], at)
                stored_moved = self.rotation.turn(i, packed.keys[i][:, kept], at)
                reference = attend(whole[i], values, length)
                ours = (
                    attend(whole[i], values, length, own),
                    attend(coarse[i], stored_values, length),
                    attend(moved, values[:, kept], here),
                    attend(whole[i][:, kept], values[:, kept], length),
                    attend(stored_moved, stored_values[:, kept], here, own),
                )
                found.append([relative_error(o, reference) for o in ours])
            rows.append([fmean(e) for e in zip(*found, strict=True)])
        return np.array(rows), attended

    def _turned(self, layer: int, vectors: Tensor, first: int) -> Tensor:
        """Rotated for positions from `first` on."""
        return self.rotation.turn(layer, vectors, torch.arange(first, first + vectors.shape[1]))

    def _attend(
        self,
        layer: int,
        question: Question,
        keys: Tensor,
        values: Tensor,
        first: int,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """Attention of the question, at positions from `first` on, over rotated keys and its own."""
        queries, own = (self._turned(layer, t[layer], first) for t in (question.queries, question.keys))
        keys, values = torch.cat([keys, own], 1), torch.cat([values, question.values[layer]], 1)
        return attention(queries, keys, values, self.prism.scalings[layer], dtype)

    def ask(self, ids: list[int]) -> Question:
        """Recalls for a question as a turn does, reads it, and drops it again."""
        river, rope = self.river, self.prism.rope
        river.recall(ids)
        tail = self.prism.new_tail(len(ids))
        positions = list(range(river.position, river.position + len(ids)))
        row = Row(ids, positions, tail, (*river.beside(), river.tail.view(river.tail.length)), "none", queries=True)
        queries = self.prism.forward([row])[0].queries
        own = tail.freeze(0, len(ids))
        tail.release()
        assert queries is not None
        bare = rope.unrotated(list(queries), own.positions), rope.unrotated(own.keys, own.positions), own.values
        return Question(*([t.cpu() for t in part] for part in bare))

    def working(self) -> tuple[Tensor, Tensor]:
        """The tokens of the current working set, ascending, and their positions."""
        past = self.river.past
        pinned = range(min(past.pinned, past.tokens))
        back = [t for t in past.recalled if t not in pinned]
        kept = [*pinned, *back, *range(past.tokens, self.river.length)]
        return torch.tensor(kept), torch.tensor([*pinned, *range(past.base - len(back), self.river.position)])

    def everything(self) -> Stored:
        """All tokens read so far, as exact as the River has them."""
        past, tail, rope = self.river.past, self.river.tail, self.prism.rope
        parts = []
        if past.tokens:
            blocks = unrotated(self.prism, past)
            parts.append(Stored([k.cpu() for k in blocks.keys], [v.cpu() for v in blocks.values]))
        newest = tail.freeze(0, tail.length)
        bare = rope.unrotated(newest.keys, newest.positions)
        parts.append(Stored([k.cpu() for k in bare], [v.cpu() for v in newest.values]))
        return joined(parts)

    def _through(self, plain: Stored, stored: BlockFormat) -> Stored:
        """The same with each block packed and unpacked as the store does."""
        packed, tokens = self._packed[stored], self.river.past.tokens
        for number in range(len(packed), tokens // BLOCK):
            part = slice(number * BLOCK, (number + 1) * BLOCK)
            data = pack_block([k[:, part] for k in plain.keys], [v[:, part] for v in plain.values], POLICIES[stored])
            block = unpack_block(data, self.prism.layout.dtype, torch.device("cpu"))
            packed.append(Stored(*map(list, block)))
        return joined([*packed, Stored([k[:, tokens:] for k in plain.keys], [v[:, tokens:] for v in plain.values])])


def joined(parts: Sequence[Stored]) -> Stored:
    """All parts concatenated."""
    layers = range(len(parts[0].keys))
    keys = [torch.cat([p.keys[i] for p in parts], 1) for i in layers]
    return Stored(keys, [torch.cat([p.values[i] for p in parts], 1) for i in layers])


def attention(queries: Tensor, keys: Tensor, values: Tensor, scaling: float, dtype: torch.dtype) -> Tensor:
    """Causal attention of rotated queries [heads, n, d] over keys and values [kv_heads, N, d], the last n their own.

    Returns:
        [heads, n, d] in float64.
    """
    n, count = queries.shape[1], keys.shape[1]
    seen = torch.ones(n, count, dtype=torch.bool).tril(count - n)
    query, key, value = (t[None].to(dtype) for t in (queries, keys, values))
    return F.scaled_dot_product_attention(query, key, value, seen, scale=scaling, enable_gqa=True)[0].double()


def run(
    prism: Prism,
    profile: Profile,
    stored: BlockFormat,
    budget: int,
    depths: Sequence[int],
    n: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[NDArray[np.float64]]:
    """For each of `n` texts the errors of its questions, and the tokens attended, at each depth.

    Args:
        stored: the format of blocks.
        budget: tokens that recall may bring back; the window of newest tokens is as long.
        depths: tokens read, ascending.

    Yields:
        [questions, depths, ERRORS + 1]
    """
    for i in range(n):
        reader = Reader(prism, profile, budget, depths[-1], depths[0], seed + i)
        rows = []
        for number, depth in enumerate(depths):
            reader.read_to(depth)
            errors, attended = reader.errors(stored)
            rows.append(np.column_stack([errors, np.full(len(errors), attended)]))
            progress(i * len(depths) + number + 1, n * len(depths))
        reader.river.past.close()
        yield np.stack(rows, 1)


def points(found: Sequence[NDArray[np.float64]], depths: Sequence[int]) -> list[Point]:
    """Means over all questions, by depth."""
    every = np.concatenate(found)
    means, most = every.mean(0), every[..., -1].max(0)
    return [
        Point(depth, dict(zip(ERRORS, mean.tolist(), strict=False)), int(top), len(every))
        for depth, mean, top in zip(depths, means, most, strict=True)
    ]


def slopes(found: Sequence[NDArray[np.float64]], depths: Sequence[int], seed: int = 0) -> dict[str, Slope]:
    """Least squares of log(mean error) over log2(depth); intervals by resampling questions."""
    every = np.concatenate(found)[..., :-1]
    rng = np.random.default_rng(seed)
    drawn = np.stack([every[rng.integers(len(every), size=len(every))].mean(0) for _ in range(_RESAMPLES)])
    low, high = np.percentile(_fitted(drawn, depths), (2.5, 97.5), 0)
    slope = _fitted(every.mean(0)[None], depths)[0]
    return {name: Slope(float(slope[i]), (float(low[i]), float(high[i]))) for i, name in enumerate(ERRORS)}


def _fitted(means: NDArray[np.float64], depths: Sequence[int]) -> NDArray[np.float64]:
    """Slopes [samples, ERRORS] of means [samples, depths, ERRORS]; 0 for a single depth."""
    x = np.log2(depths)
    x = x - x.mean()
    logs = np.log(np.maximum(means, _LEAST))
    slope: NDArray[np.float64] = np.einsum("d,sde->se", x, logs - logs[:, :1]) / max(float(x @ x), _LEAST)
    return slope


def as_json(
    found: Sequence[NDArray[np.float64]], depths: Sequence[int], stored: str, budget: int, model: str, seed: int
) -> dict[str, Any]:
    """The contract of `eval depth --json`."""
    return {
        "schema_version": 1,
        "model": model,
        "seed": seed,
        "stored": stored,
        "budget": budget,
        "points": [{"depth": p.depth, **p.errors, "attended": p.attended, "n": p.n} for p in points(found, depths)],
        "slopes": {name: vars(slope) for name, slope in slopes(found, depths).items()},
    }


def grid(found: Sequence[NDArray[np.float64]], depths: Sequence[int], stored: str) -> Grid:
    """Errors by depth, with their growth in the last row."""
    rows = [(f"{p.depth:,}", *(f"{p.errors[e]:.2g}" for e in ERRORS), f"{p.attended:,}") for p in points(found, depths)]
    of = slopes(found, depths)
    rows.append(("a doubling", *(_growth(of[e].slope) for e in ERRORS), ""))
    rows += [(f"95 % {word}", *(_growth(of[e].ci95[i]) for e in ERRORS), "") for i, word in enumerate(("from", "to"))]
    n = sum(len(f) for f in found)
    title = f"relative error of attention's output after N tokens, blocks stored as {stored}, n = {n} questions"
    return Grid(title, ("N", *(e.replace("_", " ") for e in ERRORS), "attended"), tuple(rows))


def _growth(slope: float) -> str:
    return f"{math.expm1(slope):+.1%}"


def verdict(found: Sequence[NDArray[np.float64]], depths: Sequence[int]) -> str:
    """A sentence on what is bounded and what is not, by the figures."""
    every, of = points(found, depths), slopes(found, depths)
    first, last = every[0], every[-1]
    attended, rounding = max(p.attended for p in every), last.errors["rounding"]
    before, after = (f"{p.errors['omission']:.2g} at {p.depth:,} tokens" for p in (first, last))
    low, high = of["omission"].ci95
    grows = "grows" if low > 0 else "shrinks" if high < 0 else "neither clearly grows nor shrinks"
    return (
        f"Bounded: a step attends to {attended:,} tokens at most, so it costs the same after {last.depth:,} tokens as "
        f"after {first.depth:,}, and rounding is {rounding:.1g} even over all {last.depth:,} "
        f"({_growth(of['rounding'].slope)} a doubling). Not bounded: what is left out, {before} and {after}; it "
        f"{grows} ({_growth(of['omission'].slope)} a doubling), and a fixed budget does not bound it."
    )
