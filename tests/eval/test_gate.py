"""`eval gate`: areas are those of their definition, and every thought is judged at the moment of the right one."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpcortex_cli.cli.app import main
from warpcortex_cli.eval.gate import LABELS, auc, run
from warpcortex_cli.eval.pocket import mislead
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import load_profile

scores = st.lists(st.floats(-1, 1), min_size=1, max_size=20)


@given(scores, scores)
def test_the_area_counts_pairs(good: list[float], bad: list[float]) -> None:
    area = auc(good, bad)
    assert 0 <= area <= 1 and area == pytest.approx(1 - auc(bad, good))
    assert auc([g + 3 for g in good], bad) == 1.0 and auc([0.5], [0.5]) == 0.5


@pytest.mark.parametrize(
    ("thought", "pattern"),
    [
        ("47 + 86 = 133", "47 + 86 = "),
        ("47 > 12: yes", "47 > 12: no"),
        ("besides Mara in the mill: Otto", "besides Mara"),
    ],
)
def test_a_misleading_thought_differs_in_its_result_alone(thought: str, pattern: str) -> None:
    wrong = mislead(thought, ["Mara", "Otto", "Ida"], random.Random(1))
    assert wrong.startswith(pattern) and wrong != thought
    assert wrong.rsplit(" ", 1)[0] == thought.rsplit(" ", 1)[0]


def test_right_and_wrong_thoughts_are_judged_side_by_side() -> None:
    prism = Prism.load(resolve_model("pocket", "auto"), device="cpu")
    judged = list(run(prism, load_profile("pocket"), 4, 6, 3))
    assert {j.label for j in judged} == set(LABELS)
    right = [j for j in judged if j.label == "relevant"]
    wrong = [j for j in judged if j.label == "contradicted"]
    assert auc([j.certainty for j in right], [j.certainty for j in wrong]) > 0.8
    assert all(j.calibrated == 0 for j in judged if j.label == "garbled" and "repeats" in j.thought)


def test_the_command_prints_its_contract(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["eval", "gate", "--n", "3", "--notes", "5", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert not left.value.code and found["schema_version"] == 1 and found["n"] > 0
    assert all(0 <= found[key] <= 1 for key in ("auc_relevance", "auc_correctness", "auc_raw_cosine"))
