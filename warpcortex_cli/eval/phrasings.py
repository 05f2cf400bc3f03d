"""Calculations as people type them, written without knowledge of the recogniser's rules.

`eval/calculations.py` was written together with `work/words.py`, so its held-out phrasings resemble the others. The
`FIRST` were written before their author had read that file; the rules were then improved on them. The `SECOND` were
written after that and evaluated once; then the rules were improved on them, too, and likewise with the `THIRD`. The
fourth set (`held_out.py`) has the unbiased figure. `NONE` contains numbers but asks for no calculation. A wrong exact
answer is worse than none, so it is counted separately.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction


@dataclass(frozen=True)
class Phrasing:
    """A template, the draws of its fields, and its answer.

    Args:
        kind: price, percent, units, dates, difference, plain or page.
        text: the user's words, with `{field}`.
        draws: for each field a function of a random source and the fields before it.
        answer: a function from the fields to a number, or to a text such as `Thursday` or `17:15`.
    """

    kind: str
    text: str
    answer: Callable[..., Fraction | str]
    draws: dict[str, Callable[..., object]] = field(default_factory=dict)


def whole(low: int, high: int) -> Callable[..., int]:
    return lambda source, _: source.randint(low, high)


def price(low: int, high: int) -> Callable[..., Decimal]:
    """A price with two decimals."""
    return lambda source, _: Decimal(source.randint(low * 100, high * 100)) / 100


def digits(low: int, high: int) -> Callable[..., int]:
    """A number of `low` to `high` digits, each length equally likely."""

    def draw(source: random.Random, _: object) -> int:
        length = source.randint(low, high)
        return source.randint(10 ** (length - 1), 10**length - 1)

    return draw


def made(make: Callable[[random.Random, dict], object]) -> Callable[..., object]:
    """A field computed from those before it."""
    return make


def of(value: object) -> Fraction:
    return Fraction(str(value))


def _more(name: str) -> Callable[..., object]:
    return made(lambda source, drawn: drawn[name] + source.randint(1, max(2, drawn[name])))


def _less(name: str) -> Callable[..., object]:
    return made(lambda source, drawn: source.randint(1, max(1, drawn[name] - 1)))


def _on(day: date) -> str:
    return f"{day:%B} {day.day}, {day.year}"


FIRST: tuple[Phrasing, ...] = (
    Phrasing(
        "price",
        "if i buy {a} coffees at ${p} each, how much is that",
        lambda a, p: a * of(p),
        {"a": whole(2, 30), "p": price(2, 9)},
    ),
    Phrasing(
        "price",
        "I bought a jacket for ${x}, two shirts for ${y} each and a belt for ${z}. What did I spend altogether?",
        lambda x, y, z: of(x + 2 * y + z),
        {"x": whole(60, 300), "y": whole(15, 60), "z": whole(10, 50)},
    ),
    Phrasing(
        "price",
        "total for {a} tickets at {x} euros and {b} tickets at {y} euros?",
        lambda a, x, b, y: of(a * x + b * y),
        {"a": whole(2, 20), "x": whole(10, 90), "b": whole(2, 20), "y": whole(5, 45)},
    ),
    Phrasing(
        "price",
        "Groceries today: milk {p}, bread {q}, cheese {r}. whats the total",
        lambda p, q, r: of(p) + of(q) + of(r),
        {"p": price(1, 3), "q": price(2, 6), "r": price(3, 15)},
    ),
    Phrasing(
        "price", "My rent is ${x} a month. How much is that per year?", lambda x: of(12 * x), {"x": whole(400, 3000)}
    ),
    Phrasing(
        "price",
        "How much change do I get from a $100 bill if I pay for something costing ${p}?",
        lambda p: 100 - of(p),
        {"p": price(3, 99)},
    ),
    Phrasing(
        "price",
        "A box of {a} pens costs ${x}. How much is one pen?",
        lambda a, x: of(x) / a,
        {"a": whole(2, 40), "x": made(lambda source, drawn: drawn["a"] * source.randint(1, 9))},
    ),
    Phrasing(
        "price",
        "We are {a} people and the bill was ${x}, how much does each of us pay?",
        lambda a, x: of(x) / a,
        {"a": whole(2, 12), "x": made(lambda source, drawn: drawn["a"] * source.randint(8, 60))},
    ),
    Phrasing(
        "price",
        "Each ticket is £{p}. I need {a} of them plus a £{q} booking fee. Total cost?",
        lambda p, a, q: of(p) * a + of(q),
        {"p": price(5, 60), "a": whole(2, 12), "q": price(1, 9)},
    ),
    Phrasing(
        "price",
        "{a} kilos of apples at {p} per kilo, what do I pay?",
        lambda a, p: a * of(p),
        {"a": whole(2, 30), "p": price(1, 5)},
    ),
    Phrasing(
        "price",
        "I earn ${p} an hour and worked {a} hours last week. what's my pay before tax?",
        lambda p, a: a * of(p),
        {"p": price(12, 60), "a": whole(10, 50)},
    ),
    Phrasing(
        "price",
        "can you add up these for me: {x}, {y}, {z} and {w}",
        lambda x, y, z, w: of(x + y + z + w),
        {"x": digits(2, 7), "y": digits(2, 7), "z": digits(2, 7), "w": digits(2, 7)},
    ),
    Phrasing("percent", "whats {a}% of {x}", lambda a, x: of(a) * x / 100, {"a": whole(2, 95), "x": digits(2, 7)}),
    Phrasing(
        "percent",
        "A {a}% tip on ${p}, how much is it?",
        lambda a, p: of(p) * a / 100,
        {"a": whole(5, 25), "p": whole(10, 200)},
    ),
    Phrasing(
        "percent",
        "The TV costs ${x} and is {a}% off. What do I pay?",
        lambda x, a: of(x) * (100 - a) / 100,
        {"x": whole(200, 3000), "a": whole(5, 60)},
    ),
    Phrasing(
        "percent",
        "My salary goes from {x} to {y}, by how many percent did it rise?",
        lambda x, y: of(y - x) / x * 100,
        {
            "x": made(lambda source, drawn: source.randint(10, 90) * 100),
            "y": made(lambda source, drawn: drawn["x"] // 100 * (100 + source.randint(1, 40))),
        },
    ),
    Phrasing(
        "percent", "add {a}% VAT to {x}", lambda a, x: of(x) * (100 + a) / 100, {"a": whole(5, 25), "x": digits(2, 5)}
    ),
    Phrasing(
        "percent",
        "{x} is what percent of {y}?",
        lambda x, y: of(x) / y * 100,
        {
            "x": made(lambda source, drawn: source.randint(1, 99)),
            "y": made(lambda source, drawn: drawn["x"] * source.choice((2, 4, 5, 8, 10, 20))),
        },
    ),
    Phrasing(
        "percent",
        "If {a} out of {b} people said yes, what percentage is that?",
        lambda a, b: of(a) / b * 100,
        {
            "a": made(lambda source, drawn: source.randint(1, 19) * 10),
            "b": made(lambda source, drawn: drawn["a"] * source.choice((2, 4, 5))),
        },
    ),
    Phrasing(
        "percent",
        "I put ${x} into savings at {a}% interest for one year. How much interest do I get?",
        lambda x, a: of(x) * a / 100,
        {"x": digits(3, 5), "a": whole(1, 9)},
    ),
    Phrasing(
        "percent",
        "Price before was {x}, now it's {y}. what's the discount in percent?",
        lambda x, y: of(x - y) / x * 100,
        {
            "x": made(lambda source, drawn: source.randint(2, 90) * 100),
            "y": made(lambda source, drawn: drawn["x"] // 100 * (100 - source.randint(5, 60))),
        },
    ),
    Phrasing(
        "percent",
        "how much is {x} minus {a} percent",
        lambda x, a: of(x) * (100 - a) / 100,
        {"x": digits(2, 6), "a": whole(2, 60)},
    ),
    Phrasing("units", "how many meters are in {a} km", lambda a: of(1000 * a), {"a": whole(2, 900)}),
    Phrasing("units", "convert {a} inches to cm", lambda a: of(a) * of("2.54"), {"a": whole(2, 900)}),
    Phrasing(
        "units",
        "{a} minutes in hours?",
        lambda a: of(a) / 60,
        {"a": made(lambda source, drawn: 15 * source.randint(5, 60))},
    ),
    Phrasing("units", "What's {a} feet in inches?", lambda a: of(12 * a), {"a": whole(2, 900)}),
    Phrasing(
        "units",
        "i ran {a} miles, how many kilometres is that",
        lambda a: of(a) * of("1.609344"),
        {"a": whole(2, 90)},
    ),
    Phrasing("units", "How many grams is {a} pounds?", lambda a: of(a) * of("453.59237"), {"a": whole(2, 90)}),
    Phrasing("units", "{a} degrees celsius in fahrenheit", lambda a: of(a) * 9 / 5 + 32, {"a": whole(-20, 100)}),
    Phrasing("units", "how many seconds are there in {a} hours", lambda a: of(3600 * a), {"a": whole(2, 90)}),
    Phrasing(
        "units",
        "I have {a} liters of juice. How many 250 ml glasses can I fill?",
        lambda a: of(4 * a),
        {"a": whole(2, 90)},
    ),
    Phrasing(
        "dates",
        "how many days between {d} and {e}",
        lambda d, e, n: of(n),
        {
            "n": whole(3, 300),
            "d": made(lambda source, drawn: "March 3 2024"),
            "e": made(lambda source, drawn: _on(date(2024, 3, 3) + timedelta(drawn["n"]))),
        },
    ),
    Phrasing(
        "dates",
        "What date is it {a} days after 14 February 2025?",
        lambda a: (date(2025, 2, 14) + timedelta(a)).isoformat(),
        {"a": whole(3, 300)},
    ),
    Phrasing(
        "dates",
        "What day of the week is {d}?",
        lambda d: f"{date.fromisoformat(d):%A}",
        {"d": made(lambda source, drawn: (date(2024, 1, 1) + timedelta(source.randint(0, 900))).isoformat())},
    ),
    Phrasing("dates", "my shift starts at 8:45 and ends at 17:30, how long is it", lambda: "8:45"),
    Phrasing("dates", "The train leaves at 14:20 and takes 2 hours 55 minutes. When does it arrive?", lambda: "17:15"),
    Phrasing(
        "dates", "She was born in {y}. How old will she be in 2031?", lambda y: of(2031 - y), {"y": whole(1950, 2020)}
    ),
    Phrasing(
        "dates",
        "If today is May 3 2024, what date is it in {a} weeks?",
        lambda a: (date(2024, 5, 3) + timedelta(7 * a)).isoformat(),
        {"a": whole(2, 30)},
    ),
    Phrasing(
        "dates",
        "how many weeks are {a} days",
        lambda a: of(a) / 7,
        {"a": made(lambda source, drawn: 7 * source.randint(2, 90))},
    ),
    Phrasing("dates", "The movie starts at 7:50 pm and is 135 minutes long, when is it over?", lambda: "22:05"),
    Phrasing(
        "difference", "how much more is {x} than {y}", lambda x, y: of(x - y), {"y": digits(2, 6), "x": _more("y")}
    ),
    Phrasing(
        "difference",
        "whats the difference between {x} and {y}?",
        lambda x, y: abs(of(x - y)),
        {"x": digits(2, 7), "y": digits(2, 7)},
    ),
    Phrasing(
        "difference",
        "I had {x} followers and now I have {y}. How many did I gain?",
        lambda x, y: of(y - x),
        {"x": digits(2, 6), "y": _more("x")},
    ),
    Phrasing("difference", "{x} take away {y}", lambda x, y: of(x - y), {"x": digits(3, 7), "y": digits(2, 3)}),
    Phrasing(
        "difference",
        "Our town has {x:,} people, the next one {y:,}. By how many is ours bigger?",
        lambda x, y: of(x - y),
        {"y": digits(4, 6), "x": _more("y")},
    ),
    Phrasing(
        "difference",
        "I've read {a} of {b} pages. How many are left?",
        lambda a, b: of(b - a),
        {"b": whole(200, 900), "a": _less("b")},
    ),
    Phrasing(
        "difference",
        "We need {x} bricks and have {y}. How many are missing?",
        lambda x, y: of(x - y),
        {"x": digits(3, 6), "y": _less("x")},
    ),
    Phrasing(
        "difference",
        "the odometer said {x} when we left and {y} when we came back. how far did we drive?",
        lambda x, y: of(y - x),
        {"x": digits(4, 6), "y": made(lambda source, drawn: drawn["x"] + source.randint(20, 2000))},
    ),
    Phrasing("plain", "what's {x} times {y}", lambda x, y: of(x * y), {"x": digits(2, 7), "y": digits(2, 4)}),
    Phrasing(
        "plain",
        "{x} + {y} * {a}",
        lambda x, y, a: of(x + y * a),
        {"x": digits(2, 7), "y": digits(2, 5), "a": whole(2, 99)},
    ),
    Phrasing(
        "plain",
        "divide {x} by {a}",
        lambda x, a: of(x) / a,
        {"a": whole(2, 99), "x": made(lambda source, drawn: drawn["a"] * source.randint(11, 99999))},
    ),
    Phrasing(
        "plain",
        "whats the average of {x}, {y} and {z}",
        lambda x, y, z: of(x + y + z) / 3,
        {
            "x": digits(2, 5),
            "y": digits(2, 5),
            "z": made(lambda source, drawn: 3 * source.randint(10, 999) - (drawn["x"] + drawn["y"]) % 3),
        },
    ),
    Phrasing("plain", "half of {x}", lambda x: of(x) / 2, {"x": digits(2, 7)}),
    Phrasing("plain", "{x} squared", lambda x: of(x * x), {"x": digits(2, 5)}),
    Phrasing(
        "page",
        "Invoice\nDesk lamp   {p}\nOffice chair   {q}\nShipping   {r}\n\nWhat is the total of this invoice?",
        lambda p, q, r: of(p) + of(q) + of(r),
        {"p": price(15, 90), "q": price(60, 400), "r": price(4, 20)},
    ),
    Phrasing(
        "page",
        "The harbour was built in 1871. In 2019 it handled {x:,} tonnes of grain and {y:,} tonnes of timber. The crane "
        "weighs 45 tonnes.\n\nHow many tonnes of grain and timber were handled together?",
        lambda x, y: of(x + y),
        {"x": digits(3, 6), "y": digits(3, 6)},
    ),
    Phrasing(
        "page",
        "Lena: {a} hours\nTom: {b} hours\nIvo: {c} hours\n\nhow many hours did they work all together",
        lambda a, b, c: of(a + b + c),
        {"a": whole(5, 60), "b": whole(5, 60), "c": whole(5, 60)},
    ),
    Phrasing(
        "page",
        "Room A seats {a} people. Room B seats {b} people. Parking has 40 spaces.\n\n"
        "How many more people fit in room B than in room A?",
        lambda a, b: of(b - a),
        {"a": whole(20, 300), "b": _more("a")},
    ),
    Phrasing(
        "page",
        "Visitors: Monday {x}, Tuesday {y}, Wednesday {z}.\n\nOn average, how many visitors came per day?",
        lambda x, y, z: of(x + y + z) / 3,
        {
            "x": whole(50, 900),
            "y": whole(50, 900),
            "z": made(lambda source, drawn: 3 * source.randint(20, 300) - (drawn["x"] + drawn["y"]) % 3),
        },
    ),
    Phrasing(
        "page",
        "Rent {x}\nHeating {y}\nInternet {z}\n\nWhat do rent and heating come to?",
        lambda x, y, z: of(x + y),
        {"x": whole(400, 2000), "y": whole(50, 300), "z": whole(15, 60)},
    ),
)

SECOND: tuple[Phrasing, ...] = (
    Phrasing(
        "price",
        "need {a} chairs, ${p} per chair. whats the damage",
        lambda a, p: a * of(p),
        {"a": whole(2, 40), "p": price(9, 90)},
    ),
    Phrasing(
        "price",
        "How much are {a} bus tickets if one is {p} euros?",
        lambda a, p: a * of(p),
        {"a": whole(2, 20), "p": price(1, 5)},
    ),
    Phrasing(
        "price",
        "Dinner: ${x} for the food, ${y} for drinks. Sum?",
        lambda x, y: of(x) + of(y),
        {"x": price(20, 90), "y": price(5, 40)},
    ),
    Phrasing(
        "price",
        "I've got {x} euros. If I spend {y} on shoes, how much do I have left?",
        lambda x, y: of(x - y),
        {"x": digits(3, 4), "y": _less("x")},
    ),
    Phrasing(
        "price",
        "two coffees {p} each and a cake {q}, total please",
        lambda p, q: 2 * of(p) + of(q),
        {"p": price(2, 6), "q": price(3, 9)},
    ),
    Phrasing(
        "price", "my phone plan is {p} a month, what do i pay in a year?", lambda p: 12 * of(p), {"p": price(8, 60)}
    ),
    Phrasing(
        "price",
        "split ${x} between {a} friends",
        lambda x, a: of(x) / a,
        {"a": whole(2, 9), "x": made(lambda source, drawn: drawn["a"] * source.randint(5, 90))},
    ),
    Phrasing(
        "price",
        "The cashier got a 50 from me and my groceries were {p}. how much change should I get back?",
        lambda p: 50 - of(p),
        {"p": price(4, 49)},
    ),
    Phrasing(
        "percent",
        "{x} with {a}% discount?",
        lambda x, a: of(x) * (100 - a) / 100,
        {"x": digits(2, 5), "a": whole(5, 70)},
    ),
    Phrasing(
        "percent",
        "what would a {a} percent raise on {x} be",
        lambda a, x: of(x) * a / 100,
        {"a": whole(2, 20), "x": digits(4, 5)},
    ),
    Phrasing(
        "percent",
        "Rent went up from {x} to {y}. What percentage increase is that?",
        lambda x, y: of(y - x) / x * 100,
        {
            "x": made(lambda source, drawn: source.randint(4, 20) * 100),
            "y": made(lambda source, drawn: drawn["x"] // 100 * (100 + source.randint(1, 30))),
        },
    ),
    Phrasing(
        "percent",
        "I got {a} of {b} points on the test. What's that in percent?",
        lambda a, b: of(a) / b * 100,
        {"b": made(lambda source, drawn: source.choice((20, 40, 50, 80))), "a": _less("b")},
    ),
    Phrasing(
        "percent",
        "how much tax do i pay on ${x} if the rate is {a}%",
        lambda x, a: of(x) * a / 100,
        {"x": digits(3, 6), "a": whole(5, 45)},
    ),
    Phrasing(
        "percent",
        "What's ${x} after {a}% tip?",
        lambda x, a: of(x) * (100 + a) / 100,
        {"x": whole(15, 200), "a": whole(8, 25)},
    ),
    Phrasing("units", "{a} lbs to kg", lambda a: of(a) * of("0.45359237"), {"a": whole(2, 400)}),
    Phrasing("units", "How tall is {a} cm in feet?", lambda a: of(a) / of("30.48"), {"a": whole(100, 220)}),
    Phrasing(
        "units",
        "is {a} km more than 10 miles? how many miles is it",
        lambda a: of(a) / of("1.609344"),
        {"a": whole(2, 90)},
    ),
    Phrasing("units", "oven says {a}F, whats that in C?", lambda a: (of(a) - 32) * 5 / 9, {"a": whole(250, 480)}),
    Phrasing("units", "how many minutes is {a} days", lambda a: of(1440 * a), {"a": whole(2, 60)}),
    Phrasing(
        "units",
        "The recipe wants {a} ounces of flour, how much is that in grams?",
        lambda a: of(a) * of("28.349523125"),
        {"a": whole(2, 60)},
    ),
    Phrasing("units", "{a} gb in mb", lambda a: of(1000 * a), {"a": whole(2, 900)}),
    Phrasing(
        "dates",
        "how many days until {e} if today is May 3 2024",
        lambda e, n: of(n),
        {"n": whole(3, 200), "e": made(lambda source, drawn: _on(date(2024, 5, 3) + timedelta(drawn["n"])))},
    ),
    Phrasing(
        "dates",
        "what's the date {a} weeks before 1 December 2025?",
        lambda a: (date(2025, 12, 1) - timedelta(7 * a)).isoformat(),
        {"a": whole(2, 20)},
    ),
    Phrasing(
        "dates",
        "Which weekday was {d}?",
        lambda d, day: f"{day:%A}",
        {
            "day": made(lambda source, drawn: date(2020, 1, 1) + timedelta(source.randint(0, 2000))),
            "d": made(lambda source, drawn: _on(drawn["day"])),
        },
    ),
    Phrasing("dates", "meeting from 10:15 to 11:50, how many minutes is that?", lambda: of(95)),
    Phrasing("dates", "flight departs 22:40 and takes 3h 35min. arrival time?", lambda: "2:15"),
    Phrasing("dates", "born {y}, how old in 2026?", lambda y: of(2026 - y), {"y": whole(1940, 2015)}),
    Phrasing(
        "difference", "how much bigger is {x} than {y}?", lambda x, y: of(x - y), {"y": digits(2, 6), "x": _more("y")}
    ),
    Phrasing(
        "difference",
        "Bank account: yesterday {x}, today {y}. How much did I spend?",
        lambda x, y: of(x - y),
        {"x": digits(3, 5), "y": _less("x")},
    ),
    Phrasing(
        "difference",
        "Everest is {x:,} m high and Mont Blanc {y:,} m. How much higher is Everest?",
        lambda x, y: of(x - y),
        {"y": digits(4, 4), "x": _more("y")},
    ),
    Phrasing(
        "difference",
        "our goal is ${x}, we have raised ${y} so far. how much more do we need",
        lambda x, y: of(x - y),
        {"x": digits(4, 6), "y": _less("x")},
    ),
    Phrasing("difference", "{x} less {y} equals?", lambda x, y: of(x - y), {"x": digits(3, 6), "y": digits(2, 3)}),
    Phrasing("plain", "{x} x {y} = ?", lambda x, y: of(x * y), {"x": digits(2, 5), "y": digits(2, 4)}),
    Phrasing(
        "plain",
        "please compute the sum of {x}, {y} and {z}",
        lambda x, y, z: of(x + y + z),
        {"x": digits(2, 7), "y": digits(2, 7), "z": digits(2, 7)},
    ),
    Phrasing(
        "plain",
        "what do you get if you multiply {x} and {y}?",
        lambda x, y: of(x * y),
        {"x": digits(2, 5), "y": digits(2, 3)},
    ),
    Phrasing("plain", "a quarter of {x}?", lambda x: of(x) / 4, {"x": digits(2, 6)}),
    Phrasing(
        "plain",
        "mean of {x} {y} {z}",
        lambda x, y, z: of(x + y + z) / 3,
        {
            "x": digits(2, 4),
            "y": digits(2, 4),
            "z": made(lambda source, drawn: 3 * source.randint(10, 999) - (drawn["x"] + drawn["y"]) % 3),
        },
    ),
    Phrasing(
        "page",
        "Team A scored {a} points and Team B scored {b} points. The match lasted 40 minutes.\n\n"
        "by how many points did Team B win?",
        lambda a, b: of(b - a),
        {"a": whole(20, 90), "b": _more("a")},
    ),
    Phrasing(
        "page",
        "Packing list\n- tent: {a} g\n- stove: {b} g\n- sleeping bag: {c} g\n\n"
        "How heavy are the tent and the stove together?",
        lambda a, b, c: of(a + b),
        {"a": whole(800, 3000), "b": whole(100, 700), "c": whole(500, 1500)},
    ),
    Phrasing(
        "page",
        "Q1 {x}\nQ2 {y}\nQ3 {z}\n\nadd up all three quarters",
        lambda x, y, z: of(x + y + z),
        {"x": digits(3, 6), "y": digits(3, 6), "z": digits(3, 6)},
    ),
)
THIRD: tuple[Phrasing, ...] = (
    Phrasing(
        "price",
        "ordering {a} pizzas, they're ${p} a piece. how much will it be?",
        lambda a, p: a * of(p),
        {"a": whole(2, 20), "p": price(6, 20)},
    ),
    Phrasing(
        "price",
        "bill is ${x}, 4 of us, everyone pays the same. how much per person",
        lambda x: of(x) / 4,
        {"x": made(lambda source, drawn: 4 * source.randint(5, 90))},
    ),
    Phrasing(
        "price",
        "What will {a} hours of parking at ${p} per hour cost me?",
        lambda a, p: a * of(p),
        {"a": whole(2, 12), "p": price(1, 6)},
    ),
    Phrasing(
        "price",
        "Add these up please\n{p}\n{q}\n{r}",
        lambda p, q, r: of(p) + of(q) + of(r),
        {
            "p": price(1, 90),
            "q": price(1, 90),
            "r": price(1, 90),
        },
    ),
    Phrasing("price", "i make {x} a month, whats that yearly", lambda x: of(12 * x), {"x": whole(1500, 9000)}),
    Phrasing("price", "budget 500, spent {x} so far, what's left?", lambda x: of(500 - x), {"x": whole(20, 480)}),
    Phrasing(
        "percent", "{a} percent off {x}?", lambda a, x: of(x) * (100 - a) / 100, {"a": whole(5, 70), "x": digits(2, 4)}
    ),
    Phrasing("percent", "calc {a}% from {x}", lambda a, x: of(x) * a / 100, {"a": whole(2, 95), "x": digits(2, 6)}),
    Phrasing(
        "percent",
        "{a} of our {b} customers came back. What percentage is this?",
        lambda a, b: of(a) / b * 100,
        {"b": made(lambda source, drawn: 100 * source.randint(2, 9)), "a": _less("b")},
    ),
    Phrasing(
        "percent",
        "net price {x}, VAT {a}%. gross?",
        lambda x, a: of(x) * (100 + a) / 100,
        {"x": digits(2, 5), "a": whole(5, 25)},
    ),
    Phrasing(
        "percent",
        "Sales dropped from {x} to {y}, how big is the drop in percent?",
        lambda x, y: of(x - y) / x * 100,
        {
            "x": made(lambda source, drawn: source.randint(2, 90) * 100),
            "y": made(lambda source, drawn: drawn["x"] // 100 * (100 - source.randint(5, 60))),
        },
    ),
    Phrasing("units", "{a} miles in km please", lambda a: of(a) * of("1.609344"), {"a": whole(2, 900)}),
    Phrasing("units", "how much is {a} gallons in liters", lambda a: of(a) * of("3.785411784"), {"a": whole(2, 90)}),
    Phrasing(
        "units", "I weigh {a} kg. What's that in pounds?", lambda a: of(a) / of("0.45359237"), {"a": whole(40, 120)}
    ),
    Phrasing("units", "{a} weeks is how many days?", lambda a: of(7 * a), {"a": whole(2, 90)}),
    Phrasing(
        "units",
        "It's {a} degrees Fahrenheit outside. How much is that in Celsius?",
        lambda a: (of(a) - 32) * 5 / 9,
        {"a": whole(10, 110)},
    ),
    Phrasing(
        "dates",
        "My visa is valid for {a} days from 10 June 2025. When does it expire?",
        lambda a: (date(2025, 6, 10) + timedelta(a)).isoformat(),
        {"a": whole(10, 200)},
    ),
    Phrasing("dates", "It's 16:25 now. What time will it be in 50 minutes?", lambda: "17:15"),
    Phrasing("dates", "I slept from 23:10 till 6:40. How many hours is that?", lambda: "7:30"),
    Phrasing(
        "dates",
        "Number of days from 2024-02-10 to {e}?",
        lambda e, n: of(n),
        {"n": whole(3, 300), "e": made(lambda source, drawn: (date(2024, 2, 10) + timedelta(drawn["n"])).isoformat())},
    ),
    Phrasing(
        "difference",
        "What do I get when I take {y} from {x}?",
        lambda y, x: of(x - y),
        {"y": digits(2, 3), "x": digits(4, 7)},
    ),
    Phrasing(
        "difference",
        "The old phone weighs {x} g, the new one {y} g. How much lighter is the new one?",
        lambda x, y: of(x - y),
        {"x": whole(150, 300), "y": _less("x")},
    ),
    Phrasing(
        "difference",
        "target is {x} steps and I'm at {y}. how many more to go?",
        lambda x, y: of(x - y),
        {"x": digits(4, 5), "y": _less("x")},
    ),
    Phrasing("difference", "from {x} subtract {y}", lambda x, y: of(x - y), {"x": digits(4, 7), "y": digits(2, 4)}),
    Phrasing(
        "plain",
        "{x} divided by {a} is what",
        lambda x, a: of(x) / a,
        {
            "a": whole(2, 99),
            "x": made(lambda source, drawn: drawn["a"] * source.randint(11, 9999)),
        },
    ),
    Phrasing(
        "plain",
        "can you tell me {x} plus {y} minus {a}",
        lambda x, y, a: of(x + y - a),
        {"x": digits(2, 6), "y": digits(2, 6), "a": whole(2, 99)},
    ),
    Phrasing("plain", "product of {x} and {y}", lambda x, y: of(x * y), {"x": digits(2, 5), "y": digits(2, 4)}),
    Phrasing(
        "page",
        "Anna drove {a} km on Friday. Ben drove {b} km on Friday. They met at 8 in the evening.\n\n"
        "How many km did Anna and Ben drive altogether?",
        lambda a, b: of(a + b),
        {"a": whole(20, 900), "b": whole(20, 900)},
    ),
    Phrasing(
        "page",
        "| month | sales |\n|---|---|\n| May | {a} |\n| June | {b} |\n| July | {c} |\n\n"
        "how much higher was June than May?",
        lambda a, b, c: of(b - a),
        {"a": digits(3, 5), "b": _more("a"), "c": digits(3, 5)},
    ),
    Phrasing(
        "page",
        "Shopping:\nbread {p}\nbutter {q}\njam {r}\n\nwhat did I spend?",
        lambda p, q, r: of(p) + of(q) + of(r),
        {"p": price(1, 5), "q": price(1, 5), "r": price(1, 8)},
    ),
)

# Numbers without a calculation: any Stream that starts here is needless.
NONE: tuple[str, ...] = (
    "Who won the 2014 world cup?",
    "Give me 3 tips for sleeping better",
    "I'm 25 and my sister is 30, any advice on getting along?",
    "Is 7 a lucky number?",
    "Write a haiku about 2 cats",
    "What's a 401k?",
    "Explain the 80/20 rule",
    "my order 48213 has not arrived since March 3, what can I do",
    "Translate 'I have 3 dogs and 2 cats' into Spanish",
    "How much does a good laptop cost?",
    "What are the top 10 movies of the 90s?",
    "Can I eat 2 eggs every day?",
    "The flight UA 328 leaves at 14:20. What should I pack for 5 days?",
    "I scored 85 of 100, is that good?",
    "Compare the iPhone 14 and 15",
    "what's the difference between python 2 and python 3?",
    "what is the difference between a 4k and an 8k screen",
    "How long does it take to boil 2 eggs?",
    "Fix this code: for i in range(10): print(i * 2)",
    "In chapter 12, page 240, who dies?",
    "half of my 12 friends live abroad, how do i keep in touch?",
    "Rome fell in 476. Why?",
    "what does 24/7 mean",
    "Summarize: In 2021 revenue was 400 and in 2022 it was 500.",
    "what year did apollo 11 land",
    "How many people live in Japan?",
    "What happened on 11/9/1989?",
    "Which is better for 2 people, a 40 litre or a 60 litre backpack?",
    "Room 12 is on floor 3. Where is room 14?",
    "My code is 90-45-12, please keep it secret",
)
