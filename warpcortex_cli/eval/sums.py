"""Sums of two to five terms, by how terms are joined and how the question is worded; part of `eval.pocket --sums`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from warpcortex_cli.eval.pocket import Case, ask, is_right
from warpcortex_cli.eval.statistics import interval
from warpcortex_cli.pocket import world
from warpcortex_cli.pocket.vocabulary import Words
from warpcortex_cli.pocket.world import COMMON_JOININGS, Joining
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile

TERMS = (2, 3, 4, 5)


@dataclass(frozen=True)
class Form:
    """A way to ask for a sum. `learnt`: whether it is in the training data."""

    name: str
    joining: Joining
    question: str = "How many {} in total?"
    learnt: bool = True


def _named(joining: Joining) -> str:
    return joining.text(["a", "b", "c"])


FORMS = (
    *(Form(_named(joining), joining) for joining in COMMON_JOININGS),
    *(
        Form(_named(joining), joining, learnt=False)
        for joining in (
            Joining(" as well as ", " as well as "),
            Joining(" along with ", " along with "),
            Joining(", ", "; and "),
        )
    ),
    Form("What is the total of a and b and c?", COMMON_JOININGS[1], "What is the total of {}?", learnt=False),
    Form("How many a, b and c overall?", COMMON_JOININGS[0], "How many {} overall?", learnt=False),
    Form("Count a, b, c altogether.", COMMON_JOININGS[2], "Count {} altogether.", learnt=False),
)


@dataclass(frozen=True)
class Cell:
    """Right answers among `n` questions of one form and number of terms, with Wilson's interval."""

    form: str
    learnt: bool
    terms: int
    right: int
    n: int

    @property
    def accuracy(self) -> float:
        return self.right / self.n


def make_case(form: Form, terms: int, notes: int, rng: random.Random, made_up: float = 0.4) -> Case:
    """A case with names and things that are not in the training data, or made up."""
    words = Words(rng, "held-out", made_up)
    w = world.make_world(words, notes)
    while len(w.facts) < terms:
        w = world.make_world(words, notes)
    facts = rng.sample(w.facts, terms)
    answer = world.total_of(facts, world.sum_question(facts, form.joining, form.question))
    assert answer.request
    return Case("total", world.notes_text(w, rng), answer.question, answer.value, answer.request.thought)


def run(
    prism: Prism,
    profile: Profile,
    n: int,
    notes: int,
    seed: int,
    made_up: float = 0.4,
    progress: Callable[[], None] = lambda: None,
    wrong: Callable[[Case, str], None] = lambda case, answer: None,
) -> list[Cell]:
    """`n` questions for each form and number of terms, with Streams. `wrong` is called with those answered wrong."""
    cells = []
    for form in FORMS:
        for terms in TERMS:
            right = 0
            for i in range(n):
                case = make_case(form, terms, notes, random.Random(f"{seed} {form.name} {terms} {i}"), made_up)
                answer = ask(prism, profile, case, streams=True).text
                right += is_right(case, answer)
                if not is_right(case, answer):
                    wrong(case, answer)
                progress()
            cells.append(Cell(form.name, form.learnt, terms, right, n))
    return cells


def table(cells: list[Cell]) -> list[str]:
    """Lines: a row for each form, for trained and for other forms; a column for each number of terms."""

    def row(name: str, of: list[Cell]) -> str:
        by_terms = [[c for c in of if c.terms == terms] for terms in TERMS]
        shares = [sum(c.right for c in some) / sum(c.n for c in some) for some in (*by_terms, of)]
        return f"{name:40}" + "".join(f"{share:8.1%}" for share in shares)

    lines = [f"{'sums, with Streams':40}" + "".join(f"{terms:>2} terms" for terms in TERMS) + "     all"]
    for title, learnt in (("as in training", True), ("not as in training", False)):
        of = [c for c in cells if c.learnt == learnt]
        if not of:
            continue
        lines += [f"{title}:"] + [
            row("  " + name, [c for c in of if c.form == name]) for name in dict.fromkeys(c.form for c in of)
        ]
        lines.append(row("  all of these", of))
    right, n = sum(c.right for c in cells), sum(c.n for c in cells)
    low, high = interval(right, n)
    return [*lines, row("all", cells) + f"  (95 % interval {low:.1%} to {high:.1%}, n = {n})"]


def as_json(cells: list[Cell]) -> list[dict[str, Any]]:
    return [{**vars(c), "accuracy": c.accuracy, "ci95": interval(c.right, c.n)} for c in cells]
