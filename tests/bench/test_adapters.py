"""The cost of adapters is measured on Streams that really have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from warpcortex_cli.bench.adapters import cost, write_adapter
from warpcortex_cli.bench.workload import Load
from warpcortex_cli.prism.adapter_files import described
from warpcortex_cli.prism.prism import Prism


def test_each_of_two_streams_has_its_adapter_beside_steps_without(
    make_prism: Callable[[str], Prism], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prism = make_prism("qwen2")
    folders = [tmp_path / "one", tmp_path / "other"]
    for number, folder in enumerate(folders):
        write_adapter(prism, folder, rank=2, seed=number)
    kinds = described(folders[0], "one").kinds
    assert set(kinds.values()) == {prism.layers} and len(kinds) == 7
    seen: Counter[str | None] = Counter()
    forward = prism.forward

    def noting(rows):
        seen.update(row.adapter for row in rows)
        return forward(rows)

    monkeypatch.setattr(prism, "forward", noting)
    found = cost(prism, Load(2, 20, 4, 6), [str(folder) for folder in folders])
    assert found.without > 0 and found.adapted > 0 and found.steps >= 1
    one, other = (seen[str(folder)] for folder in folders)
    assert one == other >= 6 and seen[None] > one
