"""A calculator with exact results for text such as `12 * 7`, `15% of 80`, `$4.50 × 3`, `3 kg + 450 g`, `3/4 > 2/3`.

    whole       sum [("<" | "<=" | ">" | ">=" | "=" | "!=") sum | ("in" | "to") (unit | "%")]
    sum         term (("+" | "-") term)*
    term        factor (("*" | "/" | "mod" | "of") factor)*
    factor      ("-" | "+") factor | power
    power       atom ["^" factor]
    atom        number [unit | label] | number "%" | "(" sum ")" | name ["of"] list
    list        sum (("," | ";" | "and" | "+") sum)*           of `sum`, `average`, `product`, `smallest`, `largest`

Values are fractions, so only the final text is rounded. Text is never evaluated as a program. Expressions that would
take long are refused before computing: long texts, deep nesting, results of more than about 600 digits.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from warpcortex_cli.work.quantities import CalculationError, Quantity, exact, show, unit_named

MOST_CHARACTERS = 4000
_MOST_DIGITS = 60
_DEEPEST = 40

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?|\.\d+"
_TOKEN = re.compile(
    rf"""\s*(?:
        (?P<number>{_NUMBER})
      | (?P<word>[^\W\d_]+(?:[-'’][^\W\d_]+)*)
      | (?P<sign>\*\*|<=|>=|==|!=|[-+*/^%()<>=,;?!.:×✕·⋅∙÷∕⁄−–≤≥$€£¥¢²³])
    )""",
    re.VERBOSE,
)
_SAME = {
    "**": "^", "×": "*", "✕": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "∕": "/", "⁄": "/", "−": "-", "–": "-",
    "≤": "<=", "≥": ">=", "==": "=",
}  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "k": 1000}
_LISTS: dict[str, Callable[[Sequence[Quantity]], Quantity]] = {
    "sum": lambda values: _total(values),
    "total": lambda values: _total(values),
    "average": lambda values: _total(values) / Quantity(Fraction(len(values))),
    "mean": lambda values: _total(values) / Quantity(Fraction(len(values))),
    "product": lambda values: _reduced(operator.mul, values),
    "smallest": lambda values: min(values, key=lambda v: v.compared(replace(values[0], value=Fraction(0)))),
    "largest": lambda values: max(values, key=lambda v: v.compared(replace(values[0], value=Fraction(0)))),
}
_LISTS |= {"min": _LISTS["smallest"], "minimum": _LISTS["smallest"], "max": _LISTS["largest"]}
_LISTS |= {"maximum": _LISTS["largest"]}
_COMPARED: dict[str, Callable[[Fraction, int], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """The result of a calculation.

    Attributes:
        value: exact; for a comparison whether it is true.
        text: as a person would write it.
        exact: whether `text` is not rounded.
    """

    value: Quantity | bool
    text: str
    exact: bool


def calculate(text: str) -> Result:
    """The result of an expression, which may end in an equals sign.

    Raises:
        CalculationError: it is not an expression, has no result, or would take long.
    """
    tokens = tokens_of(text)
    while tokens and tokens[-1].text in ("=", "?", ".", "!", ":"):
        tokens.pop()
    if not tokens:
        raise CalculationError("there is nothing to compute")
    parser = _Parser(tokens)
    value = parser.whole()
    if isinstance(value, bool):
        return Result(value, "true" if value else "false", True)
    return Result(value, show(value, parser.commas), exact(value))


@dataclass(frozen=True)
class Token:
    """A number, a word or a sign of an expression, with its position in the text.

    `spaced`: whether white space precedes it.
    """

    kind: str
    text: str
    start: int
    end: int
    spaced: bool


def tokens_of(text: str) -> list[Token]:
    """The tokens of an expression.

    Raises:
        CalculationError: it is too long, or contains something that is not part of an expression.
    """
    if len(text) > MOST_CHARACTERS:
        raise CalculationError("the expression is too long")
    tokens: list[Token] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None:
            raise CalculationError(f"{text[at:].split()[0][:20]} is not part of a calculation")
        kind = found.lastgroup or ""
        start = found.start(kind)
        said = found[kind]
        if kind == "number" and sum(c.isdigit() for c in said) > _MOST_DIGITS:
            raise CalculationError("the numbers are too long")
        tokens.append(Token(kind, _SAME.get(said, said), start, found.end(), start > at))
        at = found.end()
    return tokens


class _Parser:
    """Parses tokens and computes at the same time.

    Attributes:
        commas: whether a number has thousands commas, so that the result gets them, too.
    """

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self.commas = False

    def whole(self) -> Quantity | bool:
        value: Quantity | bool = self._sum()
        sign = self._sign
        if sign in _COMPARED and isinstance(value, Quantity):
            self._at += 1
            value = bool(_COMPARED[sign](value.compared(self._sum()), 0))
        elif self._word in ("in", "to", "as", "into") and isinstance(value, Quantity):
            self._at += 1
            symbol = self._symbol()
            if symbol is not None:
                value = value.to(symbol)
            elif self._sign == "%" and not value.unit:
                self._at += 1
                value = replace(value, percent=True, label="")
            else:
                raise self._unexpected()
        if self._at < len(self._tokens):
            raise self._unexpected()
        return value

    # -- rules --------------------------------------------------------------------------------------------------

    def _sum(self) -> Quantity:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise CalculationError("the expression is nested too deeply")
        value = self._term()
        while (sign := self._sign) in ("+", "-"):
            self._at += 1
            other = self._term()
            value = value + other if sign == "+" else value - other
        self._depth -= 1
        return value

    def _term(self) -> Quantity:
        value = self._factor()
        while True:
            if self._sign in ("*", "/"):
                does = operator.mul if self._sign == "*" else operator.truediv
            elif self._word in ("x", "X"):
                does = operator.mul
            elif self._word == "mod" or (self._sign == "%" and self._starts_value(1)):
                does = operator.mod
            elif self._word == "of" and value.percent:
                does = operator.mul
            else:
                return value
            self._at += 1
            value = does(value, self._factor())

    def _factor(self) -> Quantity:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise CalculationError("the expression is nested too deeply")
        if self._sign in ("-", "+"):
            negative = self._sign == "-"
            self._at += 1
            value = -self._factor() if negative else self._factor()
        else:
            value = self._power()
        self._depth -= 1
        return value

    def _power(self) -> Quantity:
        value = self._atom()
        if self._sign == "^":
            self._at += 1
            value = value ** self._factor()
        elif self._sign in ("²", "³"):
            value = value ** Quantity(Fraction(2 if self._sign == "²" else 3))
            self._at += 1
        return value

    def _atom(self) -> Quantity:
        if self._sign == "(":
            self._at += 1
            value = self._sum()
            if self._sign != ")":
                raise CalculationError("a parenthesis is not closed")
            self._at += 1
            return self._measured(value)
        if self._sign in ("$", "€", "£", "¥"):
            sign = self._sign
            self._at += 1
            number, cents = self._number()
            return self._over(Quantity(number, ((sign, 1),), cents=cents))
        if self._word.lower() in _LISTS:
            return self._list()
        number, cents = self._number()
        if self._sign == "%" and not (self._starts_value(1) and self._here_spaced):
            self._at += 1
            return Quantity(number / 100, percent=True)
        value = self._measured(Quantity(number))
        return replace(value, cents=cents and bool(value.money))

    def _number(self) -> tuple[Fraction, bool]:
        """A number, and whether it has decimals."""
        token = self._token
        if token is None or token.kind != "number":
            raise self._unexpected()
        self._at += 1
        self.commas = self.commas or "," in token.text
        value = Fraction(token.text.replace(",", ""))
        while self._word.lower() in _SCALES:
            value *= _SCALES[self._word.lower()]
            self._at += 1
        return value, "." in token.text

    def _measured(self, value: Quantity) -> Quantity:
        """A value with the unit after it, if any, or the name of what it counts."""
        if value.unit or value.percent:
            return value
        symbol = self._symbol()
        if symbol is not None:
            return self._over(replace(value, unit=((symbol, 1),)))
        if self._word and self._word.lower() not in _RESERVED:
            value = replace(value, label=self._word)
            self._at += 1
        return value

    def _over(self, value: Quantity) -> Quantity:
        """A value with a unit in the denominator: $2/kg, 60 km/h."""
        while self._sign == "/" and self._is_word(1) and (under := self._symbol(1)) is not None:
            self._at += 1
            value = replace(value, unit=(*value.unit, (under, -1)))
        return value

    def _symbol(self, ahead: int = 0) -> str | None:
        """Consumes the next token if it is a unit. `ahead`: tokens before it that are left to the caller."""
        token = self._tokens[self._at + ahead] if self._at + ahead < len(self._tokens) else None
        if token is None or token.kind == "number" or (token.text in ("x", "X", "in")):
            return None
        symbol = unit_named(token.text)
        if symbol is not None:
            self._at += 1
        return symbol

    def _list(self) -> Quantity:
        combine = _LISTS[self._word.lower()]
        self._at += 1
        if self._word == "of":
            self._at += 1
        closing = self._sign == "("
        self._at += closing
        values = [self._sum()]
        while self._sign in (",", ";") or self._word == "and":
            self._at += 1
            if self._word == "and":
                self._at += 1
            values.append(self._sum())
        if closing:
            if self._sign != ")":
                raise CalculationError("a parenthesis is not closed")
            self._at += 1
        return combine(values)

    # -- tokens ------------------------------------------------------------------------------------------------

    @property
    def _token(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    @property
    def _sign(self) -> str:
        token = self._token
        return token.text if token is not None and token.kind == "sign" else ""

    @property
    def _word(self) -> str:
        token = self._token
        return token.text if token is not None and token.kind == "word" else ""

    @property
    def _here_spaced(self) -> bool:
        token = self._token
        return token is not None and token.spaced

    def _starts_value(self, ahead: int) -> bool:
        place = self._at + ahead
        token = self._tokens[place] if place < len(self._tokens) else None
        return token is not None and (token.kind == "number" or token.text in ("(", "$", "€", "£", "¥"))

    def _is_word(self, ahead: int) -> bool:
        place = self._at + ahead
        return place < len(self._tokens) and self._tokens[place].kind == "word"

    def _unexpected(self) -> CalculationError:
        token = self._token
        return CalculationError(
            f"{token.text[:20]} is not expected there" if token else "the expression is not finished"
        )


_RESERVED = frozenset(("x", "of", "and", "mod", "in", "to", "as", "into", *_LISTS))


def _total(values: Sequence[Quantity]) -> Quantity:
    return _reduced(operator.add, values)


def _reduced(does: Callable[[Quantity, Quantity], Quantity], values: Sequence[Quantity]) -> Quantity:
    first, *rest = values
    for value in rest:
        first = does(first, value)
    return first
