"""How pocket's math Streams work: column by column, as taught at school, then a line with the result.

All numbers are padded to the same width, so that each digit that a column needs stands at a fixed distance from it: a
small model copies by distance far more reliably than by meaning. A column `480=12` reads: digits 4 and 8 and carry 0
make 12, whose first digit is the next column's carry.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import zip_longest

_TERM = re.compile(r"\s*([+*-])\s*")
_Column = Callable[[int, int, int], int]


def evaluate(expression: str) -> int:
    """The value of `47 + 86 - 3` or `47 * 12`, from left to right."""
    parts = _TERM.split(expression.strip())
    value = int(parts[0])
    for operator, number in zip(parts[1::2], parts[2::2], strict=True):
        n = int(number)
        value = value + n if operator == "+" else value - n if operator == "-" else value * n
    return value


def _columns(a: int, b: int | None, digit: int, width: int, column: _Column) -> str:
    """The columns from the units up. If `b` is None, each has `digit` in its place."""
    steps, carry = [], 0
    second = str(digit) * width if b is None else f"{b:0{width}}"
    for p, q in zip(reversed(f"{a:0{width}}"), reversed(second), strict=True):
        total = column(int(p), int(q), carry)
        steps.append(f"{p}{q}{carry}={total:02}")
        carry = total // 10
    return ",".join(steps)


def _add(a: int, b: int, width: int) -> str:
    return f"+{b:0{width}}:{_columns(a, b, 0, width, lambda p, q, c: p + q + c)}>{a + b:0{width}}"


def _subtract(a: int, b: int, width: int) -> str:
    """Subtracts, for a >= b. The first digit of a column's result is what the next one borrows."""

    def column(p: int, q: int, borrowed: int) -> int:
        left = p - q - borrowed
        return left + 20 if left < 0 else left

    return f"-{b:0{width}}:{_columns(a, b, 0, width, column)}>{a - b:0{width}}"


def _times(a: int, digit: int, width: int) -> str:
    return f"*{digit}:{_columns(a, None, digit, width, lambda p, q, c: p * q + c)}>{a * digit:0{width}}"


def _multiply(a: int, b: int, width: int) -> str:
    """Multiplies by each digit of `b`, units first, and adds the shifted products. It starts after the written `a`."""
    digits = [int(d) for d in reversed(str(b))]
    out, total = _times(a, digits[0], width), a * digits[0]
    for power, digit in enumerate(digits[1:], start=1):
        shifted = a * digit * 10**power
        out += f";{a:0{width}}{_times(a, digit, width)};{total:0{width}}{_add(total, shifted, width)}"
        total += shifted
    return out


def _width(start: int, steps: list[tuple[str, int]]) -> int:
    """The width: three digits suffice for almost everything in pocket's world, five for the rest."""
    highest, small, value = abs(start), start <= 99, start
    for operator, n in steps:
        value = value + n if operator == "+" else value - n if operator == "-" else value * n
        highest = max(highest, abs(value), n)
        small = small and n <= (9 if operator == "*" else 99) and highest <= 999
    return 3 if small else max(5, len(str(highest)))


def work(expression: str) -> str:
    """The written-out work for an expression, ending in the line `= expression = value`."""
    parts = _TERM.split(expression.strip())
    value = int(parts[0])
    steps = [(operator, int(n)) for operator, n in zip(parts[1::2], parts[2::2], strict=True)]
    width = _width(value, steps)
    out = f"{value:0{width}}"
    for operator, n in steps:
        if operator == "*":
            out += _multiply(abs(value), n, width)
            value *= n
            continue
        signed = n if operator == "+" else -n
        if (value >= 0) == (signed >= 0):
            out += _add(abs(value), n, width)
        elif abs(value) >= n:
            out += _subtract(abs(value), n, width)
        else:  # the smaller from the larger; the result gets the sign
            out += f";{n:0{width}}" + _subtract(n, abs(value), width)
        value += signed
    return f"{out}\n= {expression} = {value}"


def compare(a: int, b: int) -> str:
    """Compares column by column from the highest, up to the first difference. Ends in `= 47 > 12: yes`."""
    columns, _ = _side_by_side(a, b)
    return f"{columns}\n= {a} > {b}: {'yes' if a > b else 'no'}"


def same(a: int, b: int) -> str:
    """The same columns, for `= 47 = 45: no`."""
    columns, equal = _side_by_side(a, b)
    return f"{columns}\n= {a} = {b}: {'yes' if equal else 'no'}"


def _side_by_side(a: int, b: int) -> tuple[str, bool]:
    width = max(3, len(str(a)), len(str(b)))
    steps = []
    for p, q in zip(f"{a:0{width}}", f"{b:0{width}}", strict=True):
        steps.append(f"{p}{'>' if p > q else '<' if p < q else '='}{q}")
        if p != q:
            break
    return f"{a:0{width}} {b:0{width}}:{','.join(steps)}", a == b


def same_words(a: str, b: str) -> str:
    """Compares word by word, up to the first difference. Ends in `= old mill = old barn: no`."""
    steps, equal = [], True
    for p, q in zip_longest(a.split(), b.split(), fillvalue="-"):
        equal = p == q
        steps.append(f"{p} {q} {'=' if equal else '/'}")
        if not equal:
            break
    return f"{', '.join(steps)}\n= {a} = {b}: {'yes' if equal else 'no'}"
