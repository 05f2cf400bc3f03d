"""Accuracy and size of block formats: `python -m warpcortex_cli.lab.formats -m MODEL`.

Notes are read, their keys and values packed in blocks and unpacked, and the same questions and right answers forwarded
over both. An answer is right if each of its tokens is the greedy one. Models of `bench.shapes` have random weights, so
their perplexity and answers are not shown.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional as F

from warpcortex_cli.bench.shapes import SHAPES, random_prism
from warpcortex_cli.engine.sampling import chosen
from warpcortex_cli.eval.statistics import interval, relative_error
from warpcortex_cli.memory.formats import POLICIES, Format, Policy, ladder, pack_block, uniform, unpack_block
from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.memory.store import BLOCK
from warpcortex_cli.pocket import world
from warpcortex_cli.pocket.vocabulary import Words
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.prism import Prism, Row
from warpcortex_cli.prism.source import resolve_model

_NOTES = 20
_QUESTIONS = (world.ask_count, world.ask_place, world.ask_colour)


@dataclass(frozen=True)
class Result:
    """The result of one policy.

    Attributes:
        bytes_per_token: packed, everything included.
        key_error, value_error: relative error of attention's output with only keys or only values packed.
        attention_error: the same with both; the mean over heads and layers, in float64, over the notes alone.
        kl: in nats a token, of the text after the notes.
        perplexity: of the same tokens.
        recall: share of right answers.
        ci95: of `recall`, by Wilson.
        n: answers.
    """

    policy: str
    bytes_per_token: float
    key_error: float
    value_error: float
    attention_error: float
    kl: float
    perplexity: float
    recall: float
    ci95: tuple[float, float]
    n: int


@dataclass(frozen=True)
class Case:
    """Token ids of notes, and of texts that follow them; `asked`: tokens of these before the answer."""

    notes: list[int]
    later: list[list[int]]
    asked: list[int]


@dataclass
class _Sums:
    """A policy's figures so far, one for each case or token."""

    bytes_per_token: list[float] = field(default_factory=list)
    errors: list[list[float]] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    nll: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)


def make_case(prism: Prism, rng: random.Random) -> Case:
    """Notes in words that are not in the training data, and three questions with the River's answers."""
    words = Words(rng, "held-out", 0.4)
    w = world.make_world(words, _NOTES)
    answers = [ask(w, rng) for ask in _QUESTIONS]
    chat = prism.chat
    opening = [*chat.opening(""), *chat.user_open()]
    asked = [[*prism.encode(a.question), *chat.user_close()] for a in answers]
    return Case(
        notes=[*opening, *prism.encode(world.notes_text(w, rng) + "\n\n")],
        later=[[*q, *prism.encode(a.end)] for q, a in zip(asked, answers, strict=True)],
        asked=[len(q) for q in asked],
    )


def random_case(prism: Prism, rng: random.Random) -> Case:
    """Random tokens, for random weights."""
    ids = [rng.randrange(prism.vocab_size) for _ in range(9 * BLOCK)]
    return Case(ids[BLOCK:], [ids[:BLOCK]], [BLOCK - 1])


