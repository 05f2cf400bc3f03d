"""Percentages: a share of an amount, an amount plus or minus a share, one amount as a share of another."""

from __future__ import annotations

import re

from warpcortex_cli.work.question import AMOUNT, ANY, Question
from warpcortex_cli.work.reading import Reading, computed, size

_TAXES = (
    r"(?:tips?|tax(?:es)?|vat|gst|fees?|commission|service(?: charge)?|surcharge|interest|markup|shipping|gratuity)"
)
_PARTS = rf"(?:{_TAXES}|discount|deposit|down ?payment|rebate|savings?|cut|share|raise|increase|bonus|royalty)"
_SMALL = r"(?:is|was|s|'s|would|will|be|do|does|should|must|i|we|you|the|an?|my|that|this|in|for|leave|as|get|pay)"
_DOWN = (
    r"\b(?:off|discount\w*|rebate|cheaper|reduc\w+|lower\w*|decreas\w+|drop\w*|falls?|fell|less|minus|marked down|"
    r"markdown|on sale|sale|los[et]s?|cut by|spen[dt]|g[ai]ve away|left|remain\w*|deduct\w*|take away|without)\b| - "
)
_UP = (
    r"\b(?:plus|add\w*|incl\w*|increas\w+|rais\w+|rises?|rising|rose|grow\w*|grew|go(?:es|ing)? up|went up|higher|"
    r"surcharge|markup|gross|on top|gains?|gained|extra|more)\b|\+"
)
_WITH = rf"\b(?:with|and|after|before)\b.*\b{_TAXES}\b|{ANY}.*, {_TAXES} {ANY}|\b{_TAXES} (?:is |of |at )?{ANY}"
_OTHERWISE = (  # words that need more than the two amounts
    r"\b(?:originally|original|number|returned|excluding|than|split\w*|shared?|total time|each|every|per|how many)\b"
    r"|(?<!⟧ )\b(?:a|per|every|each) (?:day|week|month|year|hour|minute)s?\b"
    r"|\b(?:daily|weekly|compound\w*|rows?|columns?)\b"
)


def share(q: Question) -> Reading | None:
    """One share and one amount: `15% of 80`, `$80 with 20% off`, `a 9% raise on 2,400`, `net 50, VAT 19%`."""
    shares, others = q.of("percent"), q.of("money", "plain", "unit")
    if len(shares) != 1 or len(others) != 1 or len(q.amounts) != 2 or q.dates or q.clocks or q.sentences > 2:
        return None
    part, whole = shares[0], others[0]
    first = q.amounts[0].kind == "percent"
    than = q.finds(rf"{ANY} (more|less|higher|lower) than {ANY}")
    if than is not None and first:
        return computed(f"{whole} {'+' if than[1] in ('more', 'higher') else '-'} {part}")
    if q.says(r"\bincl\w*\b") and q.says(r"\bnet\b|\bbefore\b|\bwithout\b|\bexcl\w*"):
        return computed(f"{whole} / (1 + {part})")
    if q.says(_OTHERWISE) or re.search(r"\bbefore\b|\bpaid\b", q.asked):
        return None
    if q.says(rf"\bwhat(?: (?:was|is))?(?: the)? price before\b|\bfor {ANY}.*\b{ANY} (?:off|discount)\b.*\bprice\b"):
        return None
    asks = q.asked or q.text
    if _asks_for_part(q, asks):
        return computed(f"{part} of {whole}")
    down, up = q.says(_DOWN), q.says(_UP)
    if down and up and not q.says(rf"{ANY}(?: [a-z]+)? off\b"):
        return None
    if down:
        return computed(f"{whole} - {part}")
    if up or (q.says(_WITH) and not (first and q.says(rf"{ANY} {_TAXES} (?:on|for|of)\b"))):
        return computed(f"{whole} + {part}")
    if q.says(rf"\b(?:of|from|on)\b.*{AMOUNT}|{ANY} of\b") and first:
        return computed(f"{part} of {whole}")
    if q.says(rf"{ANY}.*{ANY} of (?:it|that|this|them|these|my|the)\b"):
        return computed(f"{part} of {whole}")
    return None


