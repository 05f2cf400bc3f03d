"""Quantized weights in groups."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from warpcortex_cli.gguf.grouped import Grouped


def some(bits: int, minima: bool, outputs: int = 3, inputs: int = 64, size: int = 32) -> Grouped:
    levels = torch.randint(0, 1 << bits, (outputs, inputs), dtype=torch.uint8)
    scales, low = (torch.randn(outputs, -(-inputs // size)) for _ in range(2))
    return Grouped(levels, scales, low if minima else None, bits, size)


@given(
    bits=st.sampled_from([4, 5, 6, 8]),
    minima=st.booleans(),
    inputs=st.integers(1, 100),
    size=st.sampled_from([16, 32, 64]),
)
def test_a_weight_is_its_level_by_the_scale_and_minimum_of_its_group(
    bits: int, minima: bool, inputs: int, size: int
) -> None:
    held = some(bits, minima, 2, inputs, size)
    found = held.weights()
    assert found.shape == (2, inputs) and found.dtype is torch.float32
    for output, place in ((0, 0), (1, inputs - 1)):
        level, group = int(held.levels[output, place]), place // size
        scale = held.scales[output, group]
        low = -scale * (1 << bits) / 2 if held.minima is None else held.minima[output, group]
        assert float(found[output, place]) == pytest.approx(float(scale * level + low), abs=1e-4)


@pytest.mark.parametrize("second", [(4, False), (4, True), (5, False), (6, True), (8, False), (8, True)])
def test_matrices_are_concatenated_in_a_form_that_holds_all(second: tuple[int, bool]) -> None:
    parts = [some(4, False), some(*second)]
    whole = Grouped.concatenated(parts)
    torch.testing.assert_close(whole.weights(), torch.cat([part.weights() for part in parts]))
    assert (whole.bits, whole.minima is None) == (8 if second[0] == 6 else second[0], second == (4, False))


def test_groups_of_16_are_rounded_beside_others() -> None:
    parts = [some(4, True), some(6, False, size=16)]
    whole, wanted = Grouped.concatenated(parts), torch.cat([part.weights() for part in parts])
    assert (whole.bits, whole.size) == (8, 32)
    torch.testing.assert_close(whole.weights()[:3], wanted[:3])
    assert float((whole.weights() - wanted).abs().max()) < 0.005 * float(wanted.abs().max())
    assert Grouped.concatenated(parts[1:] * 2).size == 16


def test_parts_that_do_not_fit_are_refused() -> None:
    whole = some(4, True)
    for levels, scales, minima, bits in (
        (whole.levels | 16, whole.scales, whole.minima, 4),
        (whole.levels.int(), whole.scales, whole.minima, 4),
        (whole.levels, whole.scales[:, :1], None, 4),
        (whole.levels, whole.scales, whole.scales[:1], 4),
        (whole.levels | 32, whole.scales, None, 5),
        (whole.levels, whole.scales, None, 7),
    ):
        with pytest.raises(ValueError):
            Grouped(levels, scales, minima, bits)
