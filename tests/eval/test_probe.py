"""What a probe says where something is to be computed and where nothing is."""

from __future__ import annotations

import re2

from tests.engine.conftest import prism  # noqa: F401
from warpcortex_cli.eval.probe import ASK, answers, table


def test_each_reply_with_a_finished_sentence_is_asked_once(prism, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr("warpcortex_cli.engine.turn._SENTENCE_END", re2.compile("[a-z]"))
    found = answers(prism, ASK, ["How many ropes?", "Who?"], 1)
    assert len(found) == 2 and all(0 < p < 1 for p in found)


def test_the_table_says_how_far_they_are_apart() -> None:
    lines = table("Is it?", [0.9, 0.8, 0.4], [0.1, 0.5])
    assert lines[-1] == "area under the ROC curve 0.83; from 0.80 on 67% of these, 0% of those"
