"""Questions that give their numbers first; what is asked after them tells how to combine them.

Each rule uses exactly the amounts that it names, and gives up on words that would relate them in another way.
"""

from __future__ import annotations

import re

import re2

from warpcortex_cli.work.question import AMOUNT, ANY, Question
from warpcortex_cli.work.reading import Reading, computed, size

SUMS = r"\b(?:sum|total|totals|together|altogether|in all|combined|add|adding|add up|add together|both|overall)\b"
# Numbers and relations that no rule accounts for.
HIDDEN = (
    r"\b(?:twice|thrice|half|double|triple|thirds?|quarters?|times|as (?:many|much|old) as|fewer|originally|initially|"
    r"pairs?|couple|fourths?|fifths?|sixths?|eighths?|tenths?)\b"
)
EACH = r"(?:each|apiece|a piece|per [a-z]+|every|a pop)"
_MOVES = (
    r"\b(?:g[ai]ves?|gave|given|lost|loses?|sold|sells?|sent|took|takes?|ate|eats?|used?|uses|spent|spends?|broke|died|"
    r"of (?:which|them|these|those)|left|rest|returned|paid|away|more|less|than)\b"
)
_SPLITS = r"\b(?:each|every|per|apiece|a piece|one|single|apart|times|rows?|groups?)\b"


def listed(q: Question) -> Reading | None:
    """`Milk 1.20, bread 3.10, cheese 8. What's the total?`"""
    if len(q.amounts) < 2 or not q.asked or q.of("percent"):
        return None
    item = rf"(?:[a-z'-]+:? ){{0,4}}(?:was |is |at |for )?{ANY}(?: (?:of )?[a-z'-]+){{0,3}}"
    if not re2.fullmatch(  # re2, as it is linear: such a list can match in many ways, and re would backtrack
        rf"(?:[^⟦]{{0,60}}[:.] )?{item}(?:(?:\s*(?:,? and |[,;+&/]|- | then )\s*| ){item})+[\s,.:;!-]*", q.given
    ):
        return None
    if re.search(rf"{_MOVES}|{HIDDEN}|\b(?:each|every|per|apiece|at)\b", q.given):
        return None
    if re.search(r"[*/^+]", q.asked) or not _all_named(q, item):
        return None
    found = [a.text for a in q.amounts]
    if re.search(r"\b(?:average|mean)\b", q.asked):
        return computed(f"({' + '.join(found)}) / {len(found)}")
    if re.search(rf"{SUMS}|\bcomes? to\b", q.asked) and not re.search(
        rf"{HIDDEN}|\b(?:more|less|left|each)\b", q.asked
    ):
        return computed(" + ".join(found))
    return None


def _all_named(q: Question, item: str) -> bool:
    """Whether the question names all listed items or none of them, and counts what the list counts."""
    counted = re.search(r"\bhow many ([a-z]+)", q.text)
    if counted and len(re.findall(rf"\b{re.escape(counted[1].rstrip('s'))}", q.text)) < 2:
        return False
    labels = [set(re.findall(r"[a-z]{3,}", m.group())) for m in re.finditer(item, q.given)]
    own = [label - set.intersection(*labels) for label in labels]
    asked = set(re.findall(r"[a-z]{3,}", q.asked)) - {"and", "the"}
    named = [bool(label & asked) for label in own]
    return all(named) or not any(named)


def shared(q: Question) -> Reading | None:
    """`A box of 12 pens costs $18. How much is one pen?`, `We are 4 and the bill was $60, what does each pay?`"""
    if len(q.amounts) != 2 or not q.asked or q.dates or q.clocks or q.of("percent") or q.says(rf"{HIDDEN}|\bleft\b"):
        return None
    if re.search(rf"{_SPLITS}|\b(?:more|less|than|at)\b", q.given):
        return None
    if re.search(r"\b(?:friends?|siblings?|brothers?|sisters?|others?|colleagues?|and (?:i|me))\b", q.given):
        return None  # the speaker may pay, too
    one = r"\b(?:each(?: of (?:us|them|you))?|one|a single|per (?:[a-z]+)|apiece|every(?:body|one)?)\b"
    if not re.search(rf"\b(?:how much|what|price|cost)\b.*{one}|\bhow many\b.*\b(?:each|per [a-z]+)\b", q.asked):
        return None
    money = [a for a in q.amounts if a.kind == "money"]
    counts = [a for a in q.amounts if a.kind == "plain"]
    if len(money) == len(counts) == 1:
        return computed(f"{money[0].text} / {counts[0].text}")
    if len(counts) == 2 and not re.search(_MOVES, q.given) and re.search(r"\bhow many\b", q.asked):
        many, few = sorted((a.text for a in counts), key=size, reverse=True)
        if size(few) > 1 and (size(many) / size(few)).denominator == 1:
            return computed(f"{many} / {few}")
    return None


