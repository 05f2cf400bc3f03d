"""Summaries of bench runs: tables, fitted slopes, the knee."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from itertools import pairwise

from warpcortex_cli.bench.measure import Run

MIB = 2**20
GUARANTEE = 0.85  # of its own speed: the share that findings compare a River with
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
    """The table as Markdown."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cells(r))} |" for r in runs)])


def as_csv(runs: Sequence[Run]) -> str:
    """All figures, one line per run."""
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


def findings(runs: Sequence[Run], free_bytes: int | None = None) -> list[str]:
    """Findings as sentences: slopes, the knee, the River's share, and how many agents fit into memory."""
    found: list[str] = []
    memory = slope([(r.agents, r.memory_peak_bytes - r.memory_baseline_bytes) for r in runs])
    formula = max((r.kv_private_bytes / r.agents for r in runs), default=0.0)
    if memory is not None:
        grows = f"grows by {memory / MIB:.2f} MiB an agent" if memory > 0 else "was not seen to grow"
        found.append(f"memory {grows}; an agent's tail is {formula / MIB:.2f} MiB")
    knee = knee_of(runs)
    if knee is not None:
        found.append(
            f"the knee is at {knee} agents: up to there a step is memory-bound, and more agents are almost free; "
            "beyond it twice the agents write less than 1.3 times the tokens"
        )
    worst = min(runs, key=_share, default=None)
    if worst is not None:
        found.append(f"the River kept {_share(worst):.0%} of its own speed at {worst.agents} agents")
    under = first_under(runs, GUARANTEE)
    if under is not None:
        found.append(f"without --river-share it falls under {GUARANTEE:.0%} from about {under:.0f} agents on")
    found += [
        f"the run of {r.agents} agents was stopped after {r.limit_seconds:.0f} s, before all had finished; "
        "its figures cover that time only"
        for r in runs
        if not r.complete
    ]
    each = max(memory or 0.0, formula)  # at least the tail, whatever the noise
    if memory is not None and each and free_bytes:
        found.append(f"the memory that is free now would hold about {int(free_bytes / each):,} agents")
    return found


def _share(run: Run) -> float:
    """The share of its own speed that the River kept."""
    return run.river_tokens_per_second / run.river_solo_tokens_per_second


def first_under(runs: Sequence[Run], share: float) -> float | None:
    """Agents at which the River falls below this share of its speed, by log-linear interpolation between runs.

    None if no run shows it, or if the runs guaranteed the River a share.
    """
    ordered = [r for r in sorted(runs, key=lambda r: r.agents) if r.river_share == 0]
    if ordered and _share(ordered[0]) < share:
        return float(ordered[0].agents)
    for low, high in pairwise(ordered):
        if _share(low) >= share > _share(high):
            part = (_share(low) - share) / (_share(low) - _share(high))
            return low.agents * (high.agents / low.agents) ** part
    return None


def knee_of(runs: Sequence[Run]) -> int | None:
    """The number of agents beyond which more agents hardly add tokens; None if the runs do not reach it."""
    ordered = sorted(runs, key=lambda r: r.agents)
    for low, high in pairwise(ordered):
        gain = high.total_tokens_per_second / low.total_tokens_per_second
        if gain < 1.3 ** math.log2(high.agents / low.agents):
            return low.agents
    return None
