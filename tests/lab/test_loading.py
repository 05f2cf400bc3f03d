"""Loading compared with llama.cpp: the times that both report."""

from __future__ import annotations

import pytest

from warpcortex_cli.errors import RunError
from warpcortex_cli.lab.loading import OURS, THEIRS, load_ms, once, table


def test_llama_cpps_load_time_is_parsed() -> None:
    assert load_ms("x\n0.00.2 I llama_perf_context_print:        load time =     189.55 ms\n") == 189.55
    with pytest.raises(RunError, match="no load time: error: no such file"):
        load_ms("error: no such file\n")


def test_our_phases_are_all_of_a_load() -> None:
    found = once("pocket")
    assert {"tokenizer", "weights", "reading 16 tokens"} <= found.keys() and all(ms >= 0 for ms in found.values())


def test_medians_are_compared() -> None:
    said = table({THEIRS: [100.0, 300.0, 200.0], OURS: [300.0, 310.0, 290.0]}, [{"weights": 200.0, "rest": 0.1}])
    assert "| llama.cpp | 200 | 100 | 300 |" in said and "1.50 times" in said and said.endswith("weights 200.")
