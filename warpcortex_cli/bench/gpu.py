"""All GPU checks and measurements in one command of at most four minutes: `python -m warpcortex_cli.bench.gpu`.

    python -m warpcortex_cli.bench.gpu --out gpu.json        # on a machine with CUDA
    python -m warpcortex_cli.bench.gpu --dry-run             # the same lines on the CPU, with a small shape

Parts: the same weights and rows on CPU and GPU (parity); the speed of a large copy (bandwidth); 1, 10, 100 and 1,000
agents on the shape of Qwen2.5-0.5B in bf16, with the step's time relative to reading its bytes at that bandwidth, and
this process's memory by NVML; and a River's step launched eagerly and as a CUDA graph.

The estimate of each part is printed before it runs. A part that no longer fits into `--seconds` is skipped; the JSON
names skipped and failed parts. Exit code 0; 1 if a part failed; 3 without CUDA.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from warpcortex_cli.bench.measure import run
from warpcortex_cli.bench.shapes import SHAPES, made
from warpcortex_cli.bench.workload import Load
from warpcortex_cli.errors import ModelError, WarpError
from warpcortex_cli.prism import attention
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.prism import Prism, Row
from warpcortex_cli.prism.step import PackedStep
from warpcortex_cli.probes.memory import nvml_bytes

SHAPE = "Qwen2.5-0.5B"
_SMALL = {**SHAPES[SHAPE], "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
_SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2}
_NEAR = {"fp32": 1e-3, "bf16": 0.1}  # relative error of logits, against the CPU's in fp32
_REPEATS = 20


@dataclass(frozen=True)
class Plan:
    """What to run: on a GPU, or as a rehearsal on the CPU.

    Attributes:
        device: torch's name of it.
        shape: its name, and sizes as in `SHAPES`.
        agents: number of agents of each run, with an estimate in seconds.
        context, landmarks, tokens: as in `Load`.
        copied: bytes copied to measure the bandwidth.
    """

    device: str
    name: str
    shape: dict[str, Any]
    agents: dict[int, float]
    context: int
    landmarks: int
    tokens: int
    copied: int

    def prism(self, device: str, dtype: str) -> Prism:
        return made(self.name, self.shape, LoadOptions(device, dtype))


ON_CUDA = Plan("cuda", SHAPE, SHAPES[SHAPE], {1: 15, 10: 20, 100: 30, 1000: 60}, 1024, 64, 32, 1 << 30)
DRY = Plan("cpu", "a small shape", _SMALL, {1: 10, 2: 10}, 64, 8, 4, 1 << 22)


def parity(plan: Plan) -> dict[str, Any]:
    """Logits of three rows, one prefill and two that decode, against the CPU's in fp32 with the same weights."""
    reference = plan.prism("cpu", "fp32")
    weights, wanted = reference.model.state_dict(), _logits(reference)
    found: dict[str, Any] = {}
    for dtype, near in _NEAR.items():
        prism = plan.prism(plan.device, dtype)
        prism.model.load_state_dict(weights)
        mine = _logits(prism)
        error = float((mine - wanted).norm() / wanted.norm())
        same = float((mine.argmax(1) == wanted.argmax(1)).float().mean())
        found[dtype] = {"error": error, "near": near, "agrees": error <= near, "same_largest": same}
    return found


def _logits(prism: Prism) -> torch.Tensor:
    """fp32 [tokens, vocabulary], on the CPU."""
    tails = [prism.new_tail(64) for _ in range(3)]
    first = prism.forward([Row([7 + i for i in range(32)], list(range(32)), tails[0], logits="all")])
    prism.forward([Row([9, 10], [0, 1], tail) for tail in tails[1:]])
    rows = [Row([11], [tail.length], tail, logits="all") for tail in tails]
    found = [*first, *prism.forward(rows)]
    return torch.cat([r.logits.float().cpu() for r in found if r.logits is not None])


def bandwidth(plan: Plan) -> dict[str, float]:
    """GB/s that a large copy reads and writes."""
    given = torch.zeros(plan.copied, dtype=torch.uint8, device=plan.device)
    taken = torch.empty_like(given)
    seconds = _seconds(lambda: taken.copy_(given), plan.device)
    return {"gigabytes_per_second": 2 * plan.copied / seconds / 1e9}


def agents(plan: Plan, count: int, limit: float, rate: float | None) -> dict[str, Any]:
    """A run of the bench, with the time of a step that only reads its bytes at `rate` GB/s."""
    prism = plan.prism(plan.device, "bf16")
    done = run(prism, Load(count, plan.context, plan.landmarks, plan.tokens), limit=limit)
    nbytes = done.weights_bytes + done.river_kv_bytes + done.kv_shared_bytes + done.kv_private_bytes
    floor = nbytes / (rate * 1e9) if rate else None
    nvml = nvml_bytes(os.getpid())
    return {
        **done.as_json(), "step_bytes": nbytes, "floor_seconds": floor,
        "over_floor": done.step_seconds / floor if floor else None, "nvml_bytes": nvml,
    }  # fmt: skip


