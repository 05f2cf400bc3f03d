"""What a question in words is parsed as: an expression of the calculator and its result."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from warpcortex_cli.work.calculator import calculate


@dataclass(frozen=True)
class Reading:
    """A recognised calculation.

    Attributes:
        asked: the calculation, as an expression or in a few words.
        result: formatted as a person would write it.
    """

    asked: str
    result: str

    @property
    def equation(self) -> str:
        return f"{self.asked} = {self.result}"


def computed(expression: str) -> Reading:
    """An expression with its result. Raises CalculationError if it has none."""
    return Reading(expression, calculate(expression).text)


def size(expression: str) -> Fraction:
    """The value of an expression, without its unit."""
    value = calculate(expression).value
    return value.value if not isinstance(value, bool) else Fraction(0)
