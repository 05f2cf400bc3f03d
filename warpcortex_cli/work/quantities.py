"""Exact quantities: fractions with a unit, a currency, a percent sign or the name of what is counted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

MOST_BITS = 2048  # of numerator and denominator together: about 600 digits


class CalculationError(ValueError):
    """There is no result. The message gives the reason for the user, in a few words."""


_METRIC = {"mass": "g", "length": "m", "volume": "l"}
_UNITS: dict[str, tuple[str, Fraction, str]] = {}  # name -> dimension, size in the dimension's own unit, symbol


def _define(dimension: str, size: Fraction | int | str, symbol: str, *names: str) -> None:
    for name in (symbol, *names):
        _UNITS[name] = (dimension, Fraction(size), symbol)


for _prefix, _long, _size in (
    ("m", "milli", Fraction(1, 1000)),
    ("c", "centi", Fraction(1, 100)),
    ("", "", Fraction(1)),
    ("k", "kilo", Fraction(1000)),
):
    for _dimension, _base in _METRIC.items():
        _word = {"g": "gram", "m": "meter", "l": "liter"}[_base]
        _define(_dimension, _size, _prefix + _base, _long + _word, _long + _word.replace("er", "re"))
_define("mass", 1_000_000, "t", "tonne", "ton")
_define("mass", "453.59237", "lb", "lbs", "pound")
_define("mass", "28.349523125", "oz", "ounce")
_define("length", "0.0254", "inch", "inches")
_define("length", "0.3048", "ft", "foot", "feet")
_define("length", "0.9144", "yd", "yard")
_define("length", "1609.344", "mi", "mile")
_define("volume", "3.785411784", "gal", "gallon")
_define("volume", "0.473176473", "pt", "pint")
_define("volume", "0.2365882365", "cup")
_UNITS |= {"L": _UNITS["l"], "mL": _UNITS["ml"]}
_define("time", Fraction(1, 1000), "ms", "millisecond")
_define("time", 1, "s", "second", "sec")
_define("time", 60, "min", "minute")
_define("time", 3600, "h", "hour", "hr", "hrs")
_define("time", 86_400, "day")
_define("time", 604_800, "week")
_define("data", 1, "B", "byte")
_define("data", 1000, "KB", "kB", "kb", "kilobyte")
_define("data", 1000**2, "MB", "mb", "megabyte")
_define("data", 1000**3, "GB", "gb", "gigabyte")
_define("data", 1000**4, "TB", "tb", "terabyte")
_define("$", 1, "$", "dollar", "USD", "usd", "buck")
_define("$", Fraction(1, 100), "cents", "cent", "¢")
_define("€", 1, "€", "euro", "EUR", "eur")
_define("£", 1, "£", "GBP", "gbp")
_define("¥", 1, "¥", "yen", "JPY")
_SIGNS = frozenset("$€£¥")
_SPELT = frozenset(("day", "week", "cup", "cents"))  # written out, so they have a plural

Unit = tuple[tuple[str, int], ...]  # symbols with their exponents: km/h is (("km", 1), ("h", -1))


def unit_named(word: str) -> str | None:
    """The symbol of a unit, from its symbol or its name in singular or plural; None if it is not a unit."""
    for name in (word, word.lower(), word.lower().removesuffix("s")):
        if name in _UNITS and (name == word or len(name) > 2):  # `Kg` is no unit, and `ms` is not metres
            return _UNITS[name][2]
    return None


@dataclass(frozen=True)
class Quantity:
    """An exact quantity.

    Attributes:
        value: in its unit; for a percentage a hundredth of the written number.
        unit: symbols with exponents; empty for a plain number.
        percent: whether it has a percent sign.
        label: what is counted, such as "apples"; kept while results still count that.
        cents: for money, whether it was written with decimals.
    """

    value: Fraction
    unit: Unit = ()
    percent: bool = False
    label: str = ""
    cents: bool = False

    def __post_init__(self) -> None:
        if self.value.numerator.bit_length() + self.value.denominator.bit_length() > MOST_BITS:
            raise CalculationError("the numbers are too large")

    @property
    def money(self) -> str:
        """The currency sign, or ""."""
        return self.unit[0][0] if len(self.unit) == 1 and self.unit[0][0] in _SIGNS and self.unit[0][1] == 1 else ""

    def __add__(self, other: Quantity) -> Quantity:
        if other.percent and not self.percent:  # 80 + 15% is 92
            return replace(self, value=self.value * (1 + other.value))
        if self.percent and not other.percent:
            raise CalculationError(f"{show(other)} cannot be added to a percentage")
        unit, label = self._together(other)
        value = self.value + other.value * _factor(other.unit, unit)
        return Quantity(value, unit, self.percent and other.percent, label, self.cents or other.cents)

    def __neg__(self) -> Quantity:
        return replace(self, value=-self.value)

    def __sub__(self, other: Quantity) -> Quantity:
        return self + -other

    def __mul__(self, other: Quantity) -> Quantity:
        other = other._in_the_units_of(self)
        unit = _joined(self.unit, other.unit, 1)
        paid = next((q.unit for q in (self, other) if q.money), ())
        if paid and len(unit) > 1 and all(e > 0 for _, e in unit):  # 5 kg at $2 are $10, whatever $2 is the price of
            unit = paid
        return self._scaled(other, self.value * other.value, unit)

    def __truediv__(self, other: Quantity) -> Quantity:
        if not other.value:
            raise CalculationError("division by zero has no result")
        if self.percent and other.percent:
            return Quantity(self.value / other.value)
        other = other._in_the_units_of(self)
        unit = _joined(self.unit, other.unit, -1)
        return self._scaled(other, self.value / other.value, unit, divided=True)

    def __mod__(self, other: Quantity) -> Quantity:
        if not other.value:
            raise CalculationError("division by zero has no result")
        unit, label = self._together(other)
        return Quantity(self.value % (other.value * _factor(other.unit, unit)), unit, label=label)

    def __pow__(self, other: Quantity) -> Quantity:
        if other.unit or other.percent:
            raise CalculationError("an exponent must be a plain number")
        if other.value.denominator != 1:
            raise CalculationError("only whole exponents have an exact result")
        power = other.value.numerator
        size = max(self.value.numerator.bit_length(), self.value.denominator.bit_length())
        if abs(power) * (size - 1) > MOST_BITS or abs(power) > 1_000_000:  # checked before computing
            raise CalculationError("the result is too large")
        if not self.value and power < 0:
            raise CalculationError("division by zero has no result")
        return Quantity(self.value**power, tuple((u, e * power) for u, e in self.unit))

    def compared(self, other: Quantity) -> Fraction:
        """Negative, 0 or positive if it is less than, equal to or more than another one."""
        unit, _ = other._together(self)
        return self.value * _factor(self.unit, unit) - other.value * _factor(other.unit, unit)

    def to(self, symbol: str) -> Quantity:
        """The same quantity in another unit.

        Raises:
            CalculationError: the unit measures something else.
        """
        unit: Unit = ((symbol, 1),)
        return replace(self, value=self.value * _factor(self.unit, unit), unit=unit, label="")

    def _together(self, other: Quantity) -> tuple[Unit, str]:
        """Unit and label of the sum; a plain number takes the other's unit."""
        if self.unit and other.unit:
            _factor(other.unit, self.unit)  # raises if they do not fit
        return self.unit or other.unit, self.label if self.label == other.label or not other.label else ""

    def _scaled(self, other: Quantity, value: Fraction, unit: Unit, divided: bool = False) -> Quantity:
        percent = divided and (self.percent or other.percent) and not (other.percent or self.unit or other.unit)
        label = "" if self.label and other.label else self.label
        return Quantity(value, unit, percent, label, self.cents or other.cents)

    def _in_the_units_of(self, other: Quantity) -> Quantity:
        """Converts units to those of another quantity that measure the same, so that they combine or cancel."""
        there = {_UNITS[u][0]: u for u, _ in other.unit}
        value, unit = self.value, []
        for symbol, exponent in self.unit:
            dimension, size, _ = _UNITS[symbol]
            chosen = there.get(dimension, symbol)
            value *= (size / _UNITS[chosen][1]) ** exponent
            unit.append((chosen, exponent))
        return replace(self, value=value, unit=tuple(unit))


