"""Parses calculations asked for in ordinary words into expressions of the calculator.

`3 pens at $1.20 each and a book for $7` is not an expression, but it means one. Only direct questions are parsed:
numbers joined by words, percentages, prices, units, dates, and names whose numbers are on a pasted page. A rule applies
only if it accounts for every number of the question. A story that relates its numbers in another way is left alone,
because a wrong result is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from warpcortex_cli.work import given, prices, rates, shares, times
from warpcortex_cli.work.given import HIDDEN, SUMS
from warpcortex_cli.work.page import lists_more, on_page
from warpcortex_cli.work.quantities import CalculationError, unit_named
from warpcortex_cli.work.question import AMOUNT, ANY, Question
from warpcortex_cli.work.reading import Reading, computed, size

MOST_CHARACTERS = 20_000  # of a message with its page; the question itself is short
_LONGEST_QUESTION = 600


def read(message: str, page: str = "") -> Reading | None:
    """The calculation that a message asks for; None if there is none or it is ambiguous.

    Args:
        message: the user's words. What comes before the last paragraph is a page, too.
        page: what the user gave earlier, such as notes.
    """
    message = message.strip()
    before, _, last = message.rpartition("\n\n")
    if not before and "\n" in message:
        before, _, last = message.rpartition("\n")
    about = f"{page}\n{before}".strip()
    asked = last or message
    if about and len(asked) <= _LONGEST_QUESTION and len(about) <= MOST_CHARACTERS:
        found = _tried(on_page, asked, about)
        if found is not None:
            return found
    if before and lists_more(last, before):
        return None
    for question in (message, last):
        if question and len(question) <= _LONGEST_QUESTION:
            found = _first(question)
            if found is not None:
                return found
    return None


def _tried(rule: Callable[..., Reading | None], *arguments: object) -> Reading | None:
    try:
        return rule(*arguments)
    except CalculationError:
        return None


_HOW_TO = r"^how (?:do|can|should|could|would|to)\b(?! (?:i|we) (?:get|make) )|\bwhat's new\b"


def _first(message: str) -> Reading | None:
    question = Question(message)
    if question.says(_HOW_TO):
        return None
    for rule in _RULES:
        if rule is not _part and question.says(HIDDEN):
            continue
        found = _tried(rule, question)
        if found is not None:
            return found
    return None


# -- rules -----------------------------------------------------------------------------------------------------------

_RATES = (
    r"\b(?:a|per|every|each) (?:day|week|month|year|hour|minute)s?\b|\b(?:daily|weekly|monthly|yearly|rows?|columns?)\b"
)
_LIST = rf"{ANY}(?: [a-z]+)??(?:(?:,|;| \+|,? and|,? to| with|(?<=⟧) (?=⟦))\s*(?:[a-z]+ ){{0,3}}?{ANY}(?: [a-z]+)??)+"
_OF_ONE_KIND = rf"\b(?:of|with) {ANY}(?: [a-z]+){{0,3}} and (?:an?|one|another)(?: [a-z]+){{0,2}} (?:of|with) {ANY}"
_ASKS = r"\b(?:what's|whats|what|how much|how many|calculate|compute|evaluate|work out|solve|result|equals?|find)\b|="
_POLITE = r"(?:please|pls|thanks|thank you|is|equals|how much|what|the result|for me|me|can you|could you|tell|a lot)"
_AROUND = (  # words allowed around an expression
    r"(?:of|the|tax|vat|tip|value|amount|answer|to|in|does|do|you|i|get|makes?|give|if|would|will|be|that|it|come|out|"
    r"when|and)"
)


def _expression(q: Question) -> Reading | None:
    """`47 times 86`, `what is (3 + 4) * 12`, `15% of 80`: amounts joined by operators."""
    inner = rf"[(\s]*-?\s?{ANY}[)\s]*"
    match = q.finds(rf"{inner}(?:(?:\*\*|[-+*/^×÷·]|\bx\b|\bof\b|mod\b)(?: the)?{inner})+")
    if match is None or not q.accounts_for(match):
        return None
    rest = f"{q.text[: match.start()]} {q.text[match.end() :]}"
    alone = not re.sub(rf"[\W_]|\b{_POLITE}\b", "", rest)
    if not alone and not re.search(_ASKS, q.text):
        return None
    if re.search(r"\w", re.sub(rf"{_ASKS}|\b{_POLITE}\b|\b{_AROUND}\b", " ", rest)):
        return None
    text = re.sub(AMOUNT, lambda m: q.amounts[int(m[1])].text, match.group()).strip()
    text = re.sub(r"\bof the\b", "of", text)
    if not q.of("percent"):
        text = re.sub(r"\bof\b", "*", text)  # `of` after a fraction multiplies
    opened, closed = text.count("("), text.count(")")  # a stray one belongs to the sentence, as in `(what is 3 + 4)`
    text = text.removesuffix(")") if closed > opened else text.removeprefix("(") if opened > closed else text
    return computed(re.sub(r"\s*(\*\*|[-+*/^×÷·])\s*", r" \1 ", text).strip().replace("( - ", "(-"))


def _is_list(q: Question) -> bool:
    listed = q.finds(_LIST)
    return listed is not None and q.accounts_for(listed)


def _convert(q: Question) -> Reading | None:
    """`2.5 kg in grams`, `how many inches are 6 feet`, `1.2 kg plus 300 g in grams`."""
    amounts = q.of("unit")
    if not amounts or len(amounts) != len(q.amounts) or q.dates or q.clocks or q.sentences > 2:
        return None
    if len(amounts) > 1 and not (_is_list(q) or q.says(_OF_ONE_KIND)):
        return None
    for pattern in (r"\bhow many ([a-z]+)", r"\b(?:in|into|to|as) ([a-z]+)\b"):
        for word in re.findall(pattern, q.text):
            symbol = unit_named(word) if word != "in" else None
            if symbol is None or (len(amounts) == 1 and symbol == q.amounts[0].unit):
                continue
            if len(amounts) > 1 and (q.says(_RATES) or not q.says(rf"{SUMS}|\+|\band\b|{ANY} {ANY}")):
                return None
            return computed(f"{' + '.join(amounts)} in {symbol}")
    return None


_LARGER = r"(?:more|larger|bigger|higher|greater|exceeds?|above)"
_SMALLER = r"(?:less|smaller|lower|fewer)"
_GONE = r"(?:take away|subtract|remove|spend|use|give away|without)"
_WORDS = r"(?: [a-z]+){0,4}?"  # such as "144 marbles" among "6 children"
_PAIRS = (  # patterns of two amounts a and b, in text order
    (rf"\bmultipl(?:y|ied) {ANY}{_WORDS} (?:by|with) {ANY}", "{a} * {b}"),
    (rf"\b(?:divide|split|share|distribute)[a-z ]* {ANY}{_WORDS} (?:by|into|among|between) {ANY}", "{a} / {b}"),
    (rf"\b(?:subtract|deduct|take)[a-z ]* {ANY}{_WORDS} from {ANY}", "{b} - {a}"),
    (rf"\bfrom {ANY}{_WORDS} (?:subtract|deduct|take)[a-z ]* {ANY}", "{a} - {b}"),
    (rf"\bhow (?:much|many)\b.*{ANY}.*\b{_LARGER}\b.*{ANY}", "{a} - {b}"),
    (rf"\bhow (?:much|many) {_LARGER} (?:is|are) {ANY}{_WORDS} than {ANY}", "{a} - {b}"),
    (rf"\bhow (?:much|many) {_SMALLER} (?:is|are) {ANY}{_WORDS} than {ANY}", "{b} - {a}"),
    (rf"\b(?:left|remains?|remaining)\b.* {ANY}.*\b{_GONE}\b.*{ANY}", "{a} - {b}"),
    (rf"\bhow (?:often|many times) (?:does|do|will|can) {ANY}{_WORDS} (?:go|fit) in(?:to)? {ANY}", "{b} / {a}"),
)


# Numbers used as names: of versions, rooms, chapters.
_NAMED = rf"\ban? {ANY}|\b(?!and\b|of\b|is\b|to\b|from\b|add\b|between\b|by\b|the\b)([a-z]+) {ANY}.*\b\1 {ANY}"


def _joined(q: Question) -> Reading | None:
    """Sums, differences, products, quotients and averages of numbers next to each other."""
    if not q.amounts or q.dates or q.clocks or q.sentences > 2 or q.says(r"[*/^]"):
        return None
    if q.of("plain") and q.says(_NAMED):
        return None
    listed = q.finds(_LIST)
    if listed is not None and q.accounts_for(listed):
        found = q.all(listed)
        if q.says(r"\b(?:average|mean)\b"):
            return computed(f"({' + '.join(found)}) / {len(found)}") if "%" not in "".join(found) else None
        if q.says(r"\b(?:product|multiply|multiplied)\b"):
            return computed(" * ".join(found))
        if q.says(r"\b(?:difference|how far apart|apart|differ)\b") and len(found) == 2:
            return computed(" - ".join(sorted(found, key=size, reverse=True)))
        if q.says(r"\b(?:largest|biggest|highest|smallest|lowest)\b"):
            return None
        counted = re.search(r"\bhow many ([a-z]+)", q.text)
        if not q.of_one_kind or (counted and not re.search(rf"⟧ (?:[a-z]+ )?{counted[1].rstrip('s')}", q.text)):
            return None
        if (
            q.says(SUMS)
            and q.sentences == 1
            and not q.says(rf"{_RATES}|\b(?:difference|more|less|left|minus|split|divide|share|each|than)\b")
        ):
            return computed(" + ".join(found))
        return None
    if len(q.amounts) != 2 or q.of("percent"):
        return None
    first, second = (amount.text for amount in q.amounts)
    for pattern, expression in _PAIRS:
        if q.says(pattern):
            return computed(expression.format(a=first, b=second))
    return None


def _part(q: Question) -> Reading | None:
    """`half of 90`, `twice 34`, `a third of 12`."""
    parts = {"half": "1/2", "a third": "1/3", "one third": "1/3", "a quarter": "1/4", "two thirds": "2/3"}
    parts |= {"three quarters": "3/4", "a tenth": "1/10", "a fifth": "1/5", "twice": "2", "double": "2", "triple": "3"}
    if len(q.amounts) == 1:
        match = q.finds(rf"\b({'|'.join(parts)})(?: of| the)* {AMOUNT}")
        if match is not None and (q.says(_ASKS) or not match.start()) and q.amounts[0].kind != "percent":
            return computed(f"{parts[match[1]]} * {q.amounts[0].text}")
    return None


_RULES: tuple[Callable[[Question], Reading | None], ...] = (
    _expression, times.dates, times.clocks, times.years, given.degrees, _convert, rates.spans, rates.speed,
    shares.which, shares.share, prices.priced, rates.rate, prices.split, given.shared, given.fills, _joined,
    given.listed, given.gap, prices.back, prices.bill, rates.proportion, rates.area, _part,
)  # fmt: skip
