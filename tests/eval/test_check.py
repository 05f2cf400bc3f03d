"""`profiles check`: the verdict of twenty questions."""

from __future__ import annotations

import json

import pytest

from tests.engine.conftest import prism as prism  # the random model
from tests.engine.test_tools import TURN, profile_of
from warpcortex_cli.eval.check import as_json, check, verdict


@pytest.mark.parametrize(
    ("helped", "harmed", "needless", "word"),
    [
        (9, 0, 0, "helps"),
        (3, 0, 1, "helps"),
        (5, 2, 4, "helps"),
        (2, 0, 0, "no difference"),
        (0, 0, 1, "no difference"),
        (0, 0, 2, "in the way"),
        (1, 2, 0, "in the way"),
    ],
)
def test_one_word_for_what_was_found(helped: int, harmed: int, needless: int, word: str) -> None:
    assert verdict(helped, harmed, needless) == word


def test_exact_tools_help_a_model_that_knows_nothing_and_leave_the_rest_as_it_is(prism) -> None:
    seen: list[tuple[int, int]] = []
    profile = profile_of({**TURN, "ends": True}, river={"max_tokens": 4})
    found = check(prism, profile, 1, lambda done, total: seen.append((done, total)))
    assert found.questions == 20 and seen[-1] == (40, 40)
    assert found.right_on - found.right_off == found.helped - found.harmed
    assert found.helped >= 8 and found.harmed == 0 and found.needless == 0 and found.verdict == "helps"
    assert json.loads(json.dumps(as_json(found, "m", "p", 1)))["schema_version"] == 1


def test_a_profile_without_roles_makes_no_difference(prism) -> None:
    found = check(prism, profile_of(river={"max_tokens": 4}), 1)
    assert (found.helped, found.harmed, found.started, found.verdict) == (0, 0, 0, "no difference")