def _joined(first: Unit, second: Unit, sign: int) -> Unit:
    found = dict(first)
    for symbol, exponent in second:
        found[symbol] = found.get(symbol, 0) + sign * exponent
    return tuple((u, e) for u, e in found.items() if e)


def _factor(unit: Unit, into: Unit) -> Fraction:
    """The conversion factor from one unit to another."""
    if unit == into or not unit or not into:
        return Fraction(1)

    def parts(of: Unit) -> tuple[dict[str, int], Fraction]:
        dimensions: dict[str, int] = {}
        size = Fraction(1)
        for symbol, exponent in of:
            dimension, one, _ = _UNITS[symbol]
            dimensions[dimension] = dimensions.get(dimension, 0) + exponent
            size *= one**exponent
        return {d: e for d, e in dimensions.items() if e}, size

    (mine, size), (theirs, other) = parts(unit), parts(into)
    if mine != theirs:
        raise CalculationError(f"{_written(unit, False)} and {_written(into, False)} do not measure the same")
    return size / other


# -- text -------------------------------------------------------------------------------------------------------


def show(quantity: Quantity, commas: bool = False) -> str:
    """As a person would write it: `$18.60`, `3.45 kg`, `15%`, `-7 apples`, `1,250`, `3.333`."""
    value = quantity.value
    if quantity.percent:
        return f"{decimal(100 * value, commas)}%"
    if quantity.money:
        cents = quantity.cents or value.denominator != 1
        sign = "-" if value < 0 and (not cents or _rounded(abs(value), 2)) else ""
        return sign + quantity.money + _fixed(abs(value), 2 if cents else 0, commas or abs(value) >= 10_000)
    text = decimal(value, commas)
    if quantity.unit:
        return f"{text} {_written(quantity.unit, abs(value) != 1)}"
    return f"{text} {quantity.label}" if quantity.label else text


