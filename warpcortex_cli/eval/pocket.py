"""pocket through the product, with Streams and without: `python -m warpcortex_cli.eval.pocket`.

Every question goes through a Session as in `warpcortex ask`: River, Router, Streams, Gate, injection. Names and things
are held-out or made up; `river` is the same session with Streams switched off. `--sums` asks for sums by number of
terms and wording, `--control FOLDER` compares with a pocket that writes the Streams' steps in its own text.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import Progress

from warpcortex_cli.engine.session import Session
from warpcortex_cli.eval.statistics import interval
from warpcortex_cli.events import RiverFinished, RiverText, StreamEnded
from warpcortex_cli.pocket import world
from warpcortex_cli.pocket.vocabulary import Words
from warpcortex_cli.pocket.world import Answer
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.quantize import BITS
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import Profile, load_profile

QUESTIONS: dict[str, Callable[..., Answer | None]] = {
    "count": world.ask_count,
    "place": world.ask_place,
    "colour": world.ask_colour,
    "total": world.ask_plain_total,
    "difference": world.ask_difference,
    "cost": world.ask_cost,
    "compare": world.ask_compare,
    "who-else": world.ask_who_else,
    "claim": lambda w, rng: world.ask_claim(w, rng, Words(rng, "held-out", 0.4)),
}
CONDITIONS = {"river": "River alone", "streams": "with Streams"}
DELEGATED = ("total", "difference", "cost", "compare", "who-else")


@dataclass(frozen=True)
class Case:
    """Notes, a question on them, the right value, and a helpful and a misleading thought."""

    kind: str
    notes: str
    question: str
    value: str
    thought: str = ""
    wrong: str = ""


def make_case(kind: str, notes: int, rng: random.Random, made_up: float = 0.4) -> Case:
    """A case whose names and things are not in the training data."""
    while True:
        words = Words(rng, "held-out", made_up)
        w = world.make_world(words, notes)
        answer = QUESTIONS[kind](w, rng)
        if answer is not None:
            thought = answer.request.thought if answer.request else ""
            wrong = mislead(thought, [f.person for f in w.facts], rng)
            return Case(kind, world.notes_text(w, rng), answer.question, answer.value, thought, wrong)


def mislead(thought: str, people: Sequence[str], rng: random.Random) -> str:
    """The same thought with a wrong result: yes for no, another number, another name."""
    head, colon, result = thought.rpartition(": ")
    if result in ("yes", "no"):
        return f"{head}{colon}{'no' if result == 'yes' else 'yes'}"
    head, sign, result = thought.rpartition(" = ")
    if re.fullmatch(r"-?\d+", result):
        return f"{head}{sign}{int(result) + rng.choice((-11, -2, 3, 10))}"
    head, colon, result = thought.rpartition(": ")
    others = [p for p in people if p not in thought]
    return f"{head}{colon}{rng.choice(others)}" if others else ""


def is_right(case: Case, answer: str) -> bool:
    """Compares numbers by the answer's last one, yes/no and true/false by the first such word, names as a set."""
    text = answer.lower()
    if case.kind in ("count", "total", "difference", "cost"):
        numbers = re.findall(r"-?\d+", text)
        return bool(numbers) and numbers[-1] == case.value
    if case.kind in ("compare", "claim"):
        found = re.search(r"\b(yes|no|true|false)\b", text)
        return found is not None and found.group(1) == case.value
    if case.kind == "who-else":
        if case.value == "nobody":
            return "nobody else" in text
        said = text.rsplit("also there:", 1)[-1].strip(" .\n")
        return set(re.split(r", | and ", said)) == set(case.value.lower().split(", "))
    return case.value.lower() in text


@dataclass
class Asked:
    """The result of one question: the visible answer, how each Stream ended, and the River's cost.

    `seconds`: to the end of the answer, after the notes were read.
    """

    text: str = ""
    ends: list[StreamEnded] = field(default_factory=list)
    river_tokens: int = 0
    seconds: float = 0.0


def ask(prism: Prism, profile: Profile, case: Case, *, streams: bool, seed: int = 0) -> Asked:
    session = Session(prism, profile, seed=seed, streams=streams)
    session.load_notes(case.notes)
    out = Asked()
    began = time.perf_counter()
    for event in session.send(case.question):
        if isinstance(event, RiverText) and not (event.request or event.thinking):
            out.text += event.text
        elif isinstance(event, StreamEnded):
            out.ends.append(event)
        elif isinstance(event, RiverFinished):
            out.river_tokens = event.tokens
    out.seconds = time.perf_counter() - began
    return out


