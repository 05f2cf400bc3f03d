"""Counted bytes are the bytes that the process grows by (invariant 5)."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own: in this one, what earlier tests left may be given back between the two readings.
GROW = """
import sys
import torch
from warpcortex_cli.memory.segment import KVLayout
from warpcortex_cli.memory.tail import TailPool
from warpcortex_cli.probes.memory import MemoryProbe, settle

agents, tokens, capacity = 64, 128, int(sys.argv[1])
layout = KVLayout(4, 8, 64, torch.float32, torch.device("cpu"))
probe = MemoryProbe("cpu")
pool = TailPool(layout, capacity, agents)
new = [torch.randn(8, tokens, 64) for _ in range(4)]
settle()
before = probe.read().bytes
tails = [pool.take() for _ in range(agents)]
for tail in tails:
    tail.append(new, new, torch.arange(tokens))
used = sum(tail.length * tail.slab.bytes_per_token for tail in tails)
assert used == agents * tokens * layout.bytes_per_token
assert sum(tail.nbytes for tail in tails) == agents * capacity * layout.bytes_per_token == pool.nbytes
grown = probe.read().bytes - before
while tails:
    tail = tails.pop()
    tail.release()
del tail
print(used, grown, probe.read().bytes - before)
"""


@pytest.mark.parametrize("capacity", [128, 1024])
def test_tails_take_what_is_used_of_them_and_give_it_back_at_once(capacity: int) -> None:
    done = subprocess.run([sys.executable, "-c", GROW, str(capacity)], capture_output=True, text=True, check=True)
    used, grown, left = map(int, done.stdout.split())
    assert abs(grown - used) < 0.1 * used
    assert left < 0.1 * used
