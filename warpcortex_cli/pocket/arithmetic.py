"""How pocket's math Streams work: digit by digit, the way it is taught at school, then a line with the result."""

from __future__ import annotations

import re

_TERM = re.compile(r"\s*([+*-])\s*")


def evaluate(expression: str) -> int:
    """The value of `47 + 86 - 3` or `47 * 12`, from left to right."""
    parts = _TERM.split(expression.strip())
    value = int(parts[0])
    for operator, number in zip(parts[1::2], parts[2::2], strict=True):
        n = int(number)
        value = value + n if operator == "+" else value - n if operator == "-" else value * n
    return value


def _columns(a: int, b: int) -> list[tuple[int, int]]:
    x, y = str(a)[::-1], str(b)[::-1]
    width = max(len(x), len(y))
    return [(int(p), int(q)) for p, q in zip(x.ljust(width, "0"), y.ljust(width, "0"), strict=True)]


def _add(a: int, b: int) -> str:
    if a < 0:
        return f"> {a + b}"
    steps, carry = [], 0
    for p, q in _columns(a, b):
        total = p + q + carry
        steps.append(f"{p}+{q}+{carry}={total}")
        carry = total // 10
    return " ".join(steps) + f" > {a + b}"


def _subtract(a: int, b: int) -> str:
    if a < 0:
        return f"> {a - b}"
    if a < b:
        return f"{_subtract(b, a)} > {a - b}"
    steps, borrow = [], 0
    for p, q in _columns(a, b):
        digit = p - q - borrow
        borrow, shown = (1, digit + 10) if digit < 0 else (0, digit)
        steps.append(f"{p}-{q}={shown}" + ("!" if borrow else ""))
    return " ".join(steps) + f" > {a - b}"


def _times_digit(a: int, digit: int) -> str:
    steps, carry = [], 0
    for p in (int(c) for c in str(a)[::-1]):
        product = p * digit
        steps.append(f"{p}*{digit}={product}+{carry}={product + carry}")
        carry = (product + carry) // 10
    return " ".join(steps) + f" > {a * digit}"


def _multiply(a: int, b: int) -> list[str]:
    if b < 10:
        return [f"{a}*{b}: {_times_digit(a, b)}"]
    lines, total = [], 0
    for power, c in enumerate(reversed(str(b))):
        part = a * int(c)
        lines.append(f"{a}*{c}: {_times_digit(a, int(c))}")
        shifted = part * 10**power
        if power:
            lines.append(f"{total}+{shifted}: {_add(total, shifted)}")
        total += shifted
    return lines


def work(expression: str) -> str:
    """The written-out work for an expression, ending in `= expression = value`."""
    parts = _TERM.split(expression.strip())
    value, lines = int(parts[0]), []
    for operator, number in zip(parts[1::2], parts[2::2], strict=True):
        n = int(number)
        if operator == "+":
            lines.append(f"{value}+{n}: {_add(value, n)}")
            value += n
        elif operator == "-":
            lines.append(f"{value}-{n}: {_subtract(value, n)}")
            value -= n
        else:
            lines.extend(_multiply(value, n))
            value *= n
    return "\n".join([*lines, f"= {expression} = {value}"])
