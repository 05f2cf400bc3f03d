"""What bench runs add up to: tables, fitted slopes, the knee."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from itertools import pairwise

from warpcortex_cli.bench.measure import Run

MIB = 2**20
HEADS = (
    "agents",
    "alone",
    "River",
    "Streams",
    "all",
    "step ms",
    "MiB/agent",
    "thoughts/s",
    "wait s",
    "95 % s",
)


def cells(run: Run) -> list[str]:
    """One row of the table. alone, River, Streams, all: tokens per second; wait: from a request to its injection."""
    return [
        str(run.agents),
        f"{run.river_solo_tokens_per_second:.1f}",
        f"{run.river_tokens_per_second:.1f}",
        f"{run.stream_tokens_per_second:.1f}",
        f"{run.total_tokens_per_second:.1f}",
        f"{1000 * run.step_seconds:.0f}",
        f"{run.memory_per_agent_bytes / MIB:.2f}",
        f"{run.thoughts_per_second:.2f}",
        *("-" if d is None else f"{d:.1f}" for d in (run.delay_median_seconds, run.delay_p95_seconds)),
    ]


def markdown(runs: Sequence[Run]) -> str:
    """The table for a README."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cells(r))} |" for r in runs)])


def as_csv(runs: Sequence[Run]) -> str:
    """All figures, one line for each run."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(runs[0].as_json()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(run.as_json() for run in runs)
    return out.getvalue()


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Slope of the least-squares line through points (x, y); None for fewer than two different x."""
    n = len(points)
    mean_x, mean_y = (sum(p[i] for p in points) / n for i in (0, 1)) if n else (0.0, 0.0)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else None


def findings(runs: Sequence[Run]) -> list[str]:
    """What the runs show, in sentences: slopes, the knee, the River's share."""
    found: list[str] = []
    memory = slope([(r.agents, r.memory_peak_bytes - r.memory_baseline_bytes) for r in runs])
    if memory is not None:
        formula = max(r.kv_private_bytes / r.agents for r in runs)
        found.append(f"memory grows by {memory / MIB:.2f} MiB an agent; its tail is {formula / MIB:.2f} MiB")
    knee = knee_of(runs)
    if knee is not None:
        found.append(
            f"the knee is at {knee} agents: from there on twice the agents bring less than 1.3 times the tokens"
        )
    shares = [(r.agents, r.river_tokens_per_second / r.river_solo_tokens_per_second) for r in runs]
    worst = min(shares, key=lambda s: s[1], default=None)
    if worst is not None:
        found.append(f"the River kept {worst[1]:.0%} of its own speed at {worst[0]} agents")
    return found


def knee_of(runs: Sequence[Run]) -> int | None:
    """Agents from which on more of them hardly bring more tokens; None if the runs do not reach that far."""
    ordered = sorted(runs, key=lambda r: r.agents)
    for low, high in pairwise(ordered):
        gain = high.total_tokens_per_second / low.total_tokens_per_second
        if gain < 1.3 ** math.log2(high.agents / low.agents):
            return low.agents
    return None
