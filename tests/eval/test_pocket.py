"""`eval.pocket`: sums by form, and the control, through the product."""

from __future__ import annotations

import json
import random
import sys

import pytest

from warpcortex_cli.eval import control, pocket, sums
from warpcortex_cli.eval.pocket import make_case
from warpcortex_cli.pocket.world import Joining
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import load_profile


@pytest.fixture(scope="module")
def prism() -> Prism:
    return Prism.load(resolve_model("pocket", "auto"), device="cpu")


@pytest.mark.parametrize("terms", sums.TERMS)
def test_a_case_asks_for_so_many_terms_in_its_form(terms: int) -> None:
    form = sums.Form("", Joining("; ", " and even "), "Count {} up.")
    case = sums.make_case(form, terms, 9, random.Random(3))
    asked = case.question.removeprefix("Count ").removesuffix(" up.")
    assert asked.count("; ") == terms - 2 and asked.count(" and even ") == 1 and asked.count(" of ") == terms
    assert case.thought.count(" + ") == terms - 1 and case.thought.endswith(f" = {case.value}")


def test_the_table_tells_forms_and_numbers_of_terms_apart() -> None:
    cells = [
        sums.Cell(form.name, form.learnt, terms, right=2 if form.learnt and terms == 2 else 1, n=2)
        for form in sums.FORMS
        for terms in sums.TERMS
    ]
    lines = sums.table(cells)
    first = next(line for line in lines if "a, b and c" in line)
    assert first.split()[-5:] == ["100.0%", "50.0%", "50.0%", "50.0%", "62.5%"]
    assert sum("all of these" in line for line in lines) == 2 and f"n = {2 * len(cells)}" in lines[-1]


def test_the_control_gets_the_same_questions_and_room_for_its_steps(prism: Prism) -> None:
    cases = [make_case("count", 4, random.Random(1)), sums.make_case(sums.FORMS[0], 2, 4, random.Random(1))]
    profile = load_profile("pocket")
    cells = control.run(prism, prism, profile, cases)
    assert [(c.kind, c.condition, c.n) for c in cells] == [
        (kind, condition, 1) for kind in ("count", "total") for condition in control.CONDITIONS
    ]
    total, alone = cells[2:]
    assert total.right and total.tokens > total.river_tokens > 0
    assert alone.tokens == alone.river_tokens  # no Streams there
    assert control.inline_profile(profile).memory.window is None
    assert control.inline_profile(profile).river.max_tokens > 1000
    lines = control.table(cells)
    assert [line.split()[0] for line in lines[2:]] == ["count", "total", "all"]


def test_an_inline_answer_is_judged_by_its_last_line() -> None:
    case = pocket.Case("compare", "", "", value="no")
    assert control.judged(
        case, "[CHECK: a: 12 > b: 47] 12 > 47\n012 047:0=0,1<4\n= 12 > 47: no\nNo, Mara has not more."
    )
    assert not control.judged(case, "12 > 47: no\nYes, Mara has more.")


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "FORMS", sums.FORMS[:1])
    monkeypatch.setattr(sums, "TERMS", (2,))
    monkeypatch.setattr(sys, "argv", ["pocket", "--sums", "--n", "1", "--notes", "4", "--json"])
    pocket.main()
    found = json.loads(capsys.readouterr().out)
    assert found["schema_version"] == 1
    assert [(c["form"], c["terms"], c["n"]) for c in found["sums"]] == [("a, b and c", 2, 1)]
