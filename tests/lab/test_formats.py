"""Formats of blocks on pocket: exact costs nothing, fewer bits cost more."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from warpcortex_cli.lab.formats import Result, against_uniform, compared, judge
from warpcortex_cli.memory.formats import POLICIES, Policy
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model


def test_fewer_bytes_and_larger_errors() -> None:
    prism = Prism.load(resolve_model("pocket", "auto"), "cpu")
    policies = compared()
    names = ("exact", "16", "8", "4/4", "2/2")
    results = judge(prism, {name: policies[name] for name in names}, seed=1, n=1)
    assert [r.policy for r in results] == list(reversed(names))
    coarse, four, eight, half, exact = results
    assert exact.kl < 1e-6 and exact.attention_error < 1e-5 and exact.n == 3
    assert exact.attention_error < half.attention_error < eight.attention_error < four.attention_error
    assert eight.kl < four.kl < coarse.kl and coarse.recall <= exact.recall
    assert 0.99 < exact.bytes_per_token / prism.layout.bytes_per_token < 1.01
    assert against_uniform(four, results) >= 1 and math.isnan(against_uniform(exact, results))


def test_keys_and_values_are_told_apart_and_an_answer_is_right_that_the_notes_give() -> None:
    prism = Prism.load(resolve_model("pocket", "auto"), "cpu")
    exact, coarse = POLICIES["exact"].keys, POLICIES["4/4"].keys
    found = judge(prism, {"keys": Policy(coarse, exact), "values": Policy(exact, coarse)}, seed=1, n=1)
    keys, values = sorted(found, key=lambda r: r.policy)
    assert keys.key_error > 1e-3 > 1e-5 > keys.value_error and keys.attention_error == keys.key_error
    assert values.value_error > 1e-3 > 1e-5 > values.key_error
    assert keys.recall == 1


def test_a_policy_is_compared_with_uniform_widths_at_equal_bytes() -> None:
    def result(policy: str, size: float, log_kl: float) -> Result:
        return Result(policy, size, 0, 0, 0, math.exp(log_kl), 1, 1, (0, 1), 1)

    found = [result("4/4", 100, -1), result("6/5", 200, -3), result("8", 300, -3.5), result("4/4 KIVI", 150, -9)]
    assert against_uniform(result("ladder", 150, -1), found) == pytest.approx(math.e)
    assert against_uniform(found[3], found) == pytest.approx(math.exp(-7))
    assert math.isnan(against_uniform(result("ladder", 400, -5), found))


def test_a_model_without_meaning_is_asked_nothing_that_it_must_know(make_prism: Callable[[str], Prism]) -> None:
    prism = make_prism("gemma3")
    results = judge(prism, dict(POLICIES), seed=1, n=1, meaning=False)  # type: ignore[arg-type]
    errors = {r.policy: r.attention_error for r in results}
    assert errors["exact"] < 1e-5 < errors["8"] < errors["4/4"]
