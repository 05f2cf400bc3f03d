"""Calculations asked for in ordinary words, read as expressions of the calculator.

`3 pens at $1.20 each and a book for $7` is no expression, but it says one. What is read here is what people ask for
outright: numbers joined by words, percent, prices, units, dates, names whose numbers stand on a pasted page. A rule
applies only where it accounts for every number of the question; a story whose numbers hang together in another way is
left alone, for a wrong result would be worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from warpcortex_cli.work import given, times
from warpcortex_cli.work.given import EACH, HIDDEN, SUMS
from warpcortex_cli.work.quantities import CalculationError, unit_named
from warpcortex_cli.work.question import AMOUNT, ANY, Amount, Question
from warpcortex_cli.work.reading import Reading, computed, size

MOST_CHARACTERS = 20_000  # of a message with its page; a question itself is short
_LONGEST_QUESTION = 600


def read(message: str, page: str = "") -> Reading | None:
    """The calculation that a message asks for, if it is one that can be told for certain.

    Args:
        message: a user's words. What stands before their last paragraph is a page, too.
        page: what the user gave before, such as notes.
    """
    message = message.strip()
    before, _, last = message.rpartition("\n\n")
    if not before and "\n" in message:
        before, _, last = message.rpartition("\n")
    for question, beside in ((message, page), (last, f"{page}\n{before}")):
        if question and len(question) <= _LONGEST_QUESTION and len(beside) <= MOST_CHARACTERS:
            found = _first(Question(question), beside)
            if found is not None:
                return found
    return None


def _first(question: Question, page: str) -> Reading | None:
    for rule in _RULES:
        if rule is not _part and question.says(HIDDEN):
            continue
        try:
            found = rule(question)
        except CalculationError:
            continue
        if found is not None:
            return found
    try:
        return _on_page(question, page) if page.strip() else None
    except CalculationError:
        return None


# -- rules -----------------------------------------------------------------------------------------------------------

_RATES = (
    r"\b(?:a|per|every|each) (?:day|week|month|year|hour|minute)s?\b|\b(?:daily|weekly|monthly|yearly|rows?|columns?)\b"
)
_LIST = rf"{ANY}(?: [a-z]+)??(?:(?:,|;| \+|,? and|,? to| with|(?<=⟧) (?=⟦))\s*(?:[a-z]+ ){{0,3}}?{ANY}(?: [a-z]+)??)+"
_STORY = (
    r"\b(?:before|difference|number|original|left|paid|earn\w*|spent|received|returned|sav(?:es|ed)|excluding)\b"
    r"|\bhow many(?! percent)\b"
)
_DEALS = r"\b(?:more|split\w*|shar\w*|left|average|profit|coins?|after|months?|years?|used the|all items)\b|[*/^]"
_OF_ONE_KIND = rf"\b(?:of|with) {ANY}(?: [a-z]+){{0,3}} and (?:an?|one|another)(?: [a-z]+){{0,2}} (?:of|with) {ANY}"
_ASKS = r"\b(?:what's|whats|what|how much|how many|calculate|compute|evaluate|work out|solve|result|equals?|find)\b|="
_POLITE = r"(?:please|pls|thanks|thank you|is|equals|how much|what|the result|for me|me|can you|could you|tell|a lot)"


def _expression(q: Question) -> Reading | None:
    """`47 times 86`, `what is (3 + 4) * 12`, `15% of 80`: amounts joined by signs, which the calculator reads."""
    inner = rf"[(\s]*-?\s?{ANY}[)\s]*"
    match = q.finds(rf"{inner}(?:(?:\*\*|[-+*/^×÷·]|\bx\b|\bof\b|mod\b)(?: the)?{inner})+")
    if match is None or not q.accounts_for(match):
        return None
    rest = f"{q.text[: match.start()]} {q.text[match.end() :]}"
    alone = not re.sub(rf"[\W_]|\b{_POLITE}\b", "", rest)
    if not alone and not re.search(_ASKS, q.text):
        return None
    if re.search(
        r"\w", re.sub(rf"(?:{_ASKS}|\b{_POLITE}\b|\b(?:is|of|the|tax|vat|tip|value|amount|answer|to|in)\b)", " ", rest)
    ):
        return None
    text = re.sub(AMOUNT, lambda m: q.amounts[int(m[1])].text, match.group()).strip()
    text = re.sub(r"\bof the\b", "of", text)
    opened, closed = text.count("("), text.count(")")  # of `(what is 3 + 4)` one may belong to the sentence
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
            if len(amounts) > 1 and (q.says(_RATES) or not q.says(rf"{SUMS}|\+|\band\b")):
                return None
            return computed(f"{' + '.join(amounts)} in {symbol}")
    return None


_CUTS = r"(?:tip|tax|discount|vat|fee|commission|raise|increase|bonus|deposit|cut)\b"


def _percent(q: Question) -> Reading | None:
    """A share of something, what is left after a discount, what something is with tax, which share something is."""
    shares, others = q.of("percent"), q.of("money", "plain", "unit")
    if q.dates or q.clocks or q.sentences > 2 or q.says(rf"{_RATES}|{_STORY}"):
        return None
    if q.says(r"\bthan\b|\bsplit\w*|\bshared\b|\btotal time\b"):
        return None
    if not shares and len(others) == 2 and q.says(r"\bpercent(?:age)?\b|\bper cent\b|%"):
        if q.says(rf"percent(?:age)? of {ANY}") and not q.says(rf"{ANY}[a-z ]* is what"):
            others.reverse()
        if q.says(rf"percent(?:age)? of {ANY}|out of|{ANY}.* is (?:what|which|how many) per|in percent|as a percent"):
            return computed(f"{others[0]} / {others[1]} in %")
        return None
    if len(shares) != 1 or len(others) != 1:
        return None
    share, whole = shares[0], others[0]
    if q.says(rf"\b(?:how much|what)(?: is|'s|s| would be| would)? (?:an?|the) {ANY} {_CUTS}"):
        return computed(f"{share} of {whole}")
    if q.says(
        r"\bhow much (?:do|would|will|can|did) (?:i|you|we) save\b|\bhow much (?:tax|tip|vat|discount|interest)\b"
    ):
        return computed(f"{share} of {whole}")
    some = r"(?: [a-z]+){0,3}"
    less = r"(?:off|discount|rebate|cheaper|less|reduction)"
    lowered = r"(?:discount(?:ed)?|reduced?|decreased?|lower(?:ed)?|minus|less|drops?|falls?)"
    if q.says(rf"{ANY}{some} {less}\b|\b{lowered}{some} {ANY}|\b{lowered} {ANY} by {ANY}| - {ANY}"):
        return computed(f"{whole} - {share}")
    more = r"(?:tip|tax|vat|surcharge|markup|service|increase|raise|fee)"
    raised = r"(?:with|plus|and|add|after|including|incl|increased?|raised?|rises?|grows?|goes up)"
    if q.says(rf"\b{raised}{some} {ANY}{some} {more}\b|\b{raised} (?:by )?{ANY}|\b{raised} {ANY} by {ANY}|\+ {ANY}"):
        return computed(f"{whole} + {share}")
    if q.says(rf"{ANY} of (?:it|that|this|them|these|my|the|{ANY})\b|{ANY} of {ANY}"):
        return computed(f"{share} of {whole}")
    return None


_COUNT = r"(⟦\d+⟧|an?|one)"
_THING = r"((?:[a-z'-]+ ){0,3}?[a-z'-]+)"


def _priced(q: Question) -> Reading | None:
    """So many of one thing at a price and so many of another; what is paid, or given back of what was handed over."""
    if q.dates or q.clocks or q.of("percent", "unit") or q.sentences > 3 or q.says(rf"{_RATES}|{_DEALS}"):
        return None
    terms, used = _at_a_price(q)
    if not terms:
        terms, used = _by_name(q)
    if not terms:
        terms, used = _one_price(q)
    rest = [a for i, a in enumerate(q.amounts) if i not in used]
    if not any("*" in t for t in terms) and len(terms) < 2:
        terms, rest = [], []
    if terms and not rest:
        return computed(" + ".join(terms))
    change = any(map(_is_price, q.amounts)) and q.says(r"\bchange\b|\bget back\b")
    if not terms and change and len(q.amounts) == 2:
        first, second = sorted((a.text for a in q.amounts), key=size, reverse=True)
        return computed(f"{first} - {second}")
    if terms and change and len(rest) == 1:
        return computed(f"{rest[0].text} - ({' + '.join(terms)})")
    spent = rf"{SUMS}|\bhow much (?:did|do|will|must|should) (?:i|we|they|he|she) (?:spend|pay|owe)\b"
    only_money = len(q.of("money")) == len(q.amounts) > 1
    if not terms and only_money and q.says(spent) and not q.says(r"\b(?:had|has|earns?|than|per|each|every)\b"):
        return computed(" + ".join(q.of("money")))
    return None


_PLAIN_THING = (
    r"(?!(?:is|are|was|were|costs?|by|of|for)\b)[a-z'-]+(?: (?!costs?|is|are|was|gives?|gets?|in|by|of)[a-z'-]+)?"
)


def _is_price(amount: Amount) -> bool:
    return amount.kind == "money" or "." in amount.text


def _at_a_price(q: Question) -> tuple[list[str], set[int]]:
    """`3 pens at $1.20 each`, `a book for $7`."""
    terms, used = [], set[int]()
    pattern = rf"(?:(?<=\W)|^){_COUNT} {_THING}(?: (at|for|@|costing|worth|priced at))? {AMOUNT}( {EACH})?"
    for match in re.finditer(pattern, q.text):
        count, _, word, price, each = match.groups()
        n = int(count.strip("⟦⟧")) if count[0] == "⟦" else None
        paid = q.amounts[int(price)]
        if word is None and not (_is_price(paid) and re.fullmatch(_PLAIN_THING, match[2])):
            continue
        if n is not None and (q.amounts[n].kind != "plain" or (word == "for" and not each)):
            return [], set()
        terms.append(q.amounts[int(price)].text if n is None else f"{q.amounts[n].text} * {q.amounts[int(price)].text}")
        used |= {int(price)} | ({n} if n is not None else set())
    return terms, used


def _by_name(q: Question) -> tuple[list[str], set[int]]:
    """`A pen costs $1.20 and a book $7. What do 3 pens and 2 books cost?`"""
    prices: dict[str, int] = {}
    one, many = rf"\b(?:an?|one|each|every|the|single) {_THING}", r"(?:^|[,;.] )([a-z]+s|and [a-z]+s)"
    named = rf"(?:{one}|{many}) (?:costs?|is|are|for|at)? ?{AMOUNT}"
    for match in re.finditer(named, q.text):
        name, price = match[1] or match[2].removeprefix("and "), int(match[3])
        if q.amounts[price].kind in ("money", "plain"):
            prices[_stem(name)] = price
    terms, used = [], set[int]()
    for match in re.finditer(rf"{AMOUNT} {_THING}(?=[ ,.?!]|$)", q.text):
        n = int(match[1])
        words = match[2].split()
        name = next(
            (_stem(" ".join(words[:k])) for k in range(len(words), 0, -1) if _stem(" ".join(words[:k])) in prices), ""
        )
        if name and n != prices[name] and q.amounts[n].kind == "plain":
            terms.append(f"{q.amounts[n].text} * {q.amounts[prices[name]].text}")
            used |= {n, prices[name]}
    return terms, used


def _one_price(q: Question) -> tuple[list[str], set[int]]:
    """`One lamp costs $8. What do 12 of them cost?`, `12 lamps at $8 each`."""
    money, counts = q.of("money"), q.of("plain")
    if re.search(rf"\b{EACH}\b", q.asked) and not re.search(rf"\b{EACH}\b", q.given):
        return [], set()  # what each one pays is asked for, and no price of each is given
    if len(money) == 2 and len(counts) == 1 and len(q.amounts) == 3:
        return _with_fee(q, counts[0])
    if len(money) == len(counts) == 1 and len(q.amounts) == 2:
        if q.says(r"\bhow much (?:did|does|do|is|was|were) (?:each|every|one|a|an)\b"):
            return [], set()
        if q.says(rf"\b{EACH}\b|\bof them\b|\b(?:one|single|an?)(?: [a-z]+)* (?:costs?|is) ") and not q.says(
            r"\bsplit|\bshare"
        ):
            return [f"{counts[0]} * {money[0]}"], {0, 1}
    return [], set()


def _with_fee(q: Question, count: str) -> tuple[list[str], set[int]]:
    """`Each ticket is $20. I need 3 of them plus a $5 fee.`"""
    fee = r"(?:[a-z]+ ){0,2}(?:fee|charge|shipping|delivery|postage|deposit|tip|service)s?"
    behind, before = (
        rf"(?:\+|\band\b|\bwith\b) (?:an? |the )?{AMOUNT} (?:for )?{fee}\b",
        rf"\b{fee} (?:is |of |costs? |for )?{AMOUNT}",
    )
    extra = q.finds(f"{behind}|{before}")
    if extra is None or not q.says(rf"\b{EACH}\b|\bof them\b|\b(?:one|single|an?) [a-z ]+(?:costs?|is) "):
        return [], set()
    added = int(extra[1] or extra[2])
    price = next(i for i, a in enumerate(q.amounts) if a.kind == "money" and i != added)
    return [f"{count} * {q.amounts[price].text}", q.amounts[added].text], {0, 1, 2}


def _stem(name: str) -> str:
    return re.sub(r"\b(?:an?|the|of) ", "", name).rstrip("s")


_LARGER = r"(?:more|larger|bigger|higher|greater|exceeds?|above)"
_SMALLER = r"(?:less|smaller|lower|fewer)"
_GONE = r"(?:take away|subtract|remove|spend|use|give away|without)"
_WORDS = r"(?: [a-z]+){0,4}?"  # such as "144 marbles" among "6 children"
_PAIRS = (  # of two amounts, in the order that they have
    (rf"\bmultipl(?:y|ied) {ANY}{_WORDS} (?:by|with) {ANY}", "{a} * {b}"),
    (rf"\b(?:divide|split|share|distribute)[a-z ]* {ANY}{_WORDS} (?:by|into|among|between) {ANY}", "{a} / {b}"),
    (rf"\b(?:subtract|deduct|take)[a-z ]* {ANY}{_WORDS} from {ANY}", "{b} - {a}"),
    (rf"\bhow (?:much|many)\b.*{ANY}.*\b{_LARGER}\b.*{ANY}", "{a} - {b}"),
    (rf"\bhow (?:much|many) {_LARGER} (?:is|are) {ANY}{_WORDS} than {ANY}", "{a} - {b}"),
    (rf"\bhow (?:much|many) {_SMALLER} (?:is|are) {ANY}{_WORDS} than {ANY}", "{b} - {a}"),
    (rf"\b(?:left|remains?|remaining)\b.* {ANY}.*\b{_GONE}\b.*{ANY}", "{a} - {b}"),
    (rf"\bhow (?:often|many times) (?:does|do|will|can) {ANY}{_WORDS} (?:go|fit) in(?:to)? {ANY}", "{b} / {a}"),
)


# Numbers that are names: of versions, rooms, chapters.
_NAMED = rf"\ban? {ANY}|\b(?!and\b|of\b|is\b|to\b|from\b|add\b|between\b|by\b|the\b)([a-z]+) {ANY}.*\b\1 {ANY}"


def _joined(q: Question) -> Reading | None:
    """Sums, differences, products, quotients and averages of numbers that stand beside one another."""
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


# -- numbers on a page -----------------------------------------------------------------------------------------------

_ALL = r"\b(?:all|everything|these|page|every|whole)\b"


def _on_page(q: Question, page: str) -> Reading | None:
    """Amounts that a question names and a page gives: each in a line or sentence that holds no other number."""
    rows = list(_rows(page))
    counted = q.says(rf"\b(?:all|the|these) {ANY}") and q.of("plain") == [str(len(rows))]  # `all three of them`
    if (q.amounts and not counted) or q.dates or q.clocks or not rows:
        return None
    more = q.finds(
        r"\bby how (?:much|many)\b|\bhow much (?:more|higher|larger|bigger)\b|\bmore\b.*\bthan\b|\bexceed"
        r"|\bdifference\b|\bapart\b"
    )
    wanted = bool(q.says(rf"{SUMS}|\bcome to\b|\badd\b|\bin total\b|\bcost\b|\bpay\b|\bspen[dt]\b"))
    if more is None and not wanted and not q.says(r"\b(?:average|mean)\b"):
        return None
    named = _named_rows(q.text, rows)
    if named is None:
        return None
    if not named and more is None and (q.says(_ALL) or _is_of(q.text, page)):
        named = [r for r in rows if not re.search(r"\b(?:total|sum)\b", r[0])]
    if more is not None and len(named) == 1:
        named = _rivals(q.text, named[0], rows)
    if len(named) < 2:
        return None
    amounts = [amount.text for _, amount in named]
    if more is not None:
        if len(amounts) != 2:
            return None
        if "difference" in more.group() or "apart" in more.group():
            amounts.sort(key=size, reverse=True)
        return computed(" - ".join(amounts))
    if q.says(r"\b(?:average|mean)\b"):
        return computed(f"({' + '.join(amounts)}) / {len(amounts)}")
    return computed(" + ".join(amounts))


def _rows(page: str) -> Iterator[tuple[str, Amount]]:
    """Stretches of a page with one amount: their words, and that.

    A line or sentence is one; where it holds several amounts, it is cut at commas and at `and`. Years are no amounts.
    """
    for line in page.splitlines():
        for sentence in re.split(r"(?<=[.!?;])\s+", line):
            for piece in _pieces(
                re.sub(r"\b(?:in|since|of|by|until) (?:1[0-9]|20)\d\d\b(?!,\d)", " ", sentence, flags=re.I)
            ):
                q = Question(piece)
                if len(q.amounts) == 1 and not q.dates and not q.clocks and re.search(r"[a-z]", q.text):
                    yield q.text, q.amounts[0]


def _pieces(sentence: str) -> list[str]:
    if len(Question(sentence).amounts) < 2:
        return [sentence]
    return re.split(r"[,;|]\s|\s(?:and|while|but)\s", sentence)


def _rivals(text: str, one: tuple[str, Amount], rows: list[tuple[str, Amount]]) -> list[tuple[str, Amount]]:
    """The row that a question names and the only other one of its kind, as team A is of team B's."""
    for first, second in re.findall(_LETTERED, text):
        kind = (first or second).split()[0]
        others = [r for r in rows if re.search(rf"\b{kind} [a-z0-9]\b", r[0]) and r != one]
        if len(others) == 1:
            return [one, *others]
    return [one]


