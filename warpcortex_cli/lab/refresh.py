"""Does it pay to recompute a turn's KV when the turn is over? `python -m warpcortex_cli.lab.refresh`.

While decoding, the River computes keys and values one token at a time; a prefill of the finished turn computes them
again in parallel. Both are compared with the same weights in float64: a gain would have to show in the error and be
worth the prefill.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from dataclasses import dataclass
from statistics import fmean

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from warpcortex_cli.engine.session import Session
from warpcortex_cli.eval.pocket import make_case
from warpcortex_cli.memory.tail import Tail
from warpcortex_cli.prism.load import load_prism_parts
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import load_profile

KINDS = ("count", "place", "claim", "who-else")


@dataclass(frozen=True)
class Refreshed:
    """Relative errors of a turn's keys and values, as decoded and as prefilled again, and the seconds of both."""

    keys: tuple[float, float]
    values: tuple[float, float]
    writing: float
    prefill: float
    tokens: int


def refresh(prism: Prism, exact: Prism, notes: str, question: str) -> Refreshed:
    """One turn without Streams, then its prefill.

    Args:
        prism: the model under test.
        exact: the same weights in float64.
    """
    session = Session(prism, load_profile("pocket").with_whole_context(), streams=False)
    session.load_notes(notes)
    river = session.river
    start = river.length
    began = time.perf_counter()
    for _ in session.send(question):
        pass
    writing = time.perf_counter() - began
    ids = river.sentences.ids.tolist()
    end = river.length
    positions = list(range(end))
    true, anew = exact.new_tail(end), prism.new_tail(end)
    exact.forward([Row(ids[:end], positions, true, logits="none")])
    layers = range(prism.layers)
    anew.copy_from(river.tail, torch.arange(start))
    began = time.perf_counter()
    prism.forward([Row(ids[start:end], positions[start:], anew, logits="none")])
    prefill = time.perf_counter() - began

    def error(of: int, tail: Tail) -> float:
        """The error of keys (0) or values (1), averaged over layers."""
        return fmean(_error(tail.layer(i)[of][:, start:end], true.layer(i)[of][:, start:end]) for i in layers)

    keys, values = ((error(of, river.tail), error(of, anew)) for of in (0, 1))
    return Refreshed(keys, values, writing, prefill, end - start)


def _error(found: Tensor, want: Tensor) -> float:
    return float((found.double() - want).norm() / want.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=12, help="turns for each type")
    parser.add_argument("--notes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=2035)
    args = parser.parse_args()
    source = resolve_model("pocket", "auto")
    heads = "type", "keys, written", "keys, anew", "values, written", "values, anew", "writing ms", "prefill ms"
    table = Table(*heads)
    model, tokenizer = load_prism_parts(source, LoadOptions("cpu", "fp32"))
    for name in ("fp32", "bf16"):
        own = copy.deepcopy(model)
        own = own.bfloat16() if name == "bf16" else own
        prism = Prism(own, tokenizer, name)
        exact = Prism(copy.deepcopy(own).double(), tokenizer, "float64")
        rng = random.Random(args.seed)
        cases = [make_case(KINDS[i % len(KINDS)], args.notes, rng, 0.4) for i in range(args.n)]
        found = [refresh(prism, exact, case.notes, case.question) for case in cases]
        errors = [fmean(getattr(f, part)[i] for f in found) for part in ("keys", "values") for i in (0, 1)]
        times = [1000 * fmean(getattr(f, part) for f in found) for part in ("writing", "prefill")]
        table.add_row(name, *(f"{e:.2e}" for e in errors), *(f"{t:.1f}" for t in times))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
