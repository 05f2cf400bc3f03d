"""The cost of selecting landmarks: `python -m warpcortex_cli.lab.selection --tokens 32768 --grow 64`.

The River has random keys, the hardest case, on a shape with random weights. `first`: the first selection of the
process; `all`: from all tokens, again; `grown`: after `--grow` more tokens since a selection; `focus`: scoring
sentences by the queries of a task of 24 tokens, without the forward that computes these.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from warpcortex_cli.bench.shapes import random_prism
from warpcortex_cli.engine.river import QUERY_WINDOW
from warpcortex_cli.memory.fingerprints import Fingerprints
from warpcortex_cli.memory.tail import Tail
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import SynapseSettings
from warpcortex_cli.synapse.focus import found_in_tail
from warpcortex_cli.synapse.snapshot import take

T = TypeVar("T")
_TASK = 24  # tokens
_SENTENCE = 16  # tokens


@torch.inference_mode()
def grow(prism: Prism, tail: Tail, tokens: int) -> None:
    """Appends tokens with random keys and values."""
    shape = prism.kv_heads, tokens, prism.head_dim
    keys, values = ([torch.randn(shape).to(prism.dtype) for _ in range(prism.layers)] for _ in range(2))
    tail.append(keys, values, torch.arange(tail.length, tail.length + tokens))


def random_queries(prism: Prism, tokens: int) -> list[Tensor]:
    """Random queries per layer, [heads, tokens, head_dim]."""
    return [torch.randn(prism.heads, tokens, prism.head_dim).to(prism.dtype) for _ in range(prism.layers)]


def measure(prism: Prism, tokens: int, more: int, k: int, runs: int) -> dict[str, float]:
    """Seconds by name, medians of `runs` except for `first`; `looked_at`: candidates of a grown selection."""
    tail, settings = prism.new_tail(tokens + more), SynapseSettings(landmarks=k)
    grow(prism, tail, tokens)
    queries = random_queries(prism, QUERY_WINDOW)
    first, older = _timed(lambda: take(prism, tail, settings, queries, 1))
    every = [_timed(lambda: take(prism, tail, settings, queries, 1))[0] for _ in range(runs)]
    grow(prism, tail, more)
    grown = [_timed(lambda: take(prism, tail, settings, queries, 2, after=older))[0] for _ in range(runs)]
    fingerprints = Fingerprints(prism.layers, prism.heads, prism.kv_heads, prism.head_dim)
    task = random_queries(prism, _TASK)
    ends = torch.tensor([*range(_SENTENCE, tail.length, _SENTENCE), tail.length])
    focus = [_timed(lambda: found_in_tail(prism, fingerprints, tail, task, 0, ends))[0] for _ in range(runs)]
    candidates = older.candidates
    served = candidates is not None and candidates.serve(tail.length)
    looked_at = candidates.pool(tail.length).shape[2] if candidates and served else tail.length
    return {
        "first": first,
        "all": statistics.median(every),
        "grown": statistics.median(grown),
        "focus": statistics.median(focus),
        "looked_at": looked_at,
    }


def _timed(act: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = act()
    return time.perf_counter() - began, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="Qwen2.5-0.5B")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--grow", type=int, default=64)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=2036)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if min(args.tokens, args.grow, args.k, args.runs) < 1:
        parser.error("--tokens, --grow, --k and --runs are numbers from 1 on")
    prism = random_prism(args.shape, LoadOptions("cpu", args.dtype))
    torch.manual_seed(args.seed)
    found = measure(prism, args.tokens, args.grow, args.k, args.runs)
    if args.json:
        asked = {k: v for k, v in vars(args).items() if k != "json"}
        print(json.dumps({"schema_version": 1, "model": prism.name, **asked, **found}))
        return
    print(f"{prism.name}, {args.dtype}, {torch.get_num_threads()} threads, {args.k} of {args.tokens} tokens, seconds:")
    print(f"  first {found['first']:.2f}  all {found['all']:.2f}  focus {found['focus']:.3f}")
    print(f"  grown by {args.grow} tokens {found['grown']:.3f}, chosen from {found['looked_at']:.0f} of them")


if __name__ == "__main__":
    main()
