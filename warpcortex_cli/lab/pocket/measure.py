"""pocket's skills without the engine: `python -m warpcortex_cli.lab.pocket.measure --weights FOLDER`.

Words are held-out or made up, never those of training. An answer counts only if every token of it is the greedy one.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from warpcortex_cli.lab.pocket import conversation, train
from warpcortex_cli.lab.pocket.conversation import Piece
from warpcortex_cli.pocket import world
from warpcortex_cli.pocket.vocabulary import Words
from warpcortex_cli.pocket.world import Answer

Case = Callable[[Words], list[Piece] | None]


def _notes(words: Words, n: int) -> tuple[world.World, Callable[[str], list[Piece]]]:
    w = world.make_world(words, n)
    text = world.notes_text(w, words.rng)
    return w, lambda question: conversation._user(f"{text}\n\n{question}")


def recall(n: int, made_up: float = 0.4) -> Case:
    def case(words: Words) -> list[Piece]:
        words = Words(words.rng, "held-out", made_up)
        w, ask = _notes(words, n)
        a = words.rng.choice((world.ask_count, world.ask_place, world.ask_colour))(w, words.rng)
        return [*ask(a.question), Piece(a.end, 1.0)]

    return case


def river(question: Callable[..., Answer | None], n: int, part: str) -> Case:
    """`part`: "request" (the text up to the request), "used" (the end, with the thought), "alone" (without it)."""

    def case(words: Words) -> list[Piece] | None:
        w, ask = _notes(words, n)
        a = question(w, words.rng) if question is not world.ask_claim else world.ask_claim(w, words.rng, words)
        if a is None:
            return None
        assert a.request
        head = Piece(f"{a.start} {a.request.text}".strip() + f" {a.meanwhile}")
        end = Piece("\n" + a.end, 1.0)
        if part == "request":
            return [*ask(a.question), replace(head, learn=1.0)]
        if part == "alone":
            return [*ask(a.question), head, end]
        return [*ask(a.question), head, Piece(f"[Ref: {a.request.thought}]", aside=True), end]

    return case


def calculation(kind: str) -> Case:
    def case(words: Words) -> list[Piece]:
        prompt, work = conversation.calculation(words, kind, labelled=False)  # as `drop` leaves it
        return [*conversation._user(prompt), Piece(work, 1.0)]

    return case


def reading(n: int, about: bool) -> Case:
    return lambda words: conversation.reading(words, n, about)


CASES: dict[str, Case] = {
    "recall, 10 notes": recall(10),
    "recall, 20 notes": recall(20),
    "recall, 60 notes": recall(60),
    "recall, 10 notes, all names unseen": recall(10, 1.0),
    "sums, step by step": calculation("sum"),
    "differences, step by step": calculation("difference"),
    "products, step by step": calculation("product"),
    "comparisons, digit by digit": calculation("compare"),
    "same number, digit by digit": calculation("same"),
    "same words, word by word": calculation("words"),
    "reading for a place, 20 notes": reading(20, about=False),
    "reading for a thing, 20 notes": reading(20, about=True),
    "request for a total, 20 notes": river(world.ask_total, 20, "request"),
    "request for a cost, 20 notes": river(world.ask_cost, 20, "request"),
    "request who else, 20 notes": river(world.ask_who_else, 20, "request"),
    "request to compare, 20 notes": river(world.ask_compare, 20, "request"),
    "request to check, 20 notes": river(world.ask_claim, 20, "request"),
    "total with the thought": river(world.ask_total, 20, "used"),
    "cost with the thought": river(world.ask_cost, 20, "used"),
    "who else with the thought": river(world.ask_who_else, 20, "used"),
    "compare with the thought": river(world.ask_compare, 20, "used"),
    "claim with the thought": river(world.ask_claim, 20, "used"),
    "total alone": river(world.ask_total, 20, "alone"),
    "cost alone": river(world.ask_cost, 20, "alone"),
    "who else alone": river(world.ask_who_else, 20, "alone"),
    "compare alone": river(world.ask_compare, 20, "alone"),
    "claim alone": river(world.ask_claim, 20, "alone"),
}


@torch.inference_mode()
def accuracy(model: Any, tok: Tokenizer, case: Case, n: int, seed: int) -> float:
    """Share of `n` cases in which every learned token is the greedy one."""
    right = done = 0
    rng = random.Random(seed)
    while done < n:
        pieces = case(Words(rng, "held-out", 0.4))
        if pieces is None:
            continue
        ids, positions, weights = train.encode(tok, pieces, 4096)
        hidden = model.model(
            input_ids=torch.tensor([ids]), position_ids=torch.tensor([positions]), use_cache=False
        ).last_hidden_state
        where = torch.tensor(weights[1:]) > 0
        predicted = model.lm_head(hidden[0, :-1][where]).argmax(-1)
        right += bool((predicted == torch.tensor(ids[1:])[where]).all())
        done += 1
    return right / n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--weights", type=Path, help="a training folder with checkpoint.pt; default: the shipped weights"
    )
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=99)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    model = train.build_model().eval()
    if args.weights:
        model.load_state_dict(
            torch.load(args.weights / "checkpoint.pt", weights_only=True, map_location="cpu")["model"]
        )
        tok = Tokenizer.from_file(str(args.weights / "tokenizer.json"))
    else:
        from safetensors.torch import load_file

        shipped = Path(__file__).parents[2] / "pocket" / "weights"
        model.load_state_dict(load_file(shipped / "model.safetensors"), strict=False)
        tok = Tokenizer.from_file(str(shipped / "tokenizer.json"))
    results = {}
    for name, case in CASES.items():
        results[name] = accuracy(model, tok, case, args.n, args.seed)
        if not args.json:
            print(f"{name:40} {results[name]:7.1%}", flush=True)
    if args.json:
        print(json.dumps({"schema_version": 1, "n": args.n, "seed": args.seed, "accuracy": results}))


if __name__ == "__main__":
    main()
