"""Thousands of short Streams in waves, each over its own Synapse: is all memory returned?"""

from __future__ import annotations

import time
from dataclasses import dataclass

from warpcortex_cli.bench.measure import Progress
from warpcortex_cli.bench.workload import Load, Workload
from warpcortex_cli.engine.roster import REMEMBERED
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.probes.memory import MemoryProbe, settle


@dataclass(frozen=True)
class Soak:
    """What remained. `synapses`: versions taken and freed again; bytes as read from `memory_source`."""

    streams: int
    synapses: int
    seconds: float
    memory_source: str
    memory_before_bytes: int
    memory_after_bytes: int
    tails_in_use: int

    @property
    def grown_bytes(self) -> int:
        return self.memory_after_bytes - self.memory_before_bytes


def run_soak(prism: Prism, load: Load, streams: int, progress: Progress = lambda what, done, total: None) -> Soak:
    """Runs `streams` Streams to their end, `load.agents` at once.

    After each wave the River is rewound, so that its growth is not counted, and drops its Synapse, so that the next
    wave takes a new version.
    """
    probe = MemoryProbe(str(prism.device))
    work = Workload(prism, load)
    conversation = work.conversation
    mark = conversation.mark(0)

    def wave() -> None:
        work.spawn()
        while work.thinking:
            work.step()
        conversation.rewind(mark)
        work.tally.spawned.clear()
        work.tally.delays.clear()

    # Until pools and buffers have their final size, and the roster holds as many Streams as it ever will.
    while work.tally.ended < max(2 * load.agents, REMEMBERED + load.agents):
        wave()
        progress("warming up", work.tally.ended, REMEMBERED + load.agents)
    settle()
    before, first, began = probe.read(), work.tally.ended, time.perf_counter()
    waves = 0
    while work.tally.ended - first < streams:
        wave()
        waves += 1
        progress(f"{load.agents} Streams at once", work.tally.ended - first, streams)
    settle()
    return Soak(
        streams=work.tally.ended - first,
        synapses=waves,
        seconds=time.perf_counter() - began,
        memory_source=before.source,
        memory_before_bytes=before.bytes,
        memory_after_bytes=probe.read().bytes,
        tails_in_use=conversation.crew.writer.tails_in_use,
    )
