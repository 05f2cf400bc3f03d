"""Prices: totals of several purchases, change, and what each person pays."""

from __future__ import annotations

import re

from warpcortex_cli.work.given import EACH, SUMS
from warpcortex_cli.work.question import AMOUNT, ANY, Amount, Question
from warpcortex_cli.work.reading import Reading, computed, size

_RATES = (
    r"\b(?:a|per|every|each) (?:day|week|month|year|hour|minute)s?\b|\b(?:daily|weekly|monthly|yearly|rows?|columns?)\b"
)
_DEALS = r"\b(?:more|split\w*|shar\w*|left|average|profit|coins?|after|months?|years?|used the|all items)\b|[*/^]"
_COUNT = r"(⟦\d+⟧|an?|one)"
_THING = r"((?:[a-z'-]+ ){0,3}?[a-z'-]+)"


_ASKS = (
    r"\b(?:how much|how many|what|whats|total|sum|costs?|price|pay|spen[dt]|altogether|together|change|owe|add|"
    r"calculate|work out|set me back)\b|\?"
)


def priced(q: Question) -> Reading | None:
    """The total of counted things at their prices, or the change from what was handed over."""
    if q.dates or q.clocks or q.of("percent", "unit") or q.sentences > 3 or q.says(rf"{_RATES}|{_DEALS}"):
        return None
    if not q.says(_ASKS):
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


_LIMITS = "is|are|was|were|costs?|by|of|under|over|below|above|about|around"
_PLAIN_THING = rf"(?!(?:{_LIMITS}|for|up)\b)[a-z'-]+(?: (?!(?:{_LIMITS}|gives?|gets?|in)\b)[a-z'-]+)?"


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
        if word is None and n is not None and "." in q.amounts[n].text:
            continue
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


_SPLITS = (
    r"\b(?:split\w*|shar(?:e|ed|ing)|evenly|equally|divid\w+)\b|\bper (?:person|head|guest|friend|family|couple)\b"
    r"|\b(?:each|every(?:body|one)?|one)(?: of (?:us|them))?\b"
)
_PEOPLE = (
    r"(?:people|persons?|friends|of us|of them|guests|ways|roommates|flatmates|colleagues|kids|children|family members|"
    r"adults|heads|players|students|siblings|brothers|sisters)"
)
_OTHERS = r"\b(?:and|with) (?:i|me|my)\b|\bother\b|\bmore\b|\bwith (?:my )?⟦\d+⟧ (?:friends|siblings|brothers|sisters)"


def split(q: Question) -> Reading | None:
    """`a bill of $90 with a 20% tip split 3 ways`: what each person pays."""
    money, shares = [a for a in q.amounts if _is_price(a)], q.of("percent")
    counts = [a for a in q.amounts if a.kind == "plain" and a not in money]
    if q.dates or q.clocks or q.of("unit") or len(counts) + len(money) + len(shares) != len(q.amounts):
        return None
    people = [a for a in counts if q.says(rf"{re.escape(q.sign_of(a))} {_PEOPLE}\b")]
    if len(people) != 1 or not len(money) == len(counts) == 1 or len(shares) > 1:
        return None
    if q.says(_OTHERS) or not re.search(_SPLITS, q.asked or q.text):
        return None
    if re.search(rf"{ANY} (?:{EACH})\b|\b(?:at|left|without)\b", q.given):
        return None
    paid = money[0].text
    if shares and not q.says(r"\b(?:tip|service|tax|vat|gratuity)\b"):
        return None
    return computed(f"({paid} + {shares[0]}) / {people[0].text}" if shares else f"{paid} / {people[0].text}")


_SPENT = rf"{SUMS}|\b(?:spen[dt]|pay|paid|owe|cost|costs|come[s]? to|came to|expensive|bill|price|add\w* up|makes?)\b"


_NO_BILL = (
    r"\b(?:split\w*|shar\w*|left|average|profit|coins?|saved?|had|has|earns?|than|twice|half|how many|free|discount)\b"
    r"|[*/^]"
)


