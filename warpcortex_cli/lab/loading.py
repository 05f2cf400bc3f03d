"""Load time of a model, here and in llama.cpp in turn: `python -m warpcortex_cli.lab.loading`.

    python -m warpcortex_cli.lab.loading --build peer -m smollm2

`--build`: the build folder of llama.cpp, see `lab.peer`. Both read the same GGUF file in turn, each in its own process.
Loading ends, as in llama.cpp's own count, when the model has read 16 tokens, since its memory map loads weights when
they are first used. Starting the program is not counted (an executable and its libraries there; Python, torch and
transformers here, which `warpcortex doctor --startup` shows).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

from warpcortex_cli.errors import RunError
from warpcortex_cli.lab.peer import described
from warpcortex_cli.prism.source import ModelSource, resolve_model

READ = 16  # tokens, as llama-batched-bench reads at its start
OURS, THEIRS = "warpcortex", "llama.cpp"


def ours(model: str) -> dict[str, float]:
    """Milliseconds of a load in a new process, by phase, including the prefill."""
    command = [sys.executable, "-m", __spec__.name if __spec__ else "warpcortex_cli.lab.loading", "--once", model]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def once(model: str) -> dict[str, float]:
    """The same in this process, as commands do it."""
    from warpcortex_cli.phases import REST, phase
    from warpcortex_cli.prism.lean import lean
    from warpcortex_cli.process import importing

    with lean():
        with importing():
            from warpcortex_cli.prism.options import LoadOptions
            from warpcortex_cli.prism.prism import Prism, Row

        source = resolve_model(model)
        before = phase.seconds()
        prism = Prism.opened(source, LoadOptions(device="cpu", quantize="auto"))
    with phase(f"reading {READ} tokens"):
        prism.forward([Row([1] * READ, list(range(READ)), prism.new_tail(READ))])
    after = phase.seconds()
    took = {name: 1e3 * (seconds - before.get(name, 0.0)) for name, seconds in after.items()}
    return {name: ms for name, ms in took.items() if name == REST or ms > 0}  # the others are of an earlier load


def theirs(build: Path, gguf: Path, threads: int) -> float:
    """Milliseconds as reported by llama.cpp. Raises RunError if it reports none."""
    command = [str(build / "bin" / "llama-batched-bench"), "-m", str(gguf), "-lv", "4", "-t", str(threads)]
    command += ["-c", "64", "-npp", "1", "-ntg", "1", "-npl", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    return load_ms(done.stdout + done.stderr)


def load_ms(said: str) -> float:
    """The load time from llama.cpp's output. Raises RunError if it is missing."""
    found = re.search(r"load time =\s*([0-9.]+) ms", said)
    if found is None:
        last = (said.strip().splitlines() or ["nothing"])[-1]
        raise RunError(f"llama-batched-bench reported no load time: {last}", "Build it as `lab.peer` says.")
    return float(found[1])


def table(times: dict[str, list[float]], phases: list[dict[str, float]]) -> str:
    """All rounds as Markdown, the ratio of the medians, and the phases of ours (medians, ms)."""
    lines = ["| ms | median | least | most |", "|---|---|---|---|"]
    lines += [f"| {name} | {median(t):.0f} | {min(t):.0f} | {max(t):.0f} |" for name, t in times.items()]
    ratio = median(times[OURS]) / median(times[THEIRS])
    lines += ["", f"Ours takes {ratio:.2f} times as long, by medians of {len(times[OURS])} rounds in turn. Its phases:"]
    where = {name: median(p.get(name, 0.0) for p in phases) for name in phases[0]}
    return "\n".join([*lines, ", ".join(f"{name} {ms:.0f}" for name, ms in where.items() if ms >= 1) + "."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, help="the build folder of llama.cpp")
    parser.add_argument("-m", "--model", default="smollm2", help="a GGUF model, as in other commands")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--once", metavar="MODEL", help="load this model here and print milliseconds as JSON")
    args = parser.parse_args()
    if args.once:
        print(json.dumps(once(args.once)))
        return
    source: ModelSource = resolve_model(args.model)
    if args.build is None or source.format != "gguf":
        parser.error("give --build, and a model in a GGUF file")
    print(f"llama.cpp: {described(args.build)}.\n", flush=True)
    times: dict[str, list[float]] = {THEIRS: [], OURS: []}
    phases = []
    ours(args.model)  # one-time measurements are made and cached
    for _ in range(args.rounds):
        times[THEIRS].append(theirs(args.build, source.path, os.cpu_count() or 2))
        phases.append(ours(args.model))
        times[OURS].append(sum(phases[-1].values()))
    print(table(times, phases))


if __name__ == "__main__":
    main()
