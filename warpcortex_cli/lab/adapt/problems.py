"""Word problems of one to four steps, generated from a seed; solutions say before each calculation what it finds.

Templates are in problems.txt: `[one|another]` is a choice, `{a}` a number, `{A}` a person, `{s}` things. We wrote them
without using any set of problems that we measure on.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import Any

_GIRLS = """Ada Amira Bella Carla Dana Edith Fiona Greta Hanna Ines Joana Kira Lucia Mona Nadia Olga Paula Rita Selma
Tara Uma Vera Wanda Yara Zoe Alice Emma Rosa Julia Sarah Nina Clara Megan Heather Faye Robin Isabel""".split()
_BOYS = """Adam Bruno Carlos Dario Emil Felix Gavin Henry Ivan Jonas Karim Leo Marco Noah Oscar Pablo Rafael Simon Tim
Victor Walter Yusuf Zack Ben Sam Jack Paul Frank Will Edward Bryan Mike Jerry Roger Tom Luis""".split()
_THINGS = """marbles stickers pencils books coins shells cards apples oranges cookies candies balloons buttons stamps
crayons muffins eggs peaches bottles magazines pears plums roses tulips ribbons beads cupcakes stones keys photos
seashells pebbles postcards erasers notebooks puzzles kites dolls lemons carrots potatoes onions tomatoes pens badges
comics hats shirts blocks bananas cherries acorns feathers bracelets games videos pies doughnuts tickets""".split()
_KINDS = """red blue|green yellow|large small|old new|chocolate vanilla|salty sweet|plain striped|round square|wooden
plastic|ripe unripe|spicy mild|black white|gold silver|apple cherry|foreign local|used fresh|short long""".split("|")
_BOXES = "boxes|bags|baskets|jars|packs|crates|drawers|bowls|shelves|trays|envelopes|tables|buckets|piles".split("|")
_PEOPLE = "children|students|players|visitors|workers|guests|dancers|friends|teachers|singers|boys|girls".split("|")
_ANIMALS = "ducks|sheep|cows|birds|horses|rabbits|frogs|fish|chickens|goats|cats|dogs|bees|penguins".split("|")
_PLACES = "park|bakery|library|school|farm|market|museum|zoo|garden|office|store|camp|hotel|station|club".split("|")
_DAYS = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday".split("|")
_GOODS = "shirt|book|toy|ticket|meal|cake|hat|game|ball|lamp|pen|mug|plant|movie|sandwich|chair|pizza|scarf".split("|")

_RANGES = {"S": (2, 9), "M": (4, 30), "L": (11, 99), "XL": (101, 980)}
_STEPS = {"one": 4, "two": 5, "more": 1}  # weights of the kinds


@dataclass(frozen=True)
class Template:
    """A template of problems.txt.

    Attributes:
        text: the problem; the last sentence is the question.
        numbers: the range of each number.
        steps: for each calculation what it finds, and the expression; `{1}` is the result of the first step.
        bears: whether an irrelevant sentence may be added before the question.
    """

    text: str
    numbers: dict[str, tuple[int, int]]
    steps: tuple[tuple[str, str], ...]
    bears: bool


@dataclass(frozen=True)
class Problem:
    """A word problem. `solution`: as a River should write it, with the results of its equations."""

    question: str
    solution: str
    answer: int


@cache
def templates() -> dict[str, tuple[Template, ...]]:
    """The templates of one, two and more steps."""
    found: dict[str, tuple[Template, ...]] = {}
    text = files("warpcortex_cli.lab.adapt").joinpath("problems.txt").read_text(encoding="utf-8")
    for part in text.split("== ")[1:]:
        name, *blocks = part.strip().split("\n\n")
        found[name] = tuple(map(_template, blocks))
    return found


def _template(block: str) -> Template:
    text, numbers, *steps = (line.strip() for line in block.split("\n"))
    words = [word.split() for word in numbers.split(", ")]
    ranges = {word[0]: _RANGES.get(word[1]) or tuple(map(int, word[1].split("-"))) for word in words if len(word) > 1}
    pairs = [tuple(part.strip() for part in step.split(":")) for step in steps]
    return Template(text, ranges, tuple((a, b) for a, b in pairs), ["whole"] not in words)  # type: ignore[arg-type]


_BESIDE = (
    "{He} also has {z} {t}.", "{B} has {z} {t}.", "There are {z} {t}, too.", "{He} has {z} {t} as well.",
    "{C} has {z} {t} at home.", "{He} also saw {z} {m}.", "It is {z} degrees outside.", "{He} is {z} years old.",
    "The {y} opened {z} years ago.", "{z} {o} were watching.", "{He} has {z} {t} and {C} none.",
)  # fmt: skip
_FRACTIONS = {3: "third", 4: "fourth", 5: "fifth", 6: "sixth"}
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SENTENCE = re.compile(r"(?<=[.?])\s+")


def _chosen(text: str, rng: random.Random) -> str:
    return _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), text)


def _words(rng: random.Random) -> dict[str, str]:
    """Draws everything but the numbers."""
    people = rng.sample([(name, "she her her") for name in _GIRLS] + [(name, "he his him") for name in _BOYS], 3)
    he, his, him = people[0][1].split()
    (s, t), (x, _), (p, o), (n, m), (g, h), (v, w) = (
        rng.sample(words, 2) for words in (_THINGS, _BOXES, _PEOPLE, _ANIMALS, _GOODS, _DAYS)
    )
    k, l = rng.choice(_KINDS).split()  # noqa: E741
    found = {"s": s, "t": t, "x": x, "p": p, "o": o, "n": n, "m": m, "g": g, "h": h, "k": k, "l": l}
    found |= {key.upper(): word.capitalize() for key, word in found.items()}
    names = dict(zip("ABC", (name for name, _ in people), strict=True))
    return (
        found
        | names
        | {"v": v, "w": w, "y": rng.choice(_PLACES), "he": he, "He": he.capitalize(), "his": his, "him": him}
    )


def _numbers(template: Template, rng: random.Random) -> tuple[dict[str, int], list[str], list[Fraction]] | None:
    """Numbers, the expressions with them, and their results; None if a result is not a positive integer."""
    drawn = {name: rng.randint(*within) for name, within in template.numbers.items()}
    values: dict[str, Any] = dict(drawn)
    expressions, results = [], []
    for n, (_, expression) in enumerate(template.steps, 1):
        said = expression.replace("{1}", "{r1}").replace("{2}", "{r2}").replace("{3}", "{r3}").format(**values)
        result = _value(said)
        if result <= 0 or result.denominator != 1:
            return None
        values[f"r{n}"] = result
        expressions.append(said)
        results.append(result)
    return drawn, expressions, results


def _value(expression: str) -> Fraction:
    """The value of numbers and operators separated by spaces, with the usual precedence."""
    first, *rest = expression.split()
    terms, value = [], Fraction(first)
    for sign, number in zip(rest[::2], rest[1::2], strict=True):
        if sign in "+-":
            terms.append(value)
            value = Fraction(number) * (1 if sign == "+" else -1)
        else:
            value = value * Fraction(number) if sign == "*" else value / Fraction(number)
    return sum(terms, value)


def problem(rng: random.Random) -> Problem:
    """One problem; of ten, four have one step, five two, and one more."""
    kinds = templates()
    template = rng.choice(kinds[rng.choices(list(_STEPS), list(_STEPS.values()))[0]])
    while (found := _numbers(template, rng)) is None:
        pass
    drawn, expressions, results = found
    words = _words(rng) | {name: str(value) for name, value in drawn.items()}
    words |= {"z": str(rng.randint(2, 60)), "u": _FRACTIONS.get(drawn.get("i", 0), "")}
    sentences = _SENTENCE.split(_chosen(template.text, rng))
    if template.bears and rng.random() < 0.3 and len(sentences) > 1:
        sentences.insert(rng.randint(1, len(sentences) - 1), rng.choice(_BESIDE))
    question = re.sub(r"\s+(?=[.?,])", "", " ".join(" ".join(sentences).format(**words).split()))
    if rng.random() < 0.15:
        question = re.sub(r"(\d+) dollars", r"$\1", question)
    steps = [
        f"{label.format(**words)}: {said} = {result}."
        for (label, _), said, result in zip(template.steps, expressions, results, strict=True)
    ]
    return Problem(question, " ".join(steps), int(results[-1]))
