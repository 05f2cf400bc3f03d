"""The calculator: exact, as a person writes it, and at once, whatever it is asked."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpcortex_cli.work.calculator import MOST_CHARACTERS, calculate
from warpcortex_cli.work.quantities import CalculationError, Quantity, decimal


@pytest.mark.parametrize(
    ("asked", "result"),
    [
        ("12 * 7 =", "84"),
        ("12 × 7 ÷ 2 − 1", "41"),
        ("3x4", "12"),
        ("-3^2", "-9"),
        ("2 ** 3 ** 2", "512"),
        ("(1 + 2) * (3 - 5)", "-6"),
        ("1,250 * 3", "3,750"),
        ("1.5 million + 250 thousand", "1750000"),
        ("0.1 + 0.2", "0.3"),
        ("1/3 + 1/3 + 1/3", "1"),
        ("10 / 3", "3.333"),
        ("2 / 3", "0.6667"),
        ("1000 / 7", "142.86"),
        ("1 / 8", "0.125"),
        ("0.001 / 3", "0.0003333"),
        ("5 - 8", "-3"),
        ("15% of 80", "12"),
        ("15 % * 80", "12"),
        ("80 + 15%", "92"),
        ("80 - 15%", "68"),
        ("50% + 25%", "75%"),
        ("120 / 80 in %", "150%"),
        ("17 % 5", "2"),
        ("17 mod 5", "2"),
        ("$4.50 * 3", "$13.50"),
        ("$4.50 * 4 =", "$18.00"),
        ("$10 / 4", "$2.50"),
        ("$3 - $8.50", "-$5.50"),
        ("$12,000 + $500", "$12,500"),
        ("100 € * 2", "€200"),
        ("$5 / $2", "2.5"),
        ("$2 + 95 cents", "$2.95"),
        ("14 cents * 3", "42 cents"),
        ("3 kg + 2 kg", "5 kg"),
        ("3 kg + 450 g", "3.45 kg"),
        ("2.5 kg in grams", "2500 g"),
        ("60 km/h * 2 h", "120 km"),
        ("120 km / 2 h", "60 km/h"),
        ("$2/kg * 3 kg", "$6"),
        ("5 kg * $2", "$10"),
        ("1 day - 3 h in h", "21 h"),
        ("2 days + 1 day", "3 days"),
        ("3 apples + 4 apples", "7 apples"),
        ("3 apples + 4 oranges", "7"),
        ("12 boxes * 5", "60 boxes"),
        ("sum of 1, 2 and 3", "6"),
        ("total(1; 2; 3; 4.5)", "10.5"),
        ("average of 3, 4 and 8", "5"),
        ("largest of 3, 17, 8", "17"),
        ("smallest of 3 kg, 200 g", "200 g"),
        ("3/4 > 2/3", "true"),
        ("0.1 + 0.2 = 0.3", "true"),
        ("1 km <= 999 m", "false"),
    ],
)
def test_results_are_exact_and_written_as_people_do(asked: str, result: str) -> None:
    assert calculate(asked).text == result


@pytest.mark.parametrize(
    ("asked", "exact"), [("1 / 8", True), ("1 / 3", False), ("$1 / 3", False), ("1/3 in %", False)]
)
def test_it_says_whether_a_result_was_rounded(asked: str, exact: bool) -> None:
    assert calculate(asked).exact is exact


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ("", "nothing to compute"),
        ("=", "nothing to compute"),
        ("1 / 0", "division by zero"),
        ("5 mod 0", "division by zero"),
        ("0^-1", "division by zero"),
        ("10^10^10", "too large"),
        ("9**9**9", "too large"),
        ("9^999999", "too large"),
        ("(((2^1000)^1000)^1000)", "too large"),
        ("*".join(["10^300"] * 50), "too large"),
        ("1" * 61, "too long"),
        ("1+" * MOST_CHARACTERS + "1", "too long"),
        ("7" * 2_000_000, "too long"),
        ("(" * 60 + "1" + ")" * 60, "nested too deeply"),
        ("-" * 60 + "1", "nested too deeply"),
        ("(1 + 2", "not closed"),
        ("5 +", "not finished"),
        ("12,5 + 3", "not expected"),
        ("3 kg + 2 m", "do not measure the same"),
        ("5 kg in m", "do not measure the same"),
        ("2^0.5", "whole exponents"),
        ("15% + 3", "percentage"),
        ("__import__('os').system('true')", "is not part of a calculation"),
        ("1e9", "not expected"),
    ],
)
def test_what_has_no_result_is_refused_with_the_reason(asked: str, reason: str) -> None:
    with pytest.raises(CalculationError, match=reason):
        calculate(asked)


_Tree = tuple[str, Fraction]
_numbers = st.decimals(0, 9999, places=2).map(lambda d: (f"{d:f}", Fraction(d)))


def _applied(parts: tuple[_Tree, str, _Tree]) -> _Tree:
    (left, a), sign, (right, b) = parts
    if sign == "/" and not b:
        sign = "+"
    value = {"+": a + b, "-": a - b, "*": a * b}[sign] if sign != "/" else a / b
    return f"({left} {sign} {right})", value


_trees = st.recursive(
    _numbers, lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(_applied), max_leaves=8
)


@given(_trees)
def test_expressions_have_the_value_that_fractions_have(tree: _Tree) -> None:
    value = calculate(tree[0]).value
    assert isinstance(value, Quantity) and value.value == tree[1]


@given(st.lists(st.tuples(st.sampled_from("+-*/"), st.integers(1, 999)), min_size=1, max_size=9), st.integers(1, 999))
def test_signs_bind_as_in_school(rest: list[tuple[str, int]], first: int) -> None:
    text = str(first) + "".join(f" {sign} {n}" for sign, n in rest)
    value = calculate(text).value
    total, term, plus = Fraction(0), Fraction(first), 1
    for sign, n in rest:
        if sign in "*/":
            term = term * n if sign == "*" else term / n
        else:
            total, term, plus = total + plus * term, Fraction(n), 1 if sign == "+" else -1
    assert isinstance(value, Quantity) and value.value == total + plus * term


@given(st.fractions(), st.booleans())
def test_a_written_number_is_near_and_reads_back(value: Fraction, commas: bool) -> None:
    text = decimal(value, commas)
    read = Fraction(text.replace(",", ""))
    assert abs(read - value) <= max(Fraction(1, 200), abs(value) / 1000)
    assert ("e" not in text and not text.startswith("-0")) or abs(value) < 1


@given(st.text("0123456789.,+-*/^%()<>=$ xkgof", max_size=60))
def test_any_text_gives_a_result_or_a_reason(text: str) -> None:
    try:
        assert calculate(text).text
    except CalculationError as error:
        assert str(error)