def with_window(profile: Profile, window: int | None) -> Profile:
    """The profile with another memory.window, unless that is None."""
    memory = {} if window is None else {"window": window}
    return profile.model_copy(update={"memory": profile.memory.model_copy(update=memory)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=40, help="cases of each kind")
    parser.add_argument("--notes", type=int, default=20)
    parser.add_argument("--kinds", default=",".join(QUESTIONS))
    parser.add_argument("--window", type=int, help="memory.window: notes beyond it are in the River's past")
    parser.add_argument("--conditions", default=",".join(CONDITIONS), help="conditions to run, such as streams alone")
    parser.add_argument("--made-up", type=float, default=0.4, help="share of names and things made of random syllables")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--quantize", choices=["none", *BITS], default="none")
    parser.add_argument("--sums", action="store_true", help="sums by number of terms and wording")
    parser.add_argument("--control", metavar="FOLDER", help="weights of `lab.pocket.train --inline`, to compare with")
    parser.add_argument("--wrong", action="store_true", help="show cases that went wrong")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    prism = Prism.load(resolve_model(args.model, "auto"), quantize=args.quantize)
    asked = _sums if args.sums else _control if args.control else _kinds
    asked(args, prism, with_window(load_profile("pocket"), args.window))


def _wrong(case: Case, answer: str) -> None:
    print(f"{case.question}\n  wanted {case.value!r}, got {answer!r}", file=sys.stderr)


def _sums(args: argparse.Namespace, prism: Prism, profile: Profile) -> None:
    from warpcortex_cli.eval import sums

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("asking", total=len(sums.FORMS) * len(sums.TERMS) * args.n)
        cells = sums.run(
            prism, profile, args.n, args.notes, args.seed, args.made_up,
            lambda: bar.advance(task), _wrong if args.wrong else lambda case, answer: None,
        )  # fmt: skip
    _print(args, sums.table(cells), {"sums": sums.as_json(cells)})


def _control(args: argparse.Namespace, prism: Prism, profile: Profile) -> None:
    from warpcortex_cli.eval import control

    inline = Prism.load(resolve_model(args.control, "auto"), quantize=args.quantize)
    rng = random.Random(args.seed)
    cases = [make_case(kind, args.notes, rng, args.made_up) for kind in args.kinds.split(",") for _ in range(args.n)]
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("asking", total=2 * len(cases))
        cells = control.run(prism, inline, profile, cases, lambda: bar.advance(task))
    _print(args, control.table(cells), {"control": control.as_json(cells)})


def _print(args: argparse.Namespace, lines: Sequence[str], found: dict[str, Any]) -> None:
    if args.json:
        print(json.dumps({"schema_version": 1, "notes": args.notes, "n": args.n, "seed": args.seed, **found}))
    else:
        print(f"{args.notes} notes, {args.n} cases a line and column, seed {args.seed}", *lines, sep="\n")


def _kinds(args: argparse.Namespace, prism: Prism, profile: Profile) -> None:
    conditions = args.conditions.split(",")
    rng = random.Random(args.seed)
    rows: dict[str, dict[str, float]] = {}
    began = time.monotonic()
    totals = dict.fromkeys(conditions, 0)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        kinds = args.kinds.split(",")
        task = bar.add_task("asking", total=len(conditions) * args.n * len(kinds))
        for kind in kinds:
            row = dict.fromkeys(conditions, 0.0)
            for _ in range(args.n):
                case = make_case(kind, args.notes, rng, args.made_up)
                for condition in row:
                    answer = ask(prism, profile, case, streams=condition == "streams").text
                    right = is_right(case, answer)
                    row[condition] += right / args.n
                    totals[condition] += right if kind in DELEGATED else 0
                    if args.wrong and not right and condition == "streams":
                        _wrong(case, answer)
                    bar.advance(task)
            rows[kind] = row
    n = args.n * sum(k in DELEGATED for k in kinds)
    summary = {c: {"accuracy": t / n if n else 0.0, "ci95": interval(t, n), "n": n} for c, t in totals.items()}
    if args.json:
        print(
            json.dumps(
                {
                    "schema_version": 1,
                    "notes": args.notes,
                    "window": profile.memory.window,
                    "n": args.n,
                    "seed": args.seed,
                    "kinds": rows,
                    "delegated": summary,
                }
            )
        )
        return
    print(
        f"{args.notes} notes, a window of {profile.memory.window} tokens, {args.n} cases a kind, seed {args.seed}, "
        f"{time.monotonic() - began:.0f} s"
    )
    print(f"{'':12}", *(f"{CONDITIONS[c]:>13}" for c in conditions))
    for kind, row in rows.items():
        print(f"{kind:12}", *(f"{row[c]:13.1%}" for c in conditions))
    if n:
        low, high = summary[conditions[-1]]["ci95"]
        print(
            f"{'delegated':12}",
            *(f"{totals[c] / n:13.1%}" for c in conditions),
            f" (95 % interval of the last {low:.1%} to {high:.1%}, n = {n})",
        )


if __name__ == "__main__":
    main()
