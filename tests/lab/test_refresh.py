"""Computing a turn anew is compared with the same weights in float64."""

from __future__ import annotations

import copy

from warpcortex_cli.lab.refresh import refresh
from warpcortex_cli.prism.load import load_prism_parts
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model

NOTES = "Mara keeps ropes: 47, brown, in the old mill. The lamps of Otto: 86, red, at the barn."


def test_both_ways_are_near_the_reference_and_not_equal_to_it() -> None:
    model, tokenizer = load_prism_parts(resolve_model("pocket", "auto"), LoadOptions("cpu", "fp32"))
    exact = Prism(copy.deepcopy(model).double(), tokenizer, "float64")
    found = refresh(Prism(model, tokenizer, "fp32"), exact, NOTES, "How many ropes does Mara have?")
    assert found.tokens > 10
    assert all(0 < e < 1e-5 for e in (*found.keys, *found.values))
    assert found.keys[0] != found.keys[1] and found.values[0] != found.values[1]  # it was computed anew