def _asks_for_part(q: Question, asks: str) -> bool:
    """Whether the share itself is asked for, such as `how much is the tip`, rather than the resulting amount."""
    amount = rf"(?:{ANY} )?"
    if re.search(rf"\b(?:how much|what|whats)(?: {_SMALL})*? ?{amount}(?:of an? )?{_PARTS}\b", asks):
        return not re.search(rf"\b(?:with|plus|after|including|and)\b(?: [a-z]+)*? {amount}{_PARTS}\b", asks)
    if re.search(r"\bhow much (?:more|less|extra|cheaper)\b|\bhow much\b.*\bsav(?:e|ed|ings?)\b", asks):
        return True
    kinds = rf"(?:{_TAXES}|deposit|down ?payment)"
    # `15% tip on $60`, however the question goes on
    bare = rf"{ANY} {kinds} (?:on|of|for|from)\b|\b{kinds} of {ANY} (?:on|for|from)\b"
    if q.says(bare) and not re.search(r"\b(?:total|final|altogether|in all|all in|pay|left|remain\w*|after)\b", asks):
        return True
    its = rf"{ANY} of (?:it|that|this|them|these)\b"
    that = re.search(r"\b(?:how much|what)(?:'s| is| would| will|s)? (?:that|it|this)\b", asks)
    return that is not None and (q.says(its) or q.says(rf"\b{_PARTS}\b")) and not q.says(rf"{_UP}|\b(?:discount|off)\b")


_PERCENT = r"\bpercent(?:age)?\b|\bper cent\b|%|\bpct\b"
_CHANGES = (
    r"\b(?:chang\w+|r[io]se|rais\w+|rises|rising|increas\w+|gr[eo]w\w*|growth|gain\w*|went|goes|up|down|f[ae]ll\w*|"
    r"drop\w*|decreas\w+|reduc\w+|discount\w*|cheaper|los[est]\w*|sav\w+|shr[iau]nk\w*|markup|more|less|higher|lower|off|"
    r"pricier)\b"
)
_WAS = r"\b(?:was|were|cost|used to|before|last|old|had|originally|yesterday|previous\w*)\b"
_NOW = r"\b(?:now|today|this|then|new|later|currently)\b"


def which(q: Question) -> Reading | None:
    """One amount as a percentage of another, or the change between them in percent."""
    if len(q.amounts) != 2 or q.of("percent") or q.dates or q.clocks or q.sentences > 3 or not q.says(_PERCENT):
        return None
    first, last = (amount.text for amount in q.amounts)
    if q.says(_CHANGES):
        ordered = rf"\bfrom {ANY}[^⟦]* to {ANY}|{_WAS}[^⟦]*{ANY}.*{_NOW}[^⟦]*{ANY}|{ANY}[^⟦]*\b(?:before|last)\b.*{ANY}"
        if q.says(rf"\bto {ANY} from {ANY}|{ANY},? (?:up|down) from {ANY}"):
            first, last = last, first
        elif not q.says(rf"{ordered}|{ANY}.*\b(?:to|then)\b.*{ANY}"):
            return None
        falls = q.says(r"\b(?:f[ae]ll\w*|drop\w*|decreas\w+|reduc\w+|discount\w*|cheaper|los[est]\w*|sav\w+|off)\b")
        if falls and size(last) < size(first):
            return computed(f"({first} - {last}) / {first} in %")
        return computed(f"({last} - {first}) / {first} in %")
    wholes = {int(n) for n in re.findall(rf"\b(?:out of|of|from|/) (?:[a-z]+ ){{0,3}}{AMOUNT}", q.text)}
    if len(wholes) == 1:
        (whole,) = wholes
        return computed(f"{q.amounts[1 - whole].text} / {q.amounts[whole].text} in %")
    if q.says(rf"{ANY}.*\b(?:of|out of|in)\b.*{ANY}") or q.says(rf"{ANY}.* is (?:what|which|how many) per"):
        return computed(f"{first} / {last} in %")
    return None
