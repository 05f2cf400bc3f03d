"""Questions about the numbers on a page: a list, a table or sentences that come before the question."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from warpcortex_cli.work.given import SUMS
from warpcortex_cli.work.question import AMOUNT, Amount, Question
from warpcortex_cli.work.reading import Reading, computed, size

_MORE = (
    r"\bby how (?:much|many)\b|\b(?:more|less|fewer|[a-z]+er)\b.*\bthan\b|\bexceed|\bdifference\b|\bapart\b|"
    r"\bhow (?:much|many)[a-z ]* (?:more|less|fewer|higher|larger|bigger|longer|older|taller|heavier|smaller|lower|"
    r"shorter|cheaper|younger)\b|"
    r"\bhow (?:much|many)\b.*\b(?:gr[eo]w\w*|increas\w+|r[io]se|gain\w*|f[ae]ll|dropp?\w*|decreas\w+|"
    r"los[est]\w*|chang\w+|shr[iau]nk)\b"
)
_SIDES = r"\b(?:more|less|fewer|[a-z]+er)\b.*\bthan\b|\bhow (?:much|many)[a-z ]* (?:more|higher|larger|bigger)\b"
_SUM = (
    rf"{SUMS}|\bcomes? to\b|\badd\b|\bin total\b|\bcosts?\b|\bpay\b|\bspen[dt]\b|\bhow much (?:is|are|was|were|for)\b|"
    r"\bhow (?:big|long|heavy|far|many|much)\b|\bprice\b|\+"
)
_ALL = (
    r"\b(?:all|everything|these|page|every|whole|entire|items|list|receipt|invoice|bill|numbers|amounts|prices|entries|"
    r"values|rows)\b"
)
_AVERAGE = r"\b(?:average|mean|avg)\b"
_LESS = r"\b(?:less|fewer|smaller|lower|shorter|younger|cheaper|lighter)\b"
_WITHOUT = r"\b(?:without|except|excluding|besides|not counting|apart from|other than)\b"
_OTHERWISE = r"\b(?:percent\w*|twice|half|times|per (?:person|head)|each|left|remain\w*|ratio)\b|[%*^]"
_YEAR = r"(?:1[5-9]|20)\d\d"


@dataclass(frozen=True)
class _Row:
    """A piece of a page with one amount, and the words around it."""

    words: str
    amount: Amount


def on_page(question: str, page: str) -> Reading | None:
    """The calculation that a question asks for on the amounts of a page, if every name in it belongs to one of them."""
    numbered = {line.lower() for line in re.findall(r"(?m)^\W*([A-Za-z]+ \d{1,2})(?=\s*[:|]\s)", page)}
    page, question = _joined(page, numbered), _joined(question, numbered)
    q = Question(_years_named(question))
    if not q.says(rf"{_MORE}|{_AVERAGE}|{_SUM}"):
        return None  # before parsing the page, which takes time
    if q.dates or q.clocks or q.of("money", "percent", "unit") or q.says(_OTHERWISE):
        return None
    rows = list(_rows(page))
    named = _named(q.text, rows)
    if not rows or named is None or lists_more(q.text, page):
        return None
    compares, averages = q.says(_MORE), q.says(_AVERAGE)
    counted = q.says(r"\b(?:all|the|these) ⟦\d+⟧") and q.of("plain") == [str(len(rows))]  # `all three of them`
    if q.amounts and not counted:
        return None if compares or averages else _multiplied(q, rows)
    if q.says(_WITHOUT):
        rest = [row for row in _of_one_kind(rows) if row not in named]
        amounts = [] if compares or averages or not named else [row.amount.text for row in rest]
    elif compares:
        amounts = [row.amount.text for row in _compared(q.text, named, rows, page)]
    else:
        if not named:
            named = _counted(q.text, rows)
        if not named and (q.says(_ALL) or counted or _is_of(q.text, page)):
            named = _of_one_kind([r for r in rows if not re.search(r"\b(?:total|subtotal|sum)\b", r.words)])
        amounts = [row.amount.text for row in named]
    if len(amounts) < 2:
        return None
    if averages:
        return computed(f"({' + '.join(amounts)}) / {len(amounts)}")
    return computed((" - " if compares else " + ").join(amounts))


def _compared(text: str, named: list[_Row], rows: list[_Row], page: str) -> list[_Row]:
    """The two rows whose difference is asked for, the minuend first; none if they are ambiguous."""
    if len(named) == 1:
        named = _rivals(text, named[0], rows)
    if len(named) < 2 and _is_of(text, page):
        named = rows if len(rows) == 2 else _counted(text, rows)
    if len(named) != 2:
        return []
    if not re.search(_SIDES, text):
        return sorted(named, key=lambda row: size(row.amount.text), reverse=True)
    return named[::-1] if re.search(_LESS, text) else named


def _joined(text: str, numbered: set[str]) -> str:
    """Names that end in a number, such as `Week 2`, as one word."""
    return re.sub(
        r"\b([A-Za-z]+) (\d{1,2})\b", lambda m: m[1] + m[2] if m.group().lower() in numbered else m.group(), text
    )


# -- reading the page ------------------------------------------------------------------------------------------------


def _rows(page: str) -> Iterator[_Row]:
    """The pieces of a page with one amount each.

    A line or sentence is one piece; with several amounts it is cut at commas and `and`. Years count as names.
    """
    for line in page.splitlines():
        for sentence in re.split(r"(?<=[.!?;])\s+", line):
            for piece in _pieces(_years_named(sentence)):
                q = Question(piece)
                if len(q.amounts) == 1 and not q.dates and not q.clocks and re.search(r"[a-z]", q.text):
                    yield _Row(q.text, q.amounts[0])


def _years_named(text: str) -> str:
    """Years as words, since they name an amount."""
    text = re.sub(
        rf"\b(in|since|of|by|until|from|to|between|and|than) ({_YEAR})\b(?![,.]?\d)", r"\1 year\2x", text, flags=re.I
    )
    return re.sub(rf"(^\W*|[A-Za-z] )({_YEAR})(?=\s*[:|,;])(?!,\d{{3}}\b)", r"\1year\2x", text)


def _pieces(sentence: str) -> list[str]:
    if len(Question(sentence).amounts) < 2:
        return [sentence]
    return re.split(r"[,|]\s|;|,(?=\D)|(?<=[a-z]),(?=\d)|\s(?:and|while|but|whereas)\s", sentence)


def _rivals(text: str, one: _Row, rows: list[_Row]) -> list[_Row]:
    """The row that a question names and the only other one of its kind, such as team A and team B."""
    for first, second in re.findall(_LETTERED, text):
        kind = (first or second).split()[0]
        others = [r for r in rows if re.search(rf"\b{kind} [a-z0-9]\b", r.words) and r != one]
        if len(others) == 1:
            return [one, *others]
    return [one]


def _counted(text: str, rows: list[_Row]) -> list[_Row]:
    """All rows that count what is asked for, such as visitors in `how many visitors`."""
    asked = re.search(r"\bhow many (?:more )?([a-z]+)", text)
    if asked is None:
        return []
    return [r for r in rows if re.search(rf"⟧ (?:[a-z]+ )?{re.escape(_stem(asked[1]))}", r.words)]


def _of_one_kind(rows: list[_Row]) -> list[_Row]:
    """Rows of one unit, without plain numbers next to prices, such as an order number; none if units differ."""
    kinds = {(row.amount.kind, row.amount.unit) for row in rows}
    if len(kinds) == 1:
        return rows
    money = [row for row in rows if row.amount.kind == "money" or "." in row.amount.text]
    return money if kinds <= {("money", ""), ("plain", "")} and money else []


def _is_of(text: str, page: str) -> bool:
    """Whether a question names only the page itself, such as `this invoice`, or what it counts."""
    return not [word for word in _content(text) if word not in _words(page)]


def _words(page: str) -> set[str]:
    return {_stem(word) for word in re.findall(r"[a-z0-9][a-z0-9'-]+", _years_named(page).lower())}


def _content(text: str) -> list[str]:
    return [_stem(word) for word in re.findall(r"[a-z0-9][a-z0-9'-]+", text) if word not in _COMMON]


def lists_more(text: str, page: str) -> bool:
    """Whether a question lists something that is not on the page."""
    there = _words(page)
    text = text.lower()
    listed = re.findall(r"(?:\band|\bplus|,) (?:the |an? |my |our )?([a-z][a-z'-]+)", text)
    listed += re.findall(r"\b([a-z][a-z'-]+)(?:,| and| plus) ", text)
    return any(word not in _COMMON and _stem(word) not in there for word in listed)


def _stem(word: str) -> str:
    word = word.removesuffix("'s")
    return (
        word[:-3] + "y"
        if word.endswith("ies")
        else word.removesuffix("es")
        if word.endswith("xes")
        else word.rstrip("s")
    )


_COMMON = frozenset(
    "how much many what what's whats is are was were the a an and or of in on for to than more less sum total add up "
    "all amounts amount together altogether difference between cost costs did do does i we they it he she pay paid "
    "spend spent come came by exceed with this that these those page everything both at my our their his her its "
    "please euros dollars per month hours average mean avg day people work worked fit handled combined overall would "
    "will be can you tell me give calculate whole entire list numbers number values prices price entries rows items "
    "grow grew increase increased change changed from fewer older longer higher bigger larger taller heavier lower "
    "shorter cheaper smaller younger apart have has had there let know so go went big long heavy far make makes made "
    "owe owes due paying spending size area surface weight length height distance score earn earned points win won "
    "lead money sales over both trip household get got need needs each one two three them out as if now then us "
    "add adding just only also".split()
)
_LETTERED = r"\b([a-z]+ [b-z0-9])\b|\b([a-z]+ a)\b(?= than|[ ?.]*$| and| or)"  # `room B`


def _named(text: str, rows: list[_Row]) -> list[_Row] | None:
    """The rows that a question names, in its order; None if a name is ambiguous.

    A name of several words (`Golden Gate Bridge`) may share some with other names if one word is unique to it.
    """
    lettered = list(re.finditer(_LETTERED, text))
    kinds = {m.group().split()[0] for m in lettered}
    words = [m for m in re.finditer(r"[a-z0-9][a-z0-9'-]+", text) if m.group() not in _COMMON | kinds]
    certain: list[tuple[int, _Row]] = []
    doubtful: list[list[_Row]] = []
    for match in (*words, *lettered):
        word = re.escape(_stem(match.group()))
        among = [r for r in rows if re.search(rf"\b{word}(?:s|es|'s)?\b", r.words)]
        if len(among) == len(rows) > 1:  # the subject of the whole page
            continue
        if len(among) > 1 and all(re.search(rf"⟧ (?:[a-z]+ )?{word}", r.words) for r in among):  # what is counted
            continue
        if len(among) == 1:
            certain.append((match.start(), among[0]))
        elif among:
            doubtful.append(among)
    named = [row for _, row in sorted(certain, key=lambda place: place[0])]
    if any(row not in named for among in doubtful for row in among):
        return None
    return list(dict.fromkeys(named))


def _multiplied(q: Question, rows: list[_Row]) -> Reading | None:
    """`How much are 2 coffees and a cake?`: counts of things that the page has prices for."""
    terms = []
    for match in re.finditer(rf"(?:{AMOUNT}|\b(an?|one)) ([a-z][a-z'-]+)", q.text):
        among = [r for r in rows if re.search(rf"\b{re.escape(_stem(match[3]))}(?:s|es)?\b", r.words)]
        if len(among) != 1:
            if match[1] or len(among) > 1:
                return None
            continue
        price = among[0].amount.text
        terms.append(price if match[2] else f"{q.amounts[int(match[1])].text} * {price}")
    if len([t for t in terms if "*" in t]) != len(q.amounts) or not q.says(r"\b(?:how much|what|total|costs?|pay)\b"):
        return None
    return computed(" + ".join(terms))