def graphs(plan: Plan) -> dict[str, Any]:
    """Seconds of a River's forward in the model alone, launched eagerly and as one CUDA graph."""
    prism = plan.prism(plan.device, "bf16")
    tail = prism.new_tail(plan.context + 2)
    context = list(range(plan.context))
    prism.forward([Row([1 + i % 512 for i in context], context, tail, logits="none")])
    step = PackedStep([Row([5], [plan.context], tail)], prism.device, False)
    tokens, positions = (torch.tensor([[n]], device=prism.device) for n in (5, plan.context))

    @torch.inference_mode()
    def once() -> None:
        with attention.running(step):
            prism.model(input_ids=tokens, position_ids=positions, use_cache=False, logits_to_keep=1)

    found: dict[str, Any] = {"launched_seconds": _seconds(once, plan.device)}
    if plan.device != "cuda":
        return {**found, "captured_seconds": None, "reason": "CUDA graphs need CUDA"}
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            once()
        return {**found, "captured_seconds": _seconds(graph.replay, plan.device), "reason": None}
    except RuntimeError as error:  # something in the step synchronizes with the GPU or copies to it
        return {**found, "captured_seconds": None, "reason": (str(error).splitlines() or [""])[0]}


def _seconds(call: Callable[[], object], device: str) -> float:
    """The mean of some calls, after three to warm up."""

    def some(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            call()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    some(3)
    return some(_REPEATS) / _REPEATS


def measured(plan: Plan, budget: float, say: Callable[[str], None]) -> dict[str, Any]:
    """All parts that fit into `budget` seconds, as one JSON object, which names the others.

    Args:
        say: called before each part with its name and estimate.
    """
    began = time.perf_counter()
    done: dict[str, Any] = {}
    left_out: list[dict[str, str]] = []

    def part(name: str, estimate: float, work: Callable[[float], dict[str, Any]]) -> None:
        left = budget - (time.perf_counter() - began)
        if estimate > left:
            left_out.append(
                {"part": name, "reason": f"it takes some {estimate:.0f} s, and {max(0, left):.0f} s are left"}
            )
            return
        say(f"{name}: some {estimate:.0f} s, of {left:.0f} left")
        start = time.perf_counter()
        try:
            found = work(left)
        except (RuntimeError, MemoryError, ValueError, WarpError) as error:  # the other parts can still be measured
            found = {"error": (str(error).splitlines() or [type(error).__name__])[0]}
        done[name] = {"estimate_seconds": estimate, "seconds": round(time.perf_counter() - start, 3), **found}
        if plan.device == "cuda":
            torch.cuda.empty_cache()

    part("parity", 25, lambda left: parity(plan))
    part("bandwidth", 3, lambda left: bandwidth(plan))
    rate = done.get("bandwidth", {}).get("gigabytes_per_second")
    part("graphs", 15, lambda left: graphs(plan))
    for count, estimate in plan.agents.items():

        def some(left: float, count: int = count, estimate: float = estimate) -> dict[str, Any]:
            return agents(plan, count, min(left / 2, estimate), rate)

        part(f"{count} agents", estimate, some)
    name = torch.cuda.get_device_name() if plan.device == "cuda" else plan.device
    return {
        "schema_version": 1, "device": name, "shape": plan.name, "dry_run": plan is DRY, "torch": torch.__version__,
        "budget_seconds": budget, "seconds": round(time.perf_counter() - began, 3), "parts": done, "left_out": left_out,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="the JSON file to write")
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with a small shape and few agents")
    args = parser.parse_args()
    try:
        if not args.dry_run and not torch.cuda.is_available():
            raise ModelError("there is no CUDA device here.", "Use --dry-run for a small run on the CPU.")
        found = measured(DRY if args.dry_run else ON_CUDA, args.seconds, lambda line: print(line, file=sys.stderr))
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except WarpError as error:
        print(f"warpcortex: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"warpcortex: {args.out} cannot be written: {error.strerror or error}.", file=sys.stderr)
        return 1
    failed = [name for name, part in found["parts"].items() if "error" in part]
    out = [entry["part"] for entry in found["left_out"]]
    print(f"{args.out}: {len(found['parts'])} parts in {found['seconds']:.0f} s", end="")
    print(f"; failed: {', '.join(failed) or 'none'}; left out: {', '.join(out) or 'none'}.")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
