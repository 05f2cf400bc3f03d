"""Rates, proportions and areas: amounts of two kinds, told apart by their units.

A rate has a numerator and a denominator: 60 km an hour, 30 pages a day, 6 litres per 100 km. A question must ask for
what one of the two measures; anything else is left alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from warpcortex_cli.work.given import HIDDEN
from warpcortex_cli.work.quantities import CalculationError, unit_named
from warpcortex_cli.work.question import AMOUNT, ANY, Amount, Question
from warpcortex_cli.work.reading import Reading, computed, size

_PERIODS = {
    "hourly": "h",
    "daily": "day",
    "weekly": "week",
    "monthly": "month",
    "yearly": "year",
    "annual": "year",
    "annually": "year",
}
_TIMES = r"(?:second|minute|min|hour|hr|h|day|week|month|quarter|year)s?"
_SPANS = {  # how many of the first make one of the second
    ("min", "h"): 60, ("h", "day"): 24, ("day", "week"): 7, ("month", "year"): 12, ("week", "year"): 52,
    ("quarter", "year"): 4, ("month", "quarter"): 3, ("day", "year"): 365, ("year", "decade"): 10,
    ("year", "century"): 100,
}  # fmt: skip
_STORY = r"\b(?:left|less|first|instead|shar\w*|split\w*|than|another|extra|already|then|rest|remaining|only|free)\b"


@dataclass(frozen=True)
class _Rate:
    """A rate: amount `of`, which measures `counted`, per `over` units of `per`."""

    of: Amount
    counted: str
    per: str
    over: str  # "1", or an amount as an expression
    used: frozenset[int]


def _kind(word: str) -> str:
    """The unit or thing that a word names, the same for singular and plural."""
    if word.endswith("ies"):
        return word[:-3] + "y"
    return unit_named(word) or (word.removesuffix("es") if word.endswith("ches") else word.rstrip("s"))


def _rate(q: Question) -> _Rate | None:
    article = rf"(?:/|\bper\b|\beach\b|\bevery\b|\ba(?= {_TIMES}\b)|\ban(?= hour\b)|\bfor(?= {ANY}))"
    match = q.finds(rf"{AMOUNT}(?: ([a-z]+))?(?: of [a-z]+)? ?{article} ?(?:{AMOUNT} ?)?([a-z]+)?")
    if match is not None and (match[3] or match[4]):
        of = q.amounts[int(match[1])]
        counted = of.unit or (_kind(match[2]) if match[2] else "")
        if match[3]:
            over = q.amounts[int(match[3])]
            per = over.unit or (_kind(match[4]) if match[4] else "")
            if "for" in match.group().split() or not per:
                return None
            return _Rate(of, counted, per, over.text.split()[0], frozenset((int(match[1]), int(match[3]))))
        return _Rate(of, counted, _kind(match[4]), "1", frozenset((int(match[1]),)))
    period = "|".join(_PERIODS)
    match = q.finds(rf"\b({period}) [a-z]+ (?:is |of |was |are |: ?)?{AMOUNT}|{AMOUNT}(?: ([a-z]+))? ({period})\b")
    if match is None:
        return None
    n = int(match[2] or match[3])
    return _Rate(
        q.amounts[n], q.amounts[n].unit or match[4] or "", _PERIODS[match[1] or match[5]], "1", frozenset((n,))
    )


def rate(q: Question) -> Reading | None:
    """A rate times a count, or an amount divided by a rate."""
    if q.dates or q.clocks or q.of("percent") or q.sentences > 3 or q.says(rf"{HIDDEN}|{_STORY}|\baverage\b|[*^+]"):
        return None
    found = _rate(q)
    if found is None or found.of.kind == "percent":
        return None
    rest = [i for i in range(len(q.amounts)) if i not in found.used]
    if not rest:
        return _over_a_span(q, found) if found.over == "1" else None
    if len(rest) != 1:
        return None
    other = q.amounts[rest[0]]
    noun = re.search(rf"{re.escape(q.sign_of(other))} (?:more )?([a-z]+)", q.text)
    measured = other.unit or (_kind(noun[1]) if noun else "")
    number, each = _number(other), _number(found.of)
    if _same(measured, found.per) and other.kind in ("plain", "unit") and _asks(q, found.counted, found.of):
        if measured != found.per:
            number = _number_in(other, found.per)
        one = each if found.over == "1" else f"{each} / {found.over}"
        shown = found.of.text if found.of.kind == "money" else one
        return computed(f"{shown} * {number}" + _label(found.counted, found.of))
    same = _same(measured, found.counted) if found.of.kind != "money" else other.kind == "money"
    if same and found.over == "1" and _asks_for(q, found.per):
        if measured != found.counted and found.of.kind != "money":
            number = _number_in(other, found.counted)
        return _labelled(computed(f"{number} / {each}"), found.per)
    return None


def _labelled(found: Reading, per: str) -> Reading:
    plural = per in ("day", "week", "month", "year", "page", "hour") and found.result != "1"
    return Reading(found.asked, f"{found.result} {per}{'s' * plural}")


def _label(counted: str, of: Amount) -> str:
    return f" {counted}" if of.unit and of.kind == "unit" else ""


def _number(amount: Amount) -> str:
    return amount.text.lstrip("$€£¥").split()[0]


def _number_in(amount: Amount, unit: str) -> str:
    """The number of an amount in another unit, as a fraction. Raises CalculationError if it cannot be converted."""
    value = size(f"{amount.text} in {unit}")
    return str(value) if value.denominator == 1 else f"({value.numerator} / {value.denominator})"


def _same(first: str, second: str) -> bool:
    """Whether two names are the same thing, or units of the same quantity."""
    if not first or not second:
        return False
    if first == second:
        return True
    try:
        size(f"1 {first} in {second}")
    except CalculationError:
        return False
    return unit_named(first) is not None and unit_named(second) is not None


def _asks(q: Question, counted: str, of: Amount) -> bool:
    """Whether the question asks for the rate's numerator."""
    asks = q.asked or q.text
    if re.search(r"\bhow (?:long|old)\b|\bwhen\b|\bwhat time\b", asks):
        return False
    word = re.search(r"\bhow many ([a-z]+)", asks)
    if word is not None:
        return _same(_kind(word[1]), counted) or (of.kind == "money" and word[1] in ("dollars", "euros", "pounds"))
    if re.search(r"\bhow far\b", asks):
        return _same(counted, "m")
    return (
        re.search(r"\b(?:how much|what|whats|total|altogether|costs?|do i (?:get|pay|make|earn))\b", asks) is not None
    )