def fills(q: Question) -> Reading | None:
    """`I have 2 litres. How many 250 ml glasses can I fill?`"""
    if len(q.amounts) != 2 or len(q.of("unit")) != 2 or q.sentences > 2:
        return None
    match = q.finds(
        rf"\bhow many (?:[a-z]+ (?:of )?){{0,3}}{AMOUNT}|\bhow many\b[^⟦]*\b(?:of|with|from|hold\w*|into) {AMOUNT}"
    )
    if match is None or not q.says(r"\b(?:fill|fit|get|make|cut|need|pour|hold|bottles?|out of)\b"):
        return None
    part = q.amounts[int(match[1] or match[2])]
    whole = next(a for a in q.amounts if a is not part)
    if (size(f"({whole.text}) / ({part.text})")).denominator != 1:
        return None
    return computed(f"{whole.text} / {part.text}")


_GAPS = (
    r"\b(?:gain\w*|lose|lost|grow|grew|increas\w*|rise|more|fewer|less|left|remain\w*|missing|lack\w*|short|to go|"
    r"bigger|larger|smaller|higher|lower|taller|shorter|longer|older|younger|heavier|lighter|cheaper|faster|ahead|"
    r"drop\w*|fall|fell|go(?:ne)? up|went up|apart|difference|over|under|behind|margin|win|won|"
    r"deficit|surplus|free|empty|available|still)\b"
)  # fmt: skip
_FROM_TO = (
    rf"\b(?:start\w*|began|left|before|said|from|morning|first|yesterday)\b.*{ANY}.*"
    rf"|{ANY}.*\b(?:start\w*|began|left|before|set out|departure)\b.*"
)


_NO_THING = frozenset(
    "when in and now so today yesterday last this on for is was at before after to of left but with the a an my our it "
    "i we they he she had has have are were taken done sold used spent read out high tall long old big wide heavy more "
    "less from since until by per free already still total tomorrow january february march april may june july august "
    "september october november december monday tuesday wednesday thursday friday saturday sunday first then".split()
)


def gap(q: Question) -> Reading | None:
    """`We need 300 bricks and have 120. How many are missing?`: the difference of two amounts of the same thing."""
    if len(q.amounts) != 2 or not q.asked or q.dates or q.clocks or q.sentences > 3 or not q.of_one_kind:
        return None
    if q.says(rf"{HIDDEN}|[*/^+]|\b(?:area|squares?|percent\w*|total|sum|average|altogether|every|each|per|apiece)\b"):
        return None
    if q.says(r"\b(?:an? (?:day|week|month|year|hour)|rows?|groups?|packs?|boxes|bags?|flips?)\b"):
        return None
    given = re.sub(r"\b(?:am|'m|are|'re|is|now) at\b", "", q.given)
    if re.search(r"\b(?:more|less|than|another|extra|other|also|too|at|difference)\b", given):
        return None
    if re.search(r"\b(?:at first|begin\w*|start\w*|before|ago)\b", q.asked):
        return None
    things = [m[1] for m in re.finditer(rf"{ANY} ([a-z]+)", q.given) if m[1] not in _NO_THING]
    if len(things) == 2 and things[0].rstrip("s") != things[1].rstrip("s"):  # 20 students and 3 teachers
        return None
    first, last = (a.text for a in q.amounts)
    moved = re.search(r"\b(?:some|after|left|stayed|survived|died)\b", q.given)
    if re.search(_GAPS, q.asked) and not moved:
        return computed(" - ".join(sorted((first, last), key=size, reverse=True)))
    ends = re.search(rf"(?:{_FROM_TO})\b(?:back|end\w*|after|now|arriv\w*|finish\w*|came|evening|today)\b", q.text)
    spent = re.search(r"\bhow (?:much|many)\b.*\b(?:spen[dt]|lose|lost|use[ds]?|pay|paid|drop\w*)\b", q.asked)
    if ends and spent and size(last) < size(first):
        return computed(f"{first} - {last}")
    way = r"\bhow (?:far|long|many|much)\b.*\b(?:drive|drove|go|gone|went|travel\w*|use[ds]?|cover\w*)\b"
    if ends and re.search(way, q.asked) and size(last) > size(first):
        return computed(f"{last} - {first}")
    return None


_CELSIUS, _FAHRENHEIT = r"(?:celsius|centigrade|c)\b", r"(?:fahrenheit|f)\b"


def degrees(q: Question) -> Reading | None:
    """Converts between Celsius and Fahrenheit."""
    if len(q.amounts) != 1 or q.amounts[0].kind != "plain" or q.dates or q.clocks or q.sentences > 2:
        return None
    number = r"(minus |-\s?)?" + ANY + r" ?(?:degrees? |deg |° ?)?"
    for mine, theirs, expression, sign in (
        (_CELSIUS, _FAHRENHEIT, "{n} * 9 / 5 + 32", "°F"),
        (_FAHRENHEIT, _CELSIUS, "({n} - 32) * 5 / 9", "°C"),
    ):
        match = q.finds(number + mine)
        rest = "" if match is None else q.text[: match.start()] + " " + q.text[match.end() :]
        if match is not None and re.search(rf"(?:\b|°){theirs}", rest):
            n = f"(-{q.amounts[0].text})" if match[1] else q.amounts[0].text
            found = computed(expression.format(n=n))
            return Reading(found.asked, f"{found.result} {sign}")
    return None
