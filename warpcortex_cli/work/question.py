"""A question with its amounts, dates and clock times taken out, so that rules only match the words between them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from warpcortex_cli.work.quantities import unit_named

_ONES = "one two three four five six seven eight nine".split()
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_COUNTS = {word: n for n, word in enumerate([*_ONES, *_TEENS], 1)} | {"dozen": 12}
_COUNTS |= {word: 20 + 10 * n for n, word in enumerate(_TENS)}
_COUNTED = re.compile(
    rf"\b(?:({'|'.join(_TENS)})(?:[- ]({'|'.join(_ONES)}))?|({'|'.join([*_ONES[1:], *_TEENS])})|(?:a )?(dozen))\b", re.I
)
_SPOKEN = (  # variants of one wording
    (r"(?<=\d) ?mph\b", " miles per hour"), (r"(?<=\d) ?(?:kmh|kph|km/hr?)\b", " km per hour"),
    (r"^(?:(?:hi|hello|hey|ok|okay|so|please|pls|plz|quick question|question)\b[,!.:]*\s+)+", ""),
    (r",?\s*\b(?:please|pls|plz|thanks|thank you|thx)\b(?=[\s.!?]*$)", ""), (r"\ball ?together\b", "altogether"),
    (r"\b(?:calc|calculate me)\b", "calculate"), (r"\s&\s", " and "), (r"\bavg\b", "average"),
    (r"\ba hundred\b", "100"),
)  # fmt: skip
_OPERATORS = (
    (r"\bto the power of\b", "^"), (r"\bsquared\b", "^ 2"), (r"\bcubed\b", "^ 3"), (r"\bmultiplied (?:by|with)\b", "*"),
    (r"\bdivided by\b", "/"), (r"\bplus\b", "+"), (r"\bminus\b", "-"), (r"\btimes\b", "*"),
    (r"(?<=⟧) (?:take away|taken away|less) (?=⟦)", " - "),
)  # fmt: skip
_UNIT_WORD = r"[a-zA-Z]+"
_QUANTITY = re.compile(
    rf"""(?<![\w.])(?:
        (?P<money>[$€£¥]\s?(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d+)(?:\.\d+)?)
      | (?P<number>(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?!\d)
        (?:\s?(?P<percent>%|percent\b|per\ cent\b)|\s?(?P<sign>[€£¥])|\s?(?P<scale>hundred|thousand|million|billion|k)\b
          |\s?(?P<unit>{_UNIT_WORD}))?
    )(?![\d])""",
    re.VERBOSE,
)
MONTHS = "january february march april may june july august september october november december".split()
_MONTH = "|".join(f"{m}|{m[:3]}" for m in MONTHS)
_DATE = re.compile(
    rf"""\b(?:
        (?P<year>\d{{4}})-(?P<m>\d\d)-(?P<d>\d\d)
      | (?P<day1>\d{{1,2}})(?:st|nd|rd|th)?\ (?:of\ )?(?P<month1>{_MONTH})\b\.?,?(?:\ (?P<year1>\d{{4}}))?
      | (?P<month2>{_MONTH})\b\.?\ (?P<day2>\d{{1,2}})(?:st|nd|rd|th)?\b(?:,?\ (?P<year2>\d{{4}}))?
    )\b""",
    re.VERBOSE | re.IGNORECASE,
)
_CLOCK = re.compile(r"\b(\d{1,2})(?::(\d\d))? ?([ap])\.?m\b\.?|\b(\d{1,2}):(\d\d)\b", re.IGNORECASE)
_ASKS = re.compile(
    r"\b(?:by how|on average,? how|how (?:much|many|far|long|old|big)|what|whats|which|when|(?:the )?total|sum|"
    r"together)\b"
)
_LAST = re.compile(r"(?<=[.,;:?!] )[a-z][^.,;:?!⟦]*[.?!]?$")  # `, price per piece?`
AMOUNT = r"⟦(\d+)⟧"
ANY = r"⟦\d+⟧"


@dataclass(frozen=True)
class Amount:
    """A number of a question, as the calculator reads it, and its unit."""

    text: str
    kind: str  # "money", "percent", "unit" or "plain"
    unit: str = ""


class Question:
    """A question whose amounts, dates and clock times are taken out.

    Attributes:
        text: in lower case, each amount as its index in double brackets, operators in words as signs.
        asked: the end of the text from the question word on, if it follows the last amount; else empty.
    """

    def __init__(self, question: str) -> None:
        self.amounts: list[Amount] = []
        self.dates: list[date] = []
        self.clocks: list[int] = []
        self.halves = False  # whether it uses am and pm
        text = question.replace("⟦", "(").replace("⟧", ")")
        text = re.sub("[−–]", "-", text)
        text = _DATE.sub(self._take_date, text)
        text = _CLOCK.sub(self._take_clock, text)
        for pattern, said in _SPOKEN:
            text = re.sub(pattern, said, text, flags=re.I)
        text = _COUNTED.sub(lambda m: str(sum(_COUNTS[word.lower()] for word in m.groups() if word)), text)
        text = _QUANTITY.sub(self._take_amount, text).lower()
        for pattern, sign in _OPERATORS:
            text = re.sub(pattern, sign, text)
        text = re.sub(r"\^ ([23])\b", lambda m: f"^ {self._held(Amount(m[1], 'plain'))}", text)
        self.text = " ".join(text.split())
        end = self.text.rfind("⟧") + 1
        behind = _ASKS.search(self.text, end) or _LAST.search(self.text, end)
        self.asked = self.text[behind.start() :] if behind and self.amounts else ""

    def _held(self, amount: Amount) -> str:
        self.amounts.append(amount)
        return f"⟦{len(self.amounts) - 1}⟧"

    def _take_amount(self, match: re.Match[str]) -> str:
        rest = ""
        if match["unit"] in ("st", "nd", "rd", "th"):
            return match.group()  # an ordinal, not an amount
        if match["money"]:
            amount = Amount(match["money"].replace(" ", ""), "money")
        elif match["percent"]:
            amount = Amount(f"{match['number']}%", "percent")
        elif match["sign"]:
            amount = Amount(match["sign"] + match["number"], "money")
        elif match["scale"]:
            amount = Amount(f"{match['number']} {match['scale']}", "plain")
        else:
            word = match["unit"] or ""
            symbol = unit_named(word) if word not in ("in", "a", "A", "I", "x", "X") else None
            if symbol in ("$", "€", "£", "¥"):
                amount = Amount(symbol + match["number"], "money")
            elif symbol == "cents":
                amount = Amount(f"{match['number']} cents", "money")
            elif symbol:
                amount = Amount(f"{match['number']} {symbol}", "unit", symbol)
            else:
                amount = Amount(match["number"], "plain")
                rest = match.group()[len(match["number"]) :] if word else ""
        return self._held(amount) + rest

    def _take_date(self, match: re.Match[str]) -> str:
        month = match["month1"] or match["month2"]
        number = int(match["m"]) if month is None else 1 + [m[:3] for m in MONTHS].index(month.lower()[:3])
        day = int(match["d"] or match["day1"] or match["day2"])
        said = match["year"] or match["year1"] or match["year2"]
        try:
            found = date(int(said) if said else date.today().year, number, day)
        except ValueError:
            return match.group()
        if not said and self.dates and found < self.dates[-1]:
            found = found.replace(year=found.year + 1) if (month, day) != (2, 29) else found
        self.dates.append(found)
        return "⟨date⟩"

    def _take_clock(self, match: re.Match[str]) -> str:
        hour, minute = int(match[1] or match[4]), int(match[2] or match[5] or 0)
        if match[3]:
            self.halves = True
            hour = hour % 12 + (12 if match[3].lower() == "p" else 0)
        if hour > 24 or minute > 59:
            return match.group()
        self.clocks.append(60 * hour + minute)
        return "⟨clock⟩"

    @property
    def sentences(self) -> int:
        """The number of sentences; a story has more than a question."""
        return 1 + len(re.findall(r"[.?!](?= |$)", self.text.rstrip(".?! ")))

    @property
    def of_one_kind(self) -> bool:
        """Whether all amounts have the same unit, or none; next to money, a bare number counts as money."""
        kinds = {(a.kind, a.unit) for a in self.amounts}
        if {kind for kind, _ in kinds} == {"money", "plain"}:
            return all(self._bare(a) for a in self.amounts if a.kind == "plain")
        return len(kinds) == 1 and self.amounts[0].kind != "percent"

    def _bare(self, amount: Amount) -> bool:
        """Whether no word after a number says what it counts."""
        prepositions = r"(?:on|for|in|from|and|now|so|today|left|then|to)\b"
        return self.says(rf"{re.escape(self.sign_of(amount))}(?:[,.;:?!)]| {prepositions}|\s*$)")

    @property
    def given(self) -> str:
        """The text before `asked`."""
        return self.text[: len(self.text) - len(self.asked)]

    def sign_of(self, amount: Amount) -> str:
        """How an amount is written in `text`."""
        return f"⟦{next(i for i, a in enumerate(self.amounts) if a is amount)}⟧"

    # -- matching ----------------------------------------------------------------------------------------------

    def says(self, pattern: str) -> bool:
        return re.search(pattern, self.text) is not None

    def finds(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, self.text)

    def of(self, *kinds: str) -> list[str]:
        """The amounts of these kinds, as expressions."""
        return [a.text for a in self.amounts if a.kind in kinds]

    def all(self, match: re.Match[str]) -> list[str]:
        """The amounts of a match, in order."""
        return [self.amounts[int(n)].text for n in re.findall(AMOUNT, match.group())]

    def accounts_for(self, match: re.Match[str]) -> bool:
        """Whether a match holds all amounts, and the question has no dates or times."""
        return len(re.findall(AMOUNT, match.group())) == len(self.amounts) and not self.dates and not self.clocks
