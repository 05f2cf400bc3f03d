"""Counted bytes are the bytes that the process grows by (invariant 5)."""

from __future__ import annotations

import torch

from warpcortex_cli.memory.segment import KVLayout
from warpcortex_cli.memory.tail import TailPool
from warpcortex_cli.probes.memory import MemoryProbe, settle

AGENTS, TOKENS = 64, 128


def test_measured_growth_is_what_was_counted() -> None:
    layout = KVLayout(4, 8, 64, torch.float32, torch.device("cpu"))
    probe = MemoryProbe("cpu")
    pool = TailPool(layout, TOKENS, AGENTS)
    new = [torch.randn(8, TOKENS, 64) for _ in range(4)]
    settle()
    before = probe.read().bytes
    tails = [pool.take() for _ in range(AGENTS)]
    for tail in tails:
        tail.append(new, new, torch.arange(TOKENS))
    counted = sum(tail.nbytes for tail in tails)
    assert counted == AGENTS * TOKENS * layout.bytes_per_token == pool.nbytes
    assert abs(probe.read().bytes - before - counted) < 0.1 * counted
