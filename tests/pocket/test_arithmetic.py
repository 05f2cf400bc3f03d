"""The written-out work of a math Stream ends in the true result, and each of its digit steps is true."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from warpcortex_cli.pocket import arithmetic

numbers = st.integers(1, 999)


@given(st.lists(numbers, min_size=2, max_size=5), st.sampled_from(["+", "-"]))
def test_sums_and_differences_end_in_the_true_value(terms: list[int], operator: str) -> None:
    task = f" {operator} ".join(map(str, terms))
    last = arithmetic.work(task).splitlines()[-1]
    assert last == f"= {task} = {eval(task)}"


@given(numbers, st.integers(1, 99))
def test_products_end_in_the_true_value(a: int, b: int) -> None:
    assert arithmetic.work(f"{a} * {b}").endswith(f"= {a} * {b} = {a * b}")


@given(st.lists(numbers, min_size=2, max_size=5), st.sampled_from(["+", "-", "*"]))
def test_every_column_is_true_and_hands_its_carry_on(terms: list[int], operator: str) -> None:
    """A column `480=12`: the digits 4 and 8 and the carry 0 make 12, whose first digit the next column starts with."""
    if operator == "*":
        terms = [terms[0], terms[1] % 99 + 1]
    work = arithmetic.work(f" {operator} ".join(map(str, terms)))
    blocks = re.findall(r"(\d+)([+*-])(\d+):([\d=,]+)>(\d+)", work)
    assert blocks
    for first, op, second, columns, result in blocks:
        carry, digits = 0, ""
        for p, q, c, total in re.findall(r"(\d)(\d)(\d)=(\d\d)", columns):
            x, y, z = int(p), int(q), int(c)
            assert z == carry
            made = x + y + z if op == "+" else x * y + z if op == "*" else x - y - z
            assert int(total) == (made if made >= 0 else made + 20)
            carry, digits = int(total) // 10, total[1] + digits
        assert carry == 0 and digits == result and len(first) == len(result)
        assert int(result) == (
            int(first) + int(second)
            if op == "+"
            else int(first) * int(second)
            if op == "*"
            else int(first) - int(second)
        )


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_comparing_stops_at_the_first_difference(a: int, b: int) -> None:
    steps, result = arithmetic.compare(a, b).splitlines()
    assert result == f"= {a} > {b}: {'yes' if a > b else 'no'}"
    signs = re.findall(r"\d([<=>])\d", steps.split(":")[1])
    assert "=" not in signs[-1] if a != b else set(signs) == {"="}
    assert set(signs[:-1]) <= {"="}


@given(st.integers(1, 999), st.integers(-1, 2))
def test_equal_numbers_are_found_equal(a: int, off: int) -> None:
    steps, result = arithmetic.same(a, a + off).splitlines()
    assert result == f"= {a} = {a + off}: {'yes' if off == 0 else 'no'}"
    signs = re.findall(r"\d([<=>])\d", steps.split(":")[1])
    assert (set(signs) == {"="}) == (off == 0)


words = st.lists(st.sampled_from(["in", "the", "old", "mill", "barn"]), min_size=1, max_size=4).map(" ".join)


@given(words, words)
def test_equal_words_are_found_equal(a: str, b: str) -> None:
    steps, result = arithmetic.same_words(a, b).splitlines()
    assert result == f"= {a} = {b}: {'yes' if a == b else 'no'}"
    pairs = [step.split() for step in steps.split(", ")]
    assert all((p == q) == (sign == "=") for p, q, sign in pairs)
    assert [sign for *_, sign in pairs].count("/") == (a != b)


def test_evaluate_goes_from_left_to_right() -> None:
    assert arithmetic.evaluate("47 + 86 - 3") == 130
