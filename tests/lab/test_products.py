"""The bench of products: each is the product, as far as its bits allow."""

from __future__ import annotations

import pytest

from warpcortex_cli.lab.products import measure
from warpcortex_cli.prism import native


@pytest.mark.skipif(not native.usable(), reason="there is no C++ compiler")
def test_every_product_is_near_the_exact_one() -> None:
    found = {p["name"]: p for p in measure(64, 64, rows=(1, 3))}
    assert {"ours int8", "ours int4", "torch fp32", "torch int8, dynamic", "torch int4, bf16 inputs"} <= found.keys()
    for name, product in found.items():
        assert product["error"] < (0.15 if "int4" in name else 0.04 if "int8" in name else 0.01), name
        assert all(product["microseconds"][rows] > 0 for rows in ("1", "3"))
    assert found["ours int8"]["error"] < found["torch int8, dynamic"]["error"]