def _asks_for(q: Question, per: str) -> bool:
    """Whether the question asks for the rate's denominator."""
    asks = q.asked or q.text
    word = re.search(rf"\b(?:how many|number of|in) ({_TIMES}|[a-z]+)\b", asks)
    if word is not None and _same(_kind(word[1]), per):
        return True
    return word is None and _same(per, "h") and re.search(r"\bhow long\b|\bhow much time\b", asks) is not None


def _over_a_span(q: Question, found: _Rate) -> Reading | None:
    """`$900 a month. How much a year?`"""
    if not q.says(r"\b(?:how (?:much|many|far)|what|whats|total)\b"):
        return None
    behind = q.text.split(f"⟦{min(found.used)}⟧", 1)[1]
    span = rf"\b(?:an?|per|each|every|one|whole|full|entire|over the) ([a-z]+)|\b({'|'.join(_PERIODS)})\b"
    for word, period in re.findall(span, behind):
        many = _SPANS.get((found.per, _PERIODS[period] if period else _kind(word)))
        if many is not None and not q.says(r"\b(?:had|has|started?|begin\w*|interest|left)\b"):
            return computed(f"{found.of.text} * {many}")
    return None


_SMALL = "how|many|much|are|is|in|there|what|whats|that|convert|make|made|of|do|have|i|we|it|he|she|been|lived|here|s"


def speed(q: Question) -> Reading | None:
    """`360 km in 4 hours, what was my speed?`, `8 km in 48 minutes, how many minutes per km?`"""
    if len(q.amounts) != 2 or q.dates or q.clocks or q.sentences > 2 or q.says(rf"{HIDDEN}|{_STORY}|[*^+]"):
        return None
    way = next((a for a in q.amounts if a.unit and _same(a.unit, "m")), None)
    time = next((a for a in q.amounts if a.unit and _same(a.unit, "h")), None)
    asks = q.asked or q.text
    if way is None or time is None or not q.says(rf"{ANY}(?: [a-z]+){{0,3}} (?:in|took|takes?) (?:[a-z]+ )?{ANY}"):
        return None
    if re.search(r"\bpace\b|\bper (?:km|kilomet|mile|m\b)|\b(?:min\w*) (?:a|per|for each)\b", asks):
        return computed(f"({time.text}) / ({way.text})")
    if re.search(r"\bspeed\b|\bhow fast\b|\b(?:km|kilomet\w+|miles?|m) ?(?:/|per|an) ?h", asks):
        return computed(f"({way.text}) / ({time.text})")
    return None


