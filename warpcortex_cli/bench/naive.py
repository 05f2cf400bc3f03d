"""The baseline without an engine: each agent has its own copy of the context and its own forward."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from warpcortex_cli.bench.workload import Load
from warpcortex_cli.engine.river import PREFILL_CHUNK
from warpcortex_cli.memory.tail import Tail
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row
from warpcortex_cli.probes.memory import MemoryProbe, settle


@dataclass(frozen=True)
class Naive:
    """Tokens per second of all agents together, and bytes per agent."""

    agents: int
    tokens_per_second: float
    memory_per_agent_bytes: float


def run_naive(prism: Prism, load: Load, rounds: int = 3) -> Naive:
    """Agents decode in turn, each over its own copy of the whole context."""
    probe = MemoryProbe(str(prism.device))
    first = _read(prism, load.context)
    settle()
    probe.forget()
    before = probe.peak().bytes
    every = torch.arange(first.length)
    tails = []
    for _ in range(load.agents):
        tail = prism.new_tail(load.context + rounds + 2)
        tail.copy_from(first, every)
        tails.append(tail)
    for tail in tails:  # warm up
        _decode(prism, tail)
    grown = probe.peak().bytes - before
    began = time.perf_counter()
    for _ in range(rounds):
        for tail in tails:
            _decode(prism, tail)
    seconds = time.perf_counter() - began
    return Naive(load.agents, rounds * load.agents / seconds, grown / load.agents)


def _read(prism: Prism, context: int) -> Tail:
    tail = prism.new_tail(context)
    for start in range(0, context, PREFILL_CHUNK):
        end = min(context, start + PREFILL_CHUNK)
        tokens = [256 + i % 100 for i in range(start, end)]
        prism.forward([Row(tokens, list(range(start, end)), tail, logits="none")])
    return tail


def _decode(prism: Prism, tail: Tail) -> None:
    prism.forward([Row([300], [tail.length], tail, logits="largest")])
