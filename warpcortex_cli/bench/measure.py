"""Runs a load and measures it: speed of the River alone and beside Streams, their speed, and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from warpcortex_cli.bench.workload import SOLO_TOKENS, Load, Step, Workload
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.probes.memory import MemoryProbe, settle

Progress = Callable[[str, int, int], None]
_ALONE_STEPS, _ALONE_SECONDS = 12, 2.0  # of the River alone, before the Streams start and after they end
# Streams are given as long as they need where they write as fast as the River alone, and read five times as fast;
# under a promise they have a part of the time, and so a multiple of it. No run is given less than this.
_PROMPT_TOKENS, _LEAST_SECONDS = 30, 20.0
_BESIDE_SECONDS, _HELD_STEPS = 1.0, 6  # so often, and for so long, they are held meanwhile; the first one warms up


@dataclass(frozen=True)
class Run:
    """The result of one load, in bytes, tokens per second and seconds.

    `delay_*`: from a request to its injection, without the time in which Streams were held. `memory_*`: the peak with
    the River alone and with Streams. `complete`: whether all Streams ended within `limit_seconds`.
    """

    agents: int
    landmarks: int
    context: int
    tokens_per_agent: int
    river_share: float | None
    weights_bytes: int
    river_kv_bytes: int
    asides_bytes: int
    logits_bytes: int
    kv_shared_bytes: int
    kv_private_bytes: int
    memory_source: str
    memory_baseline_bytes: int
    memory_peak_bytes: int
    memory_per_agent_bytes: float
    river_solo_tokens_per_second: float
    river_tokens_per_second: float
    stream_tokens_per_second: float
    step_seconds: float
    thoughts: int
    thoughts_per_second: float
    delay_median_seconds: float | None
    delay_p95_seconds: float | None
    seconds: float
    limit_seconds: float
    complete: bool
    prefill_tokens_per_second: float

    @property
    def total_tokens_per_second(self) -> float:
        return self.river_tokens_per_second + self.stream_tokens_per_second

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run(
    prism: Prism,
    load: Load,
    progress: Progress = lambda what, done, total: None,
    say: Callable[[str], None] = lambda line: None,
    limit: float | None = None,
) -> Run:
    """Measures one load.

    Args:
        say: called with the longest time it can take, once the River's own speed is known.
        limit: seconds for the Streams, instead of a computed limit.

    The River decodes alone first, the single-agent baseline. Then all Streams start at once and write until each has
    its tokens; speed counts only steps without prefill. Now and then Streams are held, and at the end the River is
    alone again, so that a temporarily slow machine is not counted as the cost of Streams.
    """
    probe = MemoryProbe(str(prism.device))
    progress("the River reads", 0, load.agents * load.tokens)
    work = Workload(prism, load)
    settle()
    probe.forget()
    alone = _alone(work)
    baseline = probe.peak()
    peak = baseline.bytes
    probe.forget()
    limit = seconds_for(load, sum(alone) / len(alone)) if limit is None else limit
    say(f"{load.agents} agents: at most {limit:.0f} s")
    work.spawn()
    steps: list[Step] = []
    most = _Counted()
    beside = 0.0
    began = time.perf_counter()
    while work.thinking and (not steps or time.perf_counter() - began < limit):
        steps.append(work.step())
        beside += steps[-1].seconds
        if beside >= _BESIDE_SECONDS and work.roomy:
            alone += [work.alone().seconds for _ in range(_HELD_STEPS)][1:]
            beside = 0.0
        if len(steps) % 4 == 1:  # a reading takes a fraction of a millisecond
            peak = max(peak, probe.peak().bytes)
            most.add(work)
        progress(f"{load.agents} agents think", work.tally.written, load.agents * load.tokens)
    peak = max(peak, probe.peak().bytes)
    complete = not work.thinking
    work.conversation.crew.cancel_all("the bench's time limit was reached")
    total = sum(s.seconds for s in steps)
    # With a guaranteed share for the River the Streams start one by one; then every step counts.
    clean = [s for s in steps if load.river_share != 0 or not s.prefilling] or steps
    clean_seconds = sum(s.seconds for s in clean) or 1e-9
    alone += _alone(work)  # also with its longer context, which slows it, too
    delays = sorted(work.tally.delays)
    return Run(
        agents=load.agents,
        landmarks=load.landmarks,
        context=load.context,
        tokens_per_agent=load.tokens,
        river_share=load.river_share,
        weights_bytes=prism.parameter_bytes,
        river_kv_bytes=work.conversation.river.tail.nbytes,
        asides_bytes=most.asides,
        logits_bytes=prism.logits_bytes(load.agents + 1),
        kv_shared_bytes=most.shared,
        kv_private_bytes=most.private,
        memory_source=baseline.source,
        memory_baseline_bytes=baseline.bytes,
        memory_peak_bytes=peak,
        memory_per_agent_bytes=(peak - baseline.bytes) / load.agents,
        river_solo_tokens_per_second=len(alone) / sum(alone),
        river_tokens_per_second=sum(s.river for s in clean) / clean_seconds,
        stream_tokens_per_second=sum(s.streams for s in clean) / clean_seconds,
        step_seconds=clean_seconds / len(clean),
        thoughts=work.tally.thoughts,
        thoughts_per_second=work.tally.thoughts / total if total else 0.0,
        delay_median_seconds=statistics.median(delays) if delays else None,
        delay_p95_seconds=delays[min(len(delays) - 1, int(0.95 * len(delays)))] if delays else None,
        seconds=total,
        limit_seconds=limit,
        complete=complete,
        prefill_tokens_per_second=load.context / work.reading_seconds,
    )


def seconds_for(load: Load, solo: float) -> float:
    """The time limit for a load's Streams, if a step of the River alone takes `solo` seconds.

    With a guaranteed share, the Streams have `1 / share - 1` times as long as the River in each step, in which they
    should write at least three tokens. A machine on which they write fewer reports an incomplete run.
    """
    tokens = load.agents * (load.tokens + _PROMPT_TOKENS)
    return max(_LEAST_SECONDS, 2 * tokens * solo / 3 if load.river_share != 0 else tokens * solo)


def _alone(work: Workload) -> list[float]:
    """Seconds of steps of the River alone, after two to warm up."""
    for _ in range(2):
        work.step()
    times: list[float] = []
    while len(times) < _ALONE_STEPS or (sum(times) < _ALONE_SECONDS and len(times) < SOLO_TOKENS - 4):
        times.append(work.step().seconds)
    return times


@dataclass
class _Counted:
    """Peak KV bytes so far: shared by Streams (Synapse, role instructions), their tails, injected thoughts."""

    shared: int = 0
    private: int = 0
    asides: int = 0

    def add(self, work: Workload) -> None:
        self.shared = max(self.shared, work.conversation.crew.shared_bytes)
        self.private = max(self.private, sum(s.kv_bytes for s in work.conversation.alive if s.state == "thinking"))
        self.asides = max(self.asides, work.conversation.river.asides.nbytes)
