"""The memory curve: counted parts and the measured total."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from warpcortex_cli.bench.measure import Run
from warpcortex_cli.bench.report import slope
from warpcortex_cli.errors import MemoryLimitError

SOURCES = {
    "program": "measured before the model was loaded",
    "weights": "counted: bytes of the model's parameters",
    "river": "counted: allocated keys and values of the River",
    "synapse": "counted: keys and values of the landmarks, once for all Streams",
    "tails": "counted: keys and values of the Streams' tails",
    "asides": "counted: keys and values of injected thoughts",
    "logits": "counted: buffers of a step",
    "workspace": "the rest: measured minus all of the above; activations, buffers, fragmentation",
}


@dataclass(frozen=True)
class Point:
    """Memory at one number of agents, in bytes. `parts` add up to `measured_bytes`."""

    agents: int
    parts: dict[str, int]
    measured_bytes: int
    baseline_bytes: int

    @property
    def above_baseline_bytes(self) -> int:
        return self.measured_bytes - self.baseline_bytes


@dataclass(frozen=True)
class Curve:
    """Points by ascending number of agents; `source` names the probe."""

    model: str
    source: str
    points: tuple[Point, ...]

    @property
    def per_agent_bytes(self) -> float:
        """Slope of the measured bytes over agents; for a single point, its growth divided by its agents."""
        fitted = slope([(p.agents, p.above_baseline_bytes) for p in self.points])
        last = self.points[-1]
        return fitted if fitted is not None else last.above_baseline_bytes / last.agents

    @property
    def least_bytes(self) -> float:
        """The least an agent can take, its tail: with few agents the slope is mostly noise."""
        return self.points[-1].parts["tails"] / self.points[-1].agents

    def as_json(self) -> dict[str, Any]:
        points = [{**asdict(p), "above_baseline_bytes": p.above_baseline_bytes} for p in self.points]
        return {"source": self.source, "points": points, "per_agent_bytes": self.per_agent_bytes, "parts": SOURCES}

    def fits(self, card_bytes: int) -> int:
        """How many agents fit on a card of this size, by the first point and the slope.

        Raises:
            MemoryLimitError: not even one fits.
        """
        first = self.points[0]
        without_program = first.baseline_bytes - first.parts["program"]
        room = card_bytes - without_program
        count = int(room / max(1.0, self.per_agent_bytes, self.least_bytes))
        if room <= 0 or count < 1:
            raise MemoryLimitError(
                f"{self.model} and its River take {without_program / 2**20:,.0f} MiB; "
                f"a card of {card_bytes / 2**20:,.0f} MiB cannot hold them with one agent.",
                "Choose a smaller model or --dtype bf16.",
            )
        return count


def curve_of(runs: Sequence[Run], model: str, program_bytes: int) -> Curve:
    """Splits the bytes of each run into parts.

    Args:
        program_bytes: what the process used before the model was loaded.
    """
    points = []
    for run in sorted(runs, key=lambda r: r.agents):
        parts = {
            "program": program_bytes,
            "weights": run.weights_bytes,
            "river": run.river_kv_bytes,
            "synapse": run.kv_shared_bytes,
            "tails": run.kv_private_bytes,
            "asides": run.asides_bytes,
            "logits": run.logits_bytes,
        }
        parts["workspace"] = run.memory_peak_bytes - sum(parts.values())
        points.append(Point(run.agents, parts, run.memory_peak_bytes, run.memory_baseline_bytes))
    return Curve(model, runs[0].memory_source, tuple(points))


def parse_bytes(text: str) -> int | None:
    """Bytes of `24GB`, `512 MiB` or `80G`; None for anything else. GB is 10^9, GiB (and G) 2^30."""
    units = {"gb": 10**9, "gib": 2**30, "g": 2**30, "mb": 10**6, "mib": 2**20, "m": 2**20, "tb": 10**12}
    plain = text.strip().lower().replace(" ", "")
    number = plain.rstrip("gibmt")
    try:
        size = int(float(number) * units[plain[len(number) :]])
        return size if size > 0 else None
    except (ValueError, KeyError, OverflowError):
        return None