class Reader:
    """A case whose notes were read; `judge` measures a policy on their keys and values."""

    def __init__(self, prism: Prism, case: Case, block: int = BLOCK) -> None:
        self.prism, self.case, self.block = prism, case, block
        tail = prism.new_tail(len(case.notes))
        prism.forward([Row(case.notes, list(range(len(case.notes))), tail, logits="none")])
        self.exact = tail.freeze(0, len(case.notes))
        self.bare = prism.rope.unrotated(self.exact.keys, self.exact.positions)
        self.expected, queries = self._later(self.exact)
        self.queries = [torch.cat(q, 1) for q in zip(*queries, strict=True)]
        self.attended = [self._attended(i, *self.exact.layer(i)) for i in range(prism.layers)]

    def judge(self, policy: Policy, sums: _Sums) -> None:
        """Adds this policy's figures for the case."""
        ours, size = self._stored(policy)
        sums.bytes_per_token.append(size / ours.tokens)
        parts = ((ours.keys, self.exact.values), (self.exact.keys, ours.values), (ours.keys, ours.values))
        sums.errors.append([self._attention_error(*part) for part in parts])
        scores, _ = self._later(ours)
        for later, asked, expected, found in zip(self.case.later, self.case.asked, self.expected, scores, strict=True):
            sums.kl += (expected.exp() * (expected - found)).sum(1).tolist()
            sums.nll += (-chosen(found[:-1], later[1:])).tolist()
            sums.right.append(found[asked - 1 : -1].argmax(1).tolist() == later[asked:])

    def _stored(self, policy: Policy) -> tuple[Segment, int]:
        """The notes unpacked from blocks, at their positions, and the bytes of the blocks."""
        blocks, size = [], 0
        for start in range(0, self.exact.tokens, self.block):
            part = slice(start, start + self.block)
            data = pack_block([k[:, part] for k in self.bare], [v[:, part] for v in self.exact.values], policy)
            blocks.append(unpack_block(data, self.prism.layout.dtype, self.prism.device))
            size += len(data)
        keys, values = ([torch.cat(t, 1) for t in zip(*side, strict=True)] for side in zip(*blocks, strict=True))
        return Segment(
            tuple(self.prism.rope.turn(keys, self.exact.positions)), tuple(values), self.exact.positions
        ), size

    def _later(self, notes: Segment) -> tuple[list[Tensor], list[Tensor]]:
        """For each text after the notes, log-probabilities [tokens, vocabulary] and queries as in `RowResult`."""
        rows = [
            Row(
                ids,
                list(range(notes.tokens, notes.tokens + len(ids))),
                self.prism.new_tail(len(ids)),
                (notes,),
                "all",
                True,
            )
            for ids in self.case.later
        ]
        scores, queries = [], []
        for result in self.prism.forward(rows):
            assert result.logits is not None and result.queries is not None
            scores.append(torch.log_softmax(result.logits.float(), -1))
            queries.append(result.queries)
        return scores, queries

    def _attention_error(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> float:
        return fmean(
            relative_error(self._attended(i, keys[i], values[i]), exact) for i, exact in enumerate(self.attended)
        )

    def _attended(self, layer: int, keys: Tensor, values: Tensor) -> Tensor:
        """Attention's output over keys and values [kv_heads, n, head_dim] in float64: [heads, tokens, head_dim]."""
        query, key, value = (t[None].double() for t in (self.queries[layer], keys, values))
        return F.scaled_dot_product_attention(query, key, value, scale=self.prism.scalings[layer], enable_gqa=True)[0]


def judge(
    prism: Prism, policies: Mapping[str, Policy], seed: int, n: int, meaning: bool = True, block: int = BLOCK
) -> list[Result]:
    """All policies over the same `n` cases, the smallest first. `meaning`: the model was trained on such notes."""
    rng = random.Random(seed)
    sums = {name: _Sums() for name in policies}
    for _ in range(n):
        reader = Reader(prism, make_case(prism, rng) if meaning else random_case(prism, rng), block)
        for name, policy in policies.items():
            reader.judge(policy, sums[name])
    return sorted((_result(name, found) for name, found in sums.items()), key=lambda r: r.bytes_per_token)


def _result(policy: str, sums: _Sums) -> Result:
    right, n = sum(sums.right), len(sums.right)
    key_error, value_error, attention_error = (fmean(e) for e in zip(*sums.errors, strict=True))
    return Result(
        policy=policy,
        bytes_per_token=fmean(sums.bytes_per_token),
        key_error=key_error,
        value_error=value_error,
        attention_error=attention_error,
        kl=fmean(sums.kl),
        perplexity=math.exp(fmean(sums.nll)),
        recall=right / n,
        ci95=interval(right, n),
        n=n,
    )


def compared() -> dict[str, Policy]:
    """The named policies, and others for a comparison at equal bytes."""
    plain = [(k, v) for k in range(2, 9) for v in range(2, 9) if 7 not in (k, v) and abs(k - v) < 3 and min(k, v) < 8]
    ladders = [(1.2, 0.96), (0.6, 0.48), (0.3, 0.24), (0.15, 0.12), (0.075, 0.06), (0.02, 0.03)]
    others = [(k, k) for k in (8, 6, 5, 4, 3)]
    return {
        **{str(name): policy for name, policy in POLICIES.items()},
        **{f"{k}/{v}": uniform(k, v) for k, v in plain},
        **{f"ladder {k} {v}": ladder(k, v) for k, v in ladders},
        **{f"{k}/{v} KIVI": Policy((Format(k, axis="channel"),), (Format(v),)) for k, v in others},
        **{f"{k}/{v} symmetric": Policy((s,), (s,)) for k, v in others for s in [Format(k, True, "channel")]},
        **{f"{k}/{v} first": Policy((s,), (s,)) for k, v in others for s in [Format(k, axis="channel", first=4)]},
    }


def against_uniform(result: Result, results: Sequence[Result]) -> float:
    """KL relative to uniform widths at equal bytes, interpolated in log(KL) between two of these."""
    plain = [(r.bytes_per_token, math.log(r.kl)) for r in results if r.policy.replace("/", "").isdigit() and r.kl > 0]
    at, best = result.bytes_per_token, math.inf
    for (a, low), (b, high) in itertools.product(plain, plain):
        if a < b and a <= at <= b:
            best = min(best, low + (high - low) * (at - a) / (b - a))
    return math.exp(math.log(result.kl) - best) if result.kl > 0 and best < math.inf else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-m", "--model", default="pocket", help=f"a model that knows pocket's notes, or {', '.join(SHAPES)}"
    )
    parser.add_argument("--n", type=int, default=20, help="notes that are read, each with three questions")
    parser.add_argument("--seed", type=int, default=31)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    random_weights = args.model in SHAPES
    prism = (
        random_prism(args.model, LoadOptions("cpu"))
        if random_weights
        else Prism.load(resolve_model(args.model, "auto"), "cpu")
    )
    results = judge(prism, compared(), args.seed, args.n, not random_weights)
    if args.json:
        found = [vars(r) for r in results]
        print(json.dumps({"schema_version": 1, "model": args.model, "seed": args.seed, "results": found}))
        return
    print(f"{args.model}, {prism.dtype}, blocks of {BLOCK}, seed {args.seed}, {args.n} notes, {results[0].n} answers")
    print("                     bytes    error of attention's output        KL    over    perplexity  right")
    print("policy             a token     keys    values      both               uniform")
    for r in results:
        print(
            f"{r.policy:17} {r.bytes_per_token:8.1f}  {r.key_error:8.5f} {r.value_error:8.5f} {r.attention_error:8.5f}"
            f"  {r.kl:9.6f} {against_uniform(r, results):7.2f}"
            + ("" if random_weights else f"  {r.perplexity:10.4f}  {r.recall:6.1%}")
        )


if __name__ == "__main__":
    main()
