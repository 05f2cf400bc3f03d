"""What the shipped adapter learns from: right, in the form of a run, and none of what it is measured on."""

from __future__ import annotations

import json
import random
import re
from fractions import Fraction
from pathlib import Path

import pytest

from warpcortex_cli.engine.router import Router
from warpcortex_cli.eval import ordinary
from warpcortex_cli.lab.adapt import data, dates, plain, problems
from warpcortex_cli.profile import load_profile
from warpcortex_cli.work.calculator import calculate


@pytest.fixture(scope="module")
def router() -> Router:
    return Router(load_profile(data.PROFILE).roles)


def test_problems_are_solved_by_their_own_equations() -> None:
    rng = random.Random(5)
    for _ in range(300):
        made = problems.problem(rng)
        equations = re.findall(r": ([^:]+) = (\d+)\.", made.solution)
        assert equations and int(equations[-1][1]) == made.answer
        for expression, result in equations:
            assert calculate(expression).text == result
        assert made.question.endswith("?") and not re.search(r"[{}\[\]|]", made.question + made.solution)


def test_every_template_can_be_filled() -> None:
    rng = random.Random(1)
    for template in (t for kind in problems.templates().values() for t in kind):
        assert any(problems._numbers(template, rng) for _ in range(5000)), template.text


def test_results_stand_where_the_role_puts_them(router: Router) -> None:
    parts = data.in_parts(router, "Ropes: 32 + 42 = 74. Left: 74 - 35 = 39.")
    assert parts == [
        {"text": "Ropes: 32 + 42 ="}, {"text": " 74", "weight": 0},
        {"text": ". Left: 74 - 35 ="}, {"text": " 39", "weight": 0}, {"text": "."},
    ]  # fmt: skip
    assert data.in_parts(router, "Ropes: 32 + 42 = 75.") is None  # the tool says something else
    assert data.in_parts(router, "Ropes: 32 + 42 = 744.") is None
    assert data.in_parts(router, "There are many ropes.") is None


def test_annotated_calculations_become_equations(tmp_path: Path) -> None:
    def line(question: str, answer: str) -> str:
        return json.dumps({"question": question, "answer": answer}) + "\n"

    path = tmp_path / "problems.jsonl"
    path.write_text(
        line(
            "How many?",
            "He sold 48/2 = <<48/2=24>>24 clips.\nThat is $<<48+24=72>>72 = 48+24 = $<<48+24=72>>72.\n#### 72",
        )
        + line("How many clips?", "He sold 48/2 = $<<48/2=24>>24 clips.\nIn all 48+24=<<48+24=72>>72\n#### 72")
    )
    assert list(data.of_gsm8k(path)) == [("How many clips?", "He sold 48 / 2 = 24 clips. In all 48 + 24 = 72.")]


def test_a_file_has_four_in_ten_without_calculation_and_a_control(router: Router, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"question": "How many?", "answer": "4+4=<<4+4=8>>8\n#### 8"}) + "\n")
    said = [("Hi!", "Hello, how can I help you today?", True), ("Tell me a story.", "Once " * 40, False)]
    made = data.conversations(load_profile(data.PROFILE), tmp_path / "p.jsonl", said, 50, 1)
    idle = [line for line in made if isinstance(line["messages"][1]["content"], str)]
    assert len(made) == 50 and len(idle) == 20
    assert {line.get("ends", True) for line in idle} == {True, False}
    for line in made:
        mine = data.alone(line)["messages"][1]["content"]
        assert isinstance(mine, str)
        for expression, result in re.findall(r": ([^:]+) = (\d+)\.", mine):
            assert Fraction(calculate(expression).text) == int(result)


def test_nothing_is_learnt_that_is_measured() -> None:
    asked = {case.question.lower() for case in ordinary.questions(100, 0)}
    found = plain.prompts(1)
    assert len(set(found)) == len(found) > 400
    assert not asked & {prompt.lower() for prompt in found}


def test_dates_of_the_example_are_right_and_some_are_held_out() -> None:
    learnt, kept = dates.pairs(200, 1), dates.pairs(200, 1, held_out=True)
    assert not {numbers for _, numbers in learnt} & {numbers for _, numbers in kept}
    for words, numbers in learnt:
        year, month, day = numbers.split("-")
        assert year in words and str(int(day)) in re.findall(r"\d+", words)
        assert (
            words.split()[0 if words[0].isalpha() else 1][:3]
            == "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()[int(month) - 1]
        )