def bill(q: Question) -> Reading | None:
    """The total of several things, each with its own price and possibly a count."""
    if q.dates or q.clocks or q.of("unit", "percent") or q.sentences > 3 or not q.amounts:
        return None
    asks = q.asked or q.text
    if q.says(rf"{_RATES}|{_NO_BILL}"):
        return None
    if not re.search(_SPENT, asks) and not re.search(r"\bhow much\b|\bwhat (?:is|does|do|will)\b|\bdamage\b", asks):
        return None
    if re.search(rf"\b(?:{EACH}|one|change|back|more|cheaper|left|missing)\b", q.asked):
        return None
    each_behind = {int(n) for n in re.findall(rf"{AMOUNT},? {EACH}\b", q.text)}
    prices = {
        i for i, a in enumerate(q.amounts) if _is_price(a) or (i in each_behind and i - 1 not in each_behind and i)
    }
    terms, used, each = [], set[int](), 0
    for i in sorted(prices):
        before = re.search(rf"⟦{i - 1}⟧ [^⟦.?!]*$", q.text[: q.text.index(f"⟦{i}⟧")]) if i else None
        behind = q.text[q.text.index(f"⟦{i}⟧") + len(f"⟦{i}⟧") :]
        many = before is not None and i - 1 not in prices and q.amounts[i - 1].kind == "plain"
        marked = re.match(rf",? ?(?:for )?{EACH}\b", behind) is not None
        at = before is not None and re.search(r"(?:\bat|@|\bcosting|\bthat cost)\s*$", before.group()) is not None
        each += marked
        if many and (marked or at):
            terms.append(f"{q.amounts[i - 1].text} * {q.amounts[i].text}")
            used |= {i - 1, i}
        elif marked:
            return None
        else:
            terms.append(q.amounts[i].text)
            used.add(i)
    if each < len(re.findall(rf"\b{EACH}\b", q.text)):  # an `each` that no term uses
        return None
    if len(used) != len(q.amounts) or (len(terms) < 2 and "*" not in "".join(terms)):
        return None
    return computed(" + ".join(terms)) if _names_all_or_none(q) else None


def _names_all_or_none(q: Question) -> bool:
    """Whether the question names the things beside all amounts, or beside none of them."""
    asked = {_stem(word) for word in re.findall(r"[a-z]{3,}", q.asked)}
    beside: list[set[str]] = [
        {_stem(word) for word in re.findall(r"[a-z]{3,}", stretch)}
        for stretch in re.split(r"[,;]|\band\b|\. |\+| - ", q.given)
        if "⟦" in stretch
    ]
    shared = set[str].intersection(*beside) if beside else set[str]()
    own = [words - shared for words in beside]
    named = [bool(words & asked) for words in own]
    return all(named) or not any(named)


def back(q: Question) -> Reading | None:
    """Change from a banknote after one or several prices."""
    if q.dates or q.clocks or q.of("unit", "percent") or len(q.amounts) < 2 or q.says(rf"{_RATES}|\b{EACH}\b"):
        return None
    if not q.says(r"\bchange\b|\b(?:get|got|receive|give me|given) (?:back|returned)\b|\bmoney back\b"):
        return None
    handed = [
        a for a in q.amounts
        if q.says(rf"{re.escape(q.sign_of(a))}(?: [a-z]+)? (?:bill|note)\b"
                  rf"|\b(?:with|from|out of|hand\w* over|gave|give)(?: [a-z]+){{0,3}}? {re.escape(q.sign_of(a))}")
    ]  # fmt: skip
    rest = [a for a in q.amounts if a not in handed]
    if len(handed) != 1 or not all(a.kind in ("money", "plain") for a in q.amounts):
        return None
    spent = " + ".join(a.text for a in rest)
    if sum(size(a.text) for a in rest) >= size(handed[0].text):
        return None
    return computed(f"{handed[0].text} - {spent}" if len(rest) == 1 else f"{handed[0].text} - ({spent})")
