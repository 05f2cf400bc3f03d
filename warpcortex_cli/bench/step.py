"""Where a step's time goes: `python -m warpcortex_cli.bench.step -m smollm2`.

A River decodes after a context, alone and beside Streams, through the product's own engine. Reports the median
milliseconds of a step's parts: the engine outside the model's forward (planning, sampling, text, events); Python in the
forward; the products of each kind of linear layer, with the rate at which their weights are read; attention; what lies
between (norms, rounding, rotary embedding, additions); and the head. The kernels time their own parts.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from warpcortex_cli.bench.shapes import random_prism
from warpcortex_cli.bench.workload import Load, Workload
from warpcortex_cli.prism.fused import FusedLayer
from warpcortex_cli.prism.native import LAPS
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.quantize import FORMATS, Packed
from warpcortex_cli.prism.source import resolve_model

PARTS = ("engine", "Python in the forward", *LAPS, "head")
_WARM, _STEPS = 4, 48


@dataclass
class _Watch:
    """Seconds of the running step, by part."""

    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("forward", "head"), 0.0))

    def timed(self, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.spent[what] += time.perf_counter() - began

        return run


@contextmanager
def _watching(prism: Prism) -> Iterator[Callable[[Callable[[], float]], dict[str, float]]]:
    """A function that runs a step and returns its seconds by part; the step itself returns its total."""
    watch, head = _Watch(), prism.model.get_output_embeddings()
    layers = [layer.together[0] for layer in prism.model.get_decoder().layers if _begins(layer)]
    whole: Any = prism
    whole.forward = watch.timed("forward", prism.forward)
    if isinstance(head, Packed):
        for name in ("summarize", "forward"):
            object.__setattr__(head, name, watch.timed("head", getattr(head, name)))

    def run(step: Callable[[], float]) -> dict[str, float]:
        watch.spent = dict.fromkeys(watch.spent, 0.0)
        for each in layers:
            each.seconds = (ctypes.c_double * len(LAPS))()
        total = step()
        laps = {name: sum(each.seconds[i] for each in layers if each.seconds) for i, name in enumerate(LAPS)}
        forward, own = watch.spent["forward"], watch.spent["head"]
        python = forward - own - sum(laps.values())
        return {"engine": total - forward, "Python in the forward": python, **laps, "head": own, "all": total}

    try:
        yield run
    finally:
        del whole.forward
        for each in layers:
            each.seconds = None
        if isinstance(head, Packed):
            for name in ("summarize", "forward"):
                object.__delattr__(head, name)


def _begins(layer: Any) -> bool:
    return isinstance(layer, FusedLayer) and layer.together is not None


def step_parts(prism: Prism, load: Load, steps: int = _STEPS) -> dict[str, float]:
    """Median seconds of each of `PARTS`, and of "all"; without agents, of the River alone."""
    work = Workload(prism, load)
    found: list[dict[str, float]] = []
    with _watching(prism) as run:
        if load.agents:
            work.spawn()
        while len(found) < steps + _WARM and (work.thinking or not load.agents):
            last: list[Any] = []

            def one(last: list[Any] = last) -> float:
                last.append(work.step())
                return float(last[0].seconds)

            parts = run(one)
            if not last[0].prefilling and last[0].streams == load.agents:
                found.append(parts)
    used = found[min(_WARM, len(found) - 1) :]
    return {name: statistics.median(parts[name] for parts in used) for name in (*PARTS, "all")}


def weight_bytes(prism: Prism) -> dict[str, int]:
    """Bytes of packed weights, by the part that reads them."""
    found = dict.fromkeys((*LAPS, "head"), 0)
    for layer in prism.model.get_decoder().layers:
        if isinstance(layer, FusedLayer):
            for name, linear in layer.kernels.parts.linears.items():
                found[name.replace("_", " and ")] += linear.packed.nbytes
    head = prism.model.get_output_embeddings()
    found["head"] = head.weight.nbytes if isinstance(head, Packed) else 0
    return found


def table(columns: dict[str, dict[str, float]], sizes: dict[str, int]) -> str:
    """A Markdown table of milliseconds by part, with the rate at which the first column reads weights."""
    first = next(iter(columns.values()))
    lines = [f"| ms | {' | '.join(columns)} | MB | GB/s |", f"|{'---|' * (len(columns) + 3)}"]
    for part in (*PARTS, "all"):
        size = sizes.get(part, 0) if part != "all" else sum(sizes.values())
        rate = f"{size / 1e9 / first[part]:.1f}" if size and first[part] else ""
        cells = [f"{1e3 * column[part]:.2f}" for column in columns.values()]
        lines.append(f"| {part} | {' | '.join(cells)} | {f'{size / 1e6:.1f}' if size else ''} | {rate} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="a model as in other commands; default: a shape with random weights")
    parser.add_argument("--shape", default="SmolLM2-135M")
    parser.add_argument("--quantize", default="int8", choices=list(FORMATS))
    parser.add_argument("--agents", default="0,10,100", help="0: the River alone")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--steps", type=int, default=_STEPS)
    args = parser.parse_args()
    prism = (
        Prism.load(resolve_model(args.model), "cpu", "auto", args.quantize)
        if args.model
        else random_prism(args.shape, LoadOptions("cpu", quantize=args.quantize))
    )
    columns = {}
    for agents in map(int, args.agents.split(",")):
        load = Load(agents, args.context, min(64, args.context), args.steps + _WARM + 4, focus=64 if agents else 0)
        name = f"{agents} agents" if agents else "River alone"
        columns[name] = step_parts(prism, load, args.steps)
    print(f"{prism.name}, {args.quantize}, {torch.get_num_threads()} threads, {args.context} tokens read\n")
    print(table(columns, weight_bytes(prism)))


if __name__ == "__main__":
    main()