def _is_of(text: str, page: str) -> bool:
    """Whether a question names nothing but what the page itself is called, as `this invoice`, or what it counts."""
    said = {_stem(w) for w in re.findall(r"[a-z][a-z'-]+", text) if w not in _COMMON}
    there = {_stem(w) for w in re.findall(r"[a-z][a-z'-]+", page.lower())}
    return said <= there


_COMMON = frozenset(
    "how much many what is are was were the a an and or of in on for to than more less sum total add up all amounts "
    "together difference between cost costs did do does i we they it pay paid spent amount come came by exceed with "
    "this that these page everything both in at my our their please euros dollars per month "
    "hours average day people came work worked fit handled".split()
)
_LETTERED = r"\b([a-z]+ [b-z0-9])\b|\b([a-z]+ a)\b(?= than|[ ?.]*$| and| or)"  # `room B`


def _named_rows(text: str, rows: list[tuple[str, Amount]]) -> list[tuple[str, Amount]] | None:
    """The rows that a question names, in its order; None where it names one that is not the only one of its name."""
    found: list[tuple[str, Amount]] = []
    lettered = [first or second for first, second in re.findall(_LETTERED, text)]
    kinds = {pair.split()[0] for pair in lettered}
    for word in [*re.findall(r"[a-z][a-z'-]+", text), *lettered]:
        if word in _COMMON or word in kinds:
            continue
        among = [r for r in rows if re.search(rf"\b{re.escape(_stem(word))}(?:s|es)?\b", r[0])]
        if len(among) == len(rows) > 1:  # as of whom the whole page is
            continue
        if len(among) > 1 and all(re.search(rf"⟧ {re.escape(word)}", r[0]) for r in among):  # what is counted
            continue
        if len(among) > 1:
            return None
        found += [r for r in among if r not in found]
    return found


_RULES: tuple[Callable[[Question], Reading | None], ...] = (
    _expression, times.dates, times.clocks, times.years, given.degrees, _convert, given.changed, given.tip, _percent,
    _priced, given.rated, given.shared, given.fills, _joined, given.listed, given.gap, _part,
)  # fmt: skip
