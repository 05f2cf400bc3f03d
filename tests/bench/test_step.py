"""Where a step's time goes: all of it, part by part."""

from __future__ import annotations

import pytest

from warpcortex_cli.bench.shapes import random_prism
from warpcortex_cli.bench.step import PARTS, step_parts, table, weight_bytes
from warpcortex_cli.bench.workload import Load
from warpcortex_cli.prism import native
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.prism import Prism

pytestmark = pytest.mark.skipif(not native.usable(), reason="there is no C++ compiler")


@pytest.mark.parametrize("agents", [0, 2])
def test_every_part_of_a_step_is_seen(agents: int) -> None:
    prism = random_prism("SmolLM2-135M", LoadOptions("cpu", quantize="int8"))
    parts = step_parts(prism, Load(agents, 32, 8, 8), steps=3)
    assert set(parts) == {*PARTS, "all"}
    assert all(0 < parts[name] < parts["all"] for name in PARTS)
    sizes = weight_bytes(prism)
    assert sum(sizes.values()) == pytest.approx(143e6, rel=0.03)  # 135 M weights of 8.5 bits
    shown = table({"River alone": parts}, sizes)
    assert all(f"| {name} |" in shown for name in (*PARTS, "all"))
    assert prism.forward.__func__ is Prism.forward  # nothing is watched any more
