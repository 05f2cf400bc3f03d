"""Counted bytes are the bytes that the process grows by (invariant 5)."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: in this one, what earlier tests left may be given back between the two readings.
GROW = """
import torch
from warpcortex_cli.memory.segment import KVLayout
from warpcortex_cli.memory.tail import TailPool
from warpcortex_cli.probes.memory import MemoryProbe, settle

agents, tokens = 64, 128
layout = KVLayout(4, 8, 64, torch.float32, torch.device("cpu"))
probe = MemoryProbe("cpu")
pool = TailPool(layout, tokens, agents)
new = [torch.randn(8, tokens, 64) for _ in range(4)]
settle()
before = probe.read().bytes
tails = [pool.take() for _ in range(agents)]
for tail in tails:
    tail.append(new, new, torch.arange(tokens))
counted = sum(tail.nbytes for tail in tails)
assert counted == agents * tokens * layout.bytes_per_token == pool.nbytes
print(counted, probe.read().bytes - before)
"""


def test_measured_growth_is_what_was_counted() -> None:
    done = subprocess.run([sys.executable, "-c", GROW], capture_output=True, text=True, check=True)
    counted, grown = map(int, done.stdout.split())
    assert abs(grown - counted) < 0.1 * counted