def spans(q: Question) -> Reading | None:
    """Converts between spans such as months and years, which are not units: `how many months are 3 years`."""
    if len(q.amounts) != 1 or q.dates or q.clocks or q.sentences > 2 or q.amounts[0].kind not in ("plain", "unit"):
        return None
    given = re.search(rf"{AMOUNT} ?([a-z]+)?", q.text)
    into = re.search(r"\bhow many ([a-z]+)|\b(?:in|into|to|as) ([a-z]+)\b", q.text)
    if given is None or into is None:
        return None
    mine, theirs = q.amounts[0].unit or _kind(given[2] or ""), _kind(into[1] or into[2])
    rest = q.text.replace(given.group(), "").replace(into.group(), "")
    if re.sub(rf"\b(?:{_SMALL})\b|[\W_]", "", rest):
        return None
    number = _number(q.amounts[0])
    if (many := _SPANS.get((theirs, mine))) and (mine, theirs) != ("year", "day"):
        return computed(f"{number} * {many}")
    if (many := _SPANS.get((mine, theirs))) and "day" not in (mine, theirs):
        return computed(f"{number} / {many}")
    return None


def area(q: Question) -> Reading | None:
    """Length times width, if an area is asked for."""
    if len(q.amounts) != 2 or q.dates or q.clocks or q.of("percent", "money") or q.sentences > 2:
        return None
    if not q.says(r"\b(?:area|square|sq|sqm|sqft|floor space|m2|carpet|tiles? cover)\b|m²"):
        return None
    sides = r"\b(?:length|long|wide|width)\b"
    if not q.says(rf"{ANY}(?: [a-z]+)? ?(?:by|x|\*|×) ?{ANY}|{sides}.*{sides}"):
        return None
    if q.says(rf"{HIDDEN}|\b(?:each|per|costs?|perimeter|tiles?|fence|left|and a half)\b"):
        return None
    units = {a.unit for a in q.amounts if a.unit}
    if len(units) > 1:
        return None
    return computed(" * ".join(_number(a) for a in q.amounts))


def proportion(q: Question) -> Reading | None:
    """`500 g cost $4, what is that per kg?`, `3 pens cost $6. What do 10 pens cost?`"""
    if q.dates or q.clocks or q.of("percent") or q.sentences > 2 or q.says(rf"{HIDDEN}|{_STORY}|[*/^+]"):
        return None
    if q.says(r"\b(?:each|apiece|a piece|every|profit|and)\b"):
        return None
    if len(q.amounts) == 2 and q.asked:
        price, bought = _price_and(q)
        per = re.search(r"\b(?:per|an?|one|each|every|the) ([a-z]+)\b(?=[^a-z]*$| cost| price|\?)", q.asked)
        if price is None or bought is None or per is None:
            return None
        if bought.unit and _same(bought.unit, _kind(per[1])):
            return computed(f"{price.text} / {_number_in(bought, _kind(per[1]))}")
        noun = re.search(rf"{re.escape(q.sign_of(bought))} ([a-z]+)", q.text)
        if not bought.unit and noun is not None and _kind(noun[1]) == _kind(per[1]):
            return computed(f"{price.text} / {_number(bought)}")
        return None
    if len(q.amounts) == 3:
        priced = q.finds(rf"{AMOUNT}(?: [a-z]+){{0,3}}? (?:costs?|are|is|for|come to|make|take|takes) {AMOUNT}")
        if priced is None:
            return None
        bought, price = q.amounts[int(priced[1])], q.amounts[int(priced[2])]
        wanted = next(a for i, a in enumerate(q.amounts) if i not in (int(priced[1]), int(priced[2])))
        named = [re.search(rf"{re.escape(q.sign_of(a))} ?([a-z]+)?", q.text) for a in (bought, wanted)]
        kinds = [a.unit or _kind((m and m[1]) or "") for a, m in zip((bought, wanted), named, strict=True)]
        same = _same(*kinds) or (kinds[1] in ("", "of", "co", "be") and not wanted.unit)
        if price.kind not in ("money", "plain") or not same or (price.kind == "plain" and "." not in price.text):
            return None
        if not q.says(r"\b(?:how much|what)\b"):
            return None
        number = _number_in(wanted, bought.unit) if bought.unit and wanted.unit else _number(wanted)
        return computed(f"{price.text} / {_number(bought)} * {number}")
    return None


def _price_and(q: Question) -> tuple[Amount | None, Amount | None]:
    """A price and what it buys."""
    money = [a for a in q.amounts if a.kind == "money" or (a.kind == "plain" and "." in a.text)]
    rest = [a for a in q.amounts if a not in money]
    return (money[0], rest[0]) if len(money) == len(rest) == 1 else (None, None)
