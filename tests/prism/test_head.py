"""The head of a model in torch, for greedy rows: as with all logits at once, and never holding them all."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from warpcortex_cli.prism import head
from warpcortex_cli.prism.head import PlainHead, part_size
from warpcortex_cli.prism.prism import Prism, Row


class Largest(TorchDispatchMode):
    """Notes how many elements the largest tensor had that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            view = any(isinstance(a, torch.Tensor) and a.data_ptr() == out.data_ptr() for a in args)
            self.numel = max(self.numel, 0 if view else out.numel())
        return out


def linear(outputs: int, bias: bool, seed: int) -> nn.Linear:
    made = nn.Linear(8, outputs, bias=bias).requires_grad_(False)
    for values in made.parameters():
        # Small whole numbers: products are exact in any order, and the largest logit is often there twice.
        values.copy_(torch.randint(-2, 3, values.shape, generator=torch.Generator().manual_seed(seed)))
    return made


@given(st.integers(1, 900), st.integers(1, 9), st.integers(1, 6000), st.booleans(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_vocabulary_in_parts_is_the_vocabulary(outputs: int, rows: int, at_once: int, bias: bool, seed: int) -> None:
    layer = linear(outputs, bias, seed)
    x = torch.randint(-2, 3, (rows, 8), generator=torch.Generator().manual_seed(seed + 1)).float()
    logits = layer(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "_LOGITS", at_once)
        found = PlainHead(layer).summarize(x, total=True)
        without = PlainHead(layer).summarize(x, total=False)
    assert [(value, place) for value, place, _ in found] == head.largest(logits)
    assert [place for _, place, _ in found] == logits.argmax(1).tolist()  # the first one
    assert [total for *_, total in found] == pytest.approx(logits.logsumexp(1).tolist(), abs=1e-4)
    assert without == [(value, place, None) for value, place, _ in found]


def test_a_row_that_is_not_a_number_is_said_to_be_so_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_LOGITS", 3 * 128)
    x = torch.ones(3, 8)
    x[1, 2] = torch.nan
    found = PlainHead(linear(700, False, 1)).summarize(x, total=False)
    assert [value != value for value, *_ in found] == [False, True, False]


def test_greedy_rows_never_hold_all_logits(prism: Prism, monkeypatch: pytest.MonkeyPatch) -> None:
    """And get what they get with all of them."""
    rows, vocabulary = 60, prism.vocab_size
    monkeypatch.setattr(head, "_LOGITS", rows * vocabulary // 2)
    assert prism.logits_bytes(rows) <= rows * vocabulary * prism.dtype.itemsize / 2

    def results(logits: str) -> tuple[Any, int]:
        asked = [Row([5 + i], [3], prism.new_tail(1), logits=logits) for i in range(rows)]  # type: ignore[arg-type]
        with Largest() as made:
            return prism.forward(asked), made.numel

    (greedy, parts), (whole, all_at_once) = results("largest"), results("last")
    assert all_at_once >= rows * vocabulary > 2 * parts
    for mine, theirs in zip(greedy, whole, strict=True):
        assert mine.logits is None and theirs.logits is not None
        assert mine.largest == pytest.approx(theirs.largest, abs=1e-5)


@pytest.mark.parametrize("total", [False, True])
def test_what_is_held_at_once_is_what_is_said(total: bool) -> None:
    """Of the system's mark, in a process of its own."""
    code = f"""
import torch
from torch import nn
from warpcortex_cli.prism.head import PlainHead
from warpcortex_cli.probes.memory import MemoryProbe
from warpcortex_cli.process import prepare
prepare()
with torch.inference_mode():
    head = PlainHead(nn.Linear(64, 150_000, bias=False))
    x = torch.ones(400, 64)
    head.summarize(x[:4], {total})  # warming up
    probe = MemoryProbe("cpu")
    probe.forget()
    before = probe.peak().bytes
    head.summarize(x, {total})
    print((probe.peak().bytes - before) / head.logits_bytes(400))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.6


def test_few_rows_are_one_product() -> None:
    """Each part costs a few operations more, which a single row would feel on a GPU."""
    assert part_size(1, 151_936) == part_size(27, 151_936) == 151_936
    assert 4 * part_size(101, 151_936) >= 151_936
    assert part_size(10**9, 151_936) == 128
