"""Products of packed weights beside torch's: what is measured, and what is chosen by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from warpcortex_cli.prism import kept, load, native, rates
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.rates import MIX, WIDTHS, Rate, measured, packing_pays, pays
from warpcortex_cli.prism.source import ModelSource

pytestmark = pytest.mark.skipif(not native.usable(), reason="no compiler")


def test_every_width_of_every_format_has_both_rates() -> None:
    threads = torch.get_num_threads()
    found = measured([(48, 64), (64, 48)], [native.BF16, native.INT4], (1, 3))
    assert {format: [r.width for r in row] for format, row in found.items()} == {
        native.BF16: [1, 3],
        native.INT4: [1, 3],
    }
    assert all(r.ours > 0 < r.torch for row in found.values() for r in row)
    assert torch.get_num_threads() == threads


def test_what_counts_is_a_usual_mix_of_widths() -> None:
    assert MIX.keys() == set(WIDTHS)
    assert pays([Rate(n, 10.0, 9.0) for n in WIDTHS]) and not pays([Rate(n, 9.0, 10.0) for n in WIDTHS])
    assert pays([Rate(1, 10.0, 1.0), Rate(10, 10, 10), Rate(100, 10, 10), Rate(512, 10, 11)])  # slower in reading alone
    assert not pays([Rate(1, 10.0, 8.0), Rate(10, 10, 10), Rate(100, 10, 10), Rate(512, 10, 40)])


def test_it_is_measured_once_on_a_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def slower(shapes: object, formats: list[int]) -> dict[int, list[Rate]]:
        calls.append(shapes)
        return {formats[0]: [Rate(n, 1.0, 2.0) for n in WIDTHS]}

    monkeypatch.setattr(kept, "folder", lambda: tmp_path)
    monkeypatch.setattr(rates, "measured", slower)
    assert [packing_pays([(8, 8)], native.BF16) for _ in range(3)] == [False] * 3 and len(calls) == 1
    assert not packing_pays([(8, 16)], native.BF16) and len(calls) == 2


def test_a_model_takes_torchs_products_where_those_are_faster(
    monkeypatch: pytest.MonkeyPatch, model_folder: object
) -> None:
    asked: list[object] = []
    folder = model_folder("llama")  # type: ignore[operator]
    source = ModelSource("folder", folder, "tiny")
    bf16 = load.Stored(parameters=1 << 30, types={"BF16"})
    monkeypatch.setattr(load, "stored_values", lambda source: bf16)
    monkeypatch.setattr(load, "packs_bf16", lambda options: True)
    monkeypatch.setattr(load, "packing_pays", lambda shapes, format: bool(asked.append(shapes)))
    assert load.choose_quantize(source, LoadOptions("cpu", quantize="auto")) == "none"
    assert len(asked) == 1 and len(asked[0]) == 7  # type: ignore[arg-type]  # the products of one layer
    monkeypatch.setattr(load, "available_memory", lambda: 0)  # fp32 would not fit
    assert load.choose_quantize(source, LoadOptions("cpu", quantize="auto")) == "bf16" and len(asked) == 1
