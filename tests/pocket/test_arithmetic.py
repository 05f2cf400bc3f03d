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


@given(numbers, numbers)
def test_every_column_of_an_addition_is_true(a: int, b: int) -> None:
    columns = re.findall(r"(\d)\+(\d)\+(\d)=(\d+)", arithmetic.work(f"{a} + {b}"))
    assert len(columns) == max(len(str(a)), len(str(b)))
    assert all(int(x) + int(y) + int(c) == int(total) for x, y, c, total in columns)


def test_evaluate_goes_from_left_to_right() -> None:
    assert arithmetic.evaluate("47 + 86 - 3") == 130