def exact(quantity: Quantity) -> bool:
    """Whether `show` does not round."""
    value = abs(quantity.value) * (100 if quantity.percent else 1)
    return value == (_rounded(value, 2) if quantity.money else _shown(value))


def decimal(value: Fraction, commas: bool = False) -> str:
    """All digits if there are at most six decimals; else two decimals, or four significant digits if that is more."""
    sign, value = "-" if value < 0 else "", abs(value)
    shown = _shown(value)
    text = _fixed(shown, _decimals(shown), commas)
    return text if text == "0" else sign + text


def _shown(value: Fraction) -> Fraction:
    if not value or (10**6 * value).denominator == 1:
        return value
    places, scaled = 2, value
    while scaled < 10 and places < 40:  # four significant digits
        places, scaled = places + 1, scaled * 10
    return _rounded(value, places)


def _rounded(value: Fraction, places: int) -> Fraction:
    """Rounds half up, as people do."""
    return Fraction(int(value * 10**places + Fraction(1, 2)), 10**places)


def _decimals(value: Fraction) -> int:
    """The number of decimals of a number."""
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    return places


def _fixed(value: Fraction, places: int, commas: bool) -> str:
    """A non-negative number with `places` decimals."""
    head, tail = divmod(int(_rounded(value, places) * 10**places), 10**places)
    text = f"{head:,}" if commas else str(head)
    return f"{text}.{tail:0{places}d}" if places else text


def _written(unit: Unit, many: bool) -> str:
    over = [_power(u, e, many) for u, e in unit if e > 0]
    under = [_power(u, -e, False) for u, e in unit if e < 0]
    return "*".join(over or ["1"]) + "".join(f"/{u}" for u in under)


def _power(symbol: str, exponent: int, many: bool) -> str:
    spelt = symbol.removesuffix("s") if symbol in _SPELT else symbol
    name = spelt + ("s" if symbol in _SPELT and many else "")
    return name if exponent == 1 else f"{name}^{exponent}"
