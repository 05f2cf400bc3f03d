"""Calculations as people ask for them in a chat, generated from a seed, with exact answers.

Seven kinds, numbers of two to seven digits. Three phrasings of each kind are held out: whoever changes how such
questions are read looks only at the others.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction

Value = Fraction | date


@dataclass(frozen=True)
class Calculation:
    """A question with one right answer.

    Attributes:
        page: pasted before it, or "".
        held_out: whether its phrasing was kept out of tuning.
    """

    kind: str
    question: str
    value: Value
    page: str = ""
    held_out: bool = False


Made = tuple[dict[str, str], Value]


def _number(rng: random.Random, least: int = 2, most: int = 7) -> int:
    digits = rng.randint(least, most)
    return rng.randint(10 ** (digits - 1), 10**digits - 1)


def _written(n: int | Fraction, rng: random.Random) -> str:
    """The number with or without thousands commas."""
    return f"{n:,}" if rng.random() < 0.4 else str(n)


def _price(rng: random.Random, most: int = 9999) -> Fraction:
    return Fraction(rng.randint(50, most), 100)


def _money(amount: Fraction) -> str:
    return f"{float(amount):.2f}"


_NAMES = "notebook pen lamp kettle scarf mug chair book plant ticket umbrella blanket candle basket towel".split()
_POSTS = "rent food heating insurance travel internet water repairs clothing gifts school phone".split()
_PEOPLE = "Ada Ben Chloe Dmitri Elena Farid Grace Hugo".split()


def _sum(rng: random.Random) -> Made:
    a, b = _number(rng, 2, 7), _number(rng, 2, 7)
    return {"a": _written(a, rng), "b": _written(b, rng)}, Fraction(a + b)


def _difference(rng: random.Random) -> Made:
    a, b = sorted((_number(rng, 2, 7), _number(rng, 2, 7)), reverse=True)
    return {"a": _written(a, rng), "b": _written(b, rng)}, Fraction(a - b)


def _product(rng: random.Random) -> Made:
    a, b = _number(rng, 2, 4), _number(rng, 2, 3)
    return {"a": _written(a, rng), "b": _written(b, rng)}, Fraction(a * b)


def _quotient(rng: random.Random) -> Made:
    b, c = _number(rng, 2, 2), _number(rng, 2, 4)
    return {"a": _written(b * c, rng), "b": str(b)}, Fraction(c)


def _many(rng: random.Random) -> Made:
    numbers = [_number(rng, 2, 5) for _ in range(rng.randint(3, 6))]
    return {"list": ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"}, Fraction(sum(numbers))


def _items(rng: random.Random) -> Made:
    first, second = rng.sample(_NAMES, 2)
    n, m = rng.randint(2, 24), rng.randint(2, 24)
    p, q = _price(rng), _price(rng)
    fields = {"n": str(n), "m": str(m), "p": _money(p), "q": _money(q), "first": first, "second": second}
    return fields, n * p + m * q


def _one_of_each(rng: random.Random) -> Made:
    things = rng.sample(_NAMES, 3)
    prices = [_price(rng) for _ in things]
    fields = {f"t{i}": t for i, t in enumerate(things)} | {f"p{i}": _money(p) for i, p in enumerate(prices)}
    return fields, sum(prices, Fraction(0))


def _so_many(rng: random.Random) -> Made:
    n, p = rng.randint(3, 60), _price(rng)
    return {"n": str(n), "p": _money(p), "thing": rng.choice(_NAMES)}, n * p


def _change(rng: random.Random) -> Made:
    p = _price(rng, 4999)
    bill = next(b for b in (5, 10, 20, 50) if b > p)
    return {"p": _money(p), "bill": str(bill), "thing": rng.choice(_NAMES)}, bill - p


def _percent_of(rng: random.Random) -> Made:
    p, x = rng.choice([*range(2, 60), 75, 80, 90]), _number(rng, 2, 6)
    return {"p": str(p), "x": _written(x, rng)}, Fraction(p * x, 100)


def _percent_off(rng: random.Random) -> Made:
    p, x = rng.choice((5, 10, 12, 15, 20, 25, 30, 40, 60)), _price(rng, 99999)
    return {"p": str(p), "x": _money(x)}, x * (100 - p) / 100


def _percent_more(rng: random.Random) -> Made:
    p, x = rng.choice((3, 5, 7, 8, 10, 12, 15, 18, 19, 20, 25)), _price(rng, 99999)
    return {"p": str(p), "x": _money(x)}, x * (100 + p) / 100


def _which_percent(rng: random.Random) -> Made:
    whole = rng.choice((40, 80, 120, 160, 200, 250, 400, 500, 640, 1250, 2000))
    p = rng.randint(3, 95)
    part = Fraction(whole * p, 100)
    if part.denominator != 1:
        return _which_percent(rng)
    return {"a": str(part), "b": str(whole)}, Fraction(p)


_CONVERTED = (
    ("kilometers", "meters", Fraction(1000)), ("kg", "grams", Fraction(1000)), ("hours", "minutes", Fraction(60)),
    ("meters", "centimeters", Fraction(100)), ("liters", "milliliters", Fraction(1000)),
    ("minutes", "seconds", Fraction(60)), ("feet", "inches", Fraction(12)), ("weeks", "days", Fraction(7)),
    ("miles", "kilometers", Fraction("1.609344")), ("pounds", "kilograms", Fraction("0.45359237")),
)  # fmt: skip


def _converted(rng: random.Random) -> Made:
    unit, into, size = rng.choice(_CONVERTED)
    x = Fraction(rng.randint(11, 9999), rng.choice((1, 1, 10)))
    if x == 1:
        x = Fraction(12)
    return {"x": str(float(x)).removesuffix(".0"), "unit": unit, "into": into}, x * size


def _weights(rng: random.Random) -> Made:
    x, y = Fraction(rng.randint(11, 99), 10), rng.randint(2, 19) * 50
    return {"x": str(float(x)), "y": str(y)}, x * 1000 + y


_MONTHS = "January February March April May June July August September October November December".split()


def _day(of: date, rng: random.Random) -> str:
    return f"{of.day} {_MONTHS[of.month - 1]}" if rng.random() < 0.5 else f"{_MONTHS[of.month - 1]} {of.day}"


def _some_day(rng: random.Random) -> date:
    return date(2025, 1, 1) + timedelta(days=rng.randrange(500))


def _days(rng: random.Random) -> Made:
    first = _some_day(rng)
    n = rng.randint(9, 300)
    last = first + timedelta(days=n)
    return {"a": f"{_day(first, rng)}, {first.year}", "b": f"{_day(last, rng)}, {last.year}"}, Fraction(n)


def _later(rng: random.Random) -> Made:
    first, n = _some_day(rng), rng.randint(9, 300)
    return {"a": f"{_day(first, rng)}, {first.year}", "n": str(n)}, first + timedelta(days=n)


def _minutes(rng: random.Random) -> Made:
    start = rng.randint(0, 20 * 60)
    length = rng.randint(17, 23 * 60 - start)
    clock = [f"{m // 60}:{m % 60:02}" for m in (start, start + length)]
    return {"a": clock[0], "b": clock[1]}, Fraction(length)


def _page(rng: random.Random) -> tuple[dict[str, str], dict[str, int], str]:
    """Names, the amount on the page for each, and the page."""
    posts = rng.sample(_POSTS, rng.randint(5, 8))
    values = {post: _number(rng, 2, 5) for post in posts}
    person = rng.choice(_PEOPLE)
    style = rng.randrange(3)
    if style == 0:
        lines = [f"{post.capitalize()}: {value}" for post, value in values.items()]
        page = f"{person}'s costs in {rng.choice(_MONTHS)}, in euros\n" + "\n".join(lines)
    elif style == 1:
        lines = [f"| {post} | {value:,} |" for post, value in values.items()]
        page = "| item | euros |\n|---|---|\n" + "\n".join(lines)
    else:
        said = [f"{person} paid {value:,} euros for {post}." for post, value in values.items()]
        page = " ".join(said)
    return dict(zip("abc", posts, strict=False)), values, page


def _page_sum(rng: random.Random) -> tuple[dict[str, str], Value, str]:
    names, values, page = _page(rng)
    return names, Fraction(values[names["a"]] + values[names["b"]]), page


def _page_difference(rng: random.Random) -> tuple[dict[str, str], Value, str]:
    names, values, page = _page(rng)
    first, second = sorted("ab", key=lambda k: -values[names[k]])
    fields = {"a": names[first], "b": names[second]}
    return fields, Fraction(values[fields["a"]] - values[fields["b"]]), page


def _page_total(rng: random.Random) -> tuple[dict[str, str], Value, str]:
    _, values, page = _page(rng)
    return {}, Fraction(sum(values.values())), page


@dataclass(frozen=True)
class _Way:
    """Phrasings whose numbers are drawn in the same way."""

    kind: str
    make: Callable[[random.Random], tuple[dict[str, str], Value] | tuple[dict[str, str], Value, str]]
    tuned: tuple[str, ...]
    held_out: tuple[str, ...] = ()


WAYS = (
    _Way("plain", _sum, (
        "What is {a} + {b}?", "{a} plus {b}?", "Add {a} and {b}.", "whats {a}+{b}", "How much is {a} and {b} together?",
    ), ("Could you please add {a} to {b} for me?",)),
    _Way("plain", _product, (
        "What is {a} * {b}?", "{a} times {b}", "Multiply {a} by {b}.", "How much is {a} x {b}?",
    ), ("I need the product of {a} and {b}.",)),
    _Way("plain", _quotient, (
        "What is {a} / {b}?", "Divide {a} by {b}.", "{a} divided by {b} is how much?", "calculate {a} ÷ {b}",
    ), ("If I share {a} equally among {b} people, how much does each get?",)),
    _Way("plain", _many, (
        "What is the sum of {list}?", "Add up {list}.", "Please total these: {list}",
    )),
    _Way("differences", _difference, (
        "What is {a} - {b}?", "What is the difference between {a} and {b}?", "Subtract {b} from {a}.",
        "How much more is {a} than {b}?", "{a} minus {b} please",
    ), (
        "By how much does {a} exceed {b}?", "What is left of {a} if I take away {b}?",
        "How far apart are {a} and {b}?",
    )),
    _Way("prices", _items, (
        "What do {n} {first}s at ${p} each and {m} {second}s at ${q} each cost together?",
        "I buy {n} {first}s for ${p} each and {m} {second}s for ${q} each. How much do I pay?",
        "{n} {first}s at {p} and {m} {second}s at {q}, what's the total?",
        "{first}s are ${p} each, {second}s ${q} each. I need {n} {first}s and {m} {second}s. What is the total?",
    ), ("A {first} costs ${p} and a {second} costs ${q}. What do I pay for {n} {first}s and {m} {second}s?",)),
    _Way("prices", _one_of_each, (
        "A {t0} costs ${p0}, a {t1} ${p1} and a {t2} ${p2}. What do they cost together?",
        "What's the total of ${p0}, ${p1} and ${p2}?",
        "I bought a {t0} for ${p0}, a {t1} for ${p1} and a {t2} for ${p2}. How much did I spend?",
        "Total of {t0} {p0}, {t1} {p1} and {t2} {p2}?", "{t0} {p0}, {t1} {p1}, {t2} {p2} - what is that together?",
    ), ("My receipt says {t0} {p0}, {t1} {p1}, {t2} {p2}. What is the sum?",)),
    _Way("prices", _so_many, (
        "How much do {n} {thing}s cost at ${p} each?", "One {thing} costs ${p}. What do {n} of them cost?",
        "What is the price of {n} {thing}s at ${p} apiece?", "A {thing} is ${p}, so how much are {n}?",
        "Each {thing} costs ${p}. How much for {n} {thing}s?",
    ), ("If a single {thing} is ${p}, what will {n} {thing}s set me back?",)),
    _Way("prices", _change, (
        "A {thing} costs ${p}. I pay with a ${bill} bill. How much change do I get?",
        "How much change from ${bill} if I pay ${p}?",
        "If I hand over ${bill} for a {thing} at ${p}, what do I get back?",
    )),
    _Way("percent", _percent_of, (
        "What is {p}% of {x}?", "How much is {p} percent of {x}?", "{p}% of {x}", "Calculate {p} % of {x} for me.",
    ), ("I have {x} and want to give away {p} percent of it. How much is that?",)),
    _Way("percent", _percent_off, (
        "A coat costs ${x} and there is {p}% off. What do I pay?", "What is ${x} minus {p}%?",
        "Price ${x}, discount {p}%. What is the final price?",
    ), ("The shop takes {p} percent off a ${x} jacket. What does it cost now?",)),
    _Way("percent", _percent_more, (
        "What is ${x} plus {p}% tax?", "The meal was ${x}. What do I pay with a {p}% tip?",
        "Increase ${x} by {p}%.",
    )),
    _Way("percent", _which_percent, (
        "What percent of {b} is {a}?", "{a} is what percentage of {b}?",
    ), ("{a} out of {b}, what is that in percent?",)),
    _Way("units", _converted, (
        "How many {into} are {x} {unit}?", "Convert {x} {unit} to {into}.", "What is {x} {unit} in {into}?",
        "{x} {unit} in {into}",
    ), ("I have {x} {unit}. How many {into} is that?", "Please express {x} {unit} as {into}.")),
    _Way("units", _weights, (
        "What is {x} kg plus {y} g in grams?", "How many grams are {x} kg and {y} g together?",
    ), ("A parcel of {x} kg and one of {y} g: how many grams do they weigh together?",)),
    _Way("dates", _days, (
        "How many days are there between {a} and {b}?", "How many days is it from {a} to {b}?",
        "Days from {a} until {b}?",
    ), ("My holiday begins on {a} and ends on {b}. How many days later is that?",)),
    _Way("dates", _later, (
        "What date is {n} days after {a}?", "Which day is {n} days from {a}?",
    ), ("If I start on {a}, what is the date {n} days later?",)),
    _Way("dates", _minutes, (
        "How many minutes are there between {a} and {b}?", "How many minutes is it from {a} to {b}?",
    ), ("The train leaves at {a} and arrives at {b}. How many minutes does it take?",)),
    _Way("page", _page_sum, (
        "How much are {a} and {b} together?", "What is the sum of {a} and {b}?", "Add the amounts for {a} and {b}.",
    ), ("What did {a} and {b} come to in all?",)),
    _Way("page", _page_difference, (
        "How much more was {a} than {b}?", "What is the difference between {a} and {b}?",
    ), ("By how much does {a} exceed {b}?",)),
    _Way("page", _page_total, (
        "What is the total of all amounts?", "Add up all the amounts.", "What do all of these cost together?",
    ), ("How much is everything on this page in total?",)),
)  # fmt: skip
KINDS = tuple(dict.fromkeys(way.kind for way in WAYS))


def calculations(n: int, seed: int, held_out: bool | None = None) -> list[Calculation]:
    """`n` questions, the kinds in turn.

    Args:
        held_out: only phrasings that are held out, or only the others; None: both.
    """
    rng = random.Random(f"calculations {seed}")
    found = []
    for i in range(n):
        kind = KINDS[i % len(KINDS)]
        said = [
            (way, text, held)
            for way in WAYS
            if way.kind == kind
            for held, texts in ((False, way.tuned), (True, way.held_out))
            if held_out is None or held == held_out
            for text in texts
        ]
        way, text, held = rng.choice(said)
        fields, value, *rest = way.make(rng)
        found.append(Calculation(kind, text.format(**fields), value, rest[0] if rest else "", held))
    return found


# -- scoring ---------------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"(?<![\w.])-?[$€£]?-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?!\d)")


def numbers_of(text: str) -> list[Fraction]:
    """The numbers in a text, in order; a sign counts directly before the first digit or the currency."""
    found = []
    for match in _NUMBER.finditer(text):
        digits = re.sub(r"[^\d.]", "", match.group())
        found.append(Fraction(digits) * (-1 if "-" in match.group() else 1))
    return found


def is_right(case: Calculation, reply: str) -> bool:
    """Whether the last number of a reply that is not in the question is the answer; for a date, whether it is named.

    An answer that is also a number of the question has to be the reply's last number. Infinite decimals may be rounded
    to two decimals or four digits.
    """
    if isinstance(case.value, date):
        month, day = _MONTHS[case.value.month - 1], case.value.day
        return (
            re.search(rf"\b(?:{month} {day}|{day}(?:th|st|nd|rd)? (?:of )?{month}|{case.value})\b", reply) is not None
        )
    given = numbers_of(f"{case.page}\n{case.question}")
    said = numbers_of(reply)
    new = [n for n in said if n not in given] or said[-1:]
    return bool(new) and near(new[-1], case.value)


def near(said: Fraction, value: Fraction) -> bool:
    """Whether a number is a value or its rounding."""
    if value.denominator == 1:
        return said == value
    return said == value or abs(said - value) <= max(Fraction(1, 200), abs(value) / 5000)


def last_number(reply: str) -> Fraction | None:
    """The last number of a reply, as word problems are scored."""
    found: Sequence[Fraction] = numbers_of(reply)
    return found[-1] if found else None
