"""The cost of a long past: `python -m warpcortex_cli.lab.endless --tokens 10000,100000,1000000`.

The past is filled with copies of one block computed by the model, with plausible words; its index, tiers and file are
the product's. Then a question is asked and answered through the product's session.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

from rich.console import Console
from rich.table import Table

from warpcortex_cli.engine.session import Session
from warpcortex_cli.events import RiverFinished
from warpcortex_cli.memory.store import BLOCK
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.probes.memory import MemoryProbe
from warpcortex_cli.profile import Profile, load_profile

_QUESTION = "How many lanterns does Zoltan have?"
_FACT = "Zoltan keeps lanterns: 31, violet, in the cellar.\n"
_ASKED = 5  # repetitions, of which the median counts


def filled(prism: Prism, profile: Profile, tokens: int, seed: int) -> Session:
    """A session whose River has about `tokens` tokens in blocks, the first of them a fact, and an ordinary tail."""
    rng = random.Random(seed)
    session = Session(prism, profile)
    notes = "".join(f"Box {rng.randrange(10**6)} holds {rng.randrange(99)} pairs of gloves.\n" for _ in range(200))
    session.load_notes(_FACT + notes)
    river = session.river
    while not river.past.tokens:
        river.make_room()
    kept, own = list(river.sentences.ids), bytes(river.sentences.own)
    past = river.past
    block, fingerprints = past.store.get(1), past.fingerprints.rows(1)[:1]
    line = prism.encode(f"Box {rng.randrange(10**6)} holds {rng.randrange(99)} pairs of gloves.\n")
    more = max(0, tokens - past.tokens) // BLOCK
    words: list[int] = []
    while len(words) < more * BLOCK:
        rng.shuffle(line)
        words += line
    first = past.tokens // BLOCK
    for number in range(first, first + more):
        past.store.put(number, list(block[0]), list(block[1]))
        past.fingerprints.extend(fingerprints)
    tail = kept[past.tokens :]
    river.sentences.truncate(past.tokens)
    river.sentences.extend(words[: more * BLOCK])
    river.sentences.extend(tail)
    river.sentences.own[len(river.sentences.own) - len(tail) :] = own[past.tokens :]
    past.tokens += more * BLOCK
    return session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", default="10000,100000,1000000")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    prism = Prism.load(resolve_model(args.model, "auto"))
    profile = load_profile("pocket")
    table = Table(
        "stored tokens", "ms a token", "recall ms", "first token s", "hot MiB", "warm MiB", "cold MiB", "RSS MiB"
    )
    for tokens in [int(t) for t in args.tokens.split(",")]:
        session = filled(prism, profile, tokens, args.seed)
        river = session.river
        each, first, recalls = [], [], []
        for _ in range(_ASKED):
            began = time.perf_counter()
            ids = prism.encode(_QUESTION)
            river.recall(ids)
            recalls.append(time.perf_counter() - began)
            began, seen = time.perf_counter(), 0.0
            for event in session.send(_QUESTION):
                seen = seen or time.perf_counter() - began
                if isinstance(event, RiverFinished):
                    each.append((time.perf_counter() - began - seen) / max(1, event.tokens))
            first.append(seen)
            session.undo()
        tiers = river.past.store.tiers()
        mib = [f"{tiers[name].bytes / 2**20:,.0f}" for name in ("hot", "warm", "cold")]
        rss = MemoryProbe("cpu").read().bytes / 2**20
        ms = f"{1000 * statistics.median(each):.2f}", f"{1000 * statistics.median(recalls):.1f}"
        table.add_row(f"{river.past.tokens:,}", *ms, f"{statistics.median(first):.3f}", *mib, f"{rss:,.0f}")
        river.past.close()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
