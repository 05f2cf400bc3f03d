"""What weights in few bits do to the output: `python -m warpcortex_cli.eval.quantized -m MODEL`.

Conversations of pocket's world, as a user would have them, are read by the model in its own type and quantized.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from dataclasses import dataclass

from warpcortex_cli.engine.sampling import chosen
from warpcortex_cli.eval.forced import scores_of
from warpcortex_cli.eval.pocket import QUESTIONS, make_case
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.quantize import BITS
from warpcortex_cli.prism.source import resolve_model


@dataclass(frozen=True)
class Effect:
    """Perplexity of the same text in both, the share of equal greedy tokens, and KL in nats a token."""

    tokens: int
    perplexity: float
    perplexity_quantized: float
    greedy_agreement: float
    kl: float


def texts(n: int, seed: int) -> list[str]:
    """Notes, a question, and the right answer."""
    rng = random.Random(seed)
    kinds = list(QUESTIONS)
    cases = [make_case(kinds[i % len(kinds)], 12, rng) for i in range(n)]
    return [f"{c.notes}\n\n{c.question}\n{c.value}" for c in cases]


def effect(plain: Prism, quantized: Prism, samples: list[str]) -> Effect:
    """Both models over the same texts."""
    nll, nll_quantized, kl, same, tokens = 0.0, 0.0, 0.0, 0, 0
    for text in samples:
        ids = plain.encode(text)
        a, b = scores_of(plain, ids), scores_of(quantized, ids)
        nll -= float(chosen(a[:-1], ids[1:]).sum())
        nll_quantized -= float(chosen(b[:-1], ids[1:]).sum())
        kl += float((a.exp() * (a - b)).sum())
        same += int((a.argmax(1) == b.argmax(1)).sum())
        tokens += len(ids)
    predicted = tokens - len(samples)
    return Effect(tokens, math.exp(nll / predicted), math.exp(nll_quantized / predicted), same / tokens, kl / tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="pocket")
    parser.add_argument("--n", type=int, default=60)
    parser.add_argument("--seed", type=int, default=2029)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    source = resolve_model(args.model, "auto")
    plain, samples = Prism.load(source, "cpu"), texts(args.n, args.seed)
    found = {kind: effect(plain, Prism.load(source, "cpu", quantize=kind), samples) for kind in BITS}
    if args.json:
        kinds = {kind: vars(e) for kind, e in found.items()}
        print(json.dumps({"schema_version": 1, "model": args.model, "seed": args.seed, "kinds": kinds}))
        return
    first = next(iter(found.values()))
    print(f"{args.model}, {first.tokens} tokens, seed {args.seed}; perplexity as it is {first.perplexity:.3f}\n")
    print("| weights | perplexity | greedy agreement | KL, nats a token |\n|---|---|---|---|")
    for kind, e in found.items():
        print(f"| {kind} | {e.perplexity_quantized:.3f} | {e.greedy_agreement:.2%} | {e.kl:.5f} |")


if __name__ == "__main__":
    main()
