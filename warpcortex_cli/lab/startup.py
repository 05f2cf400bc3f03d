"""A second start beside the imports it cannot do without: `python -m warpcortex_cli.lab.startup`.

    python -m warpcortex_cli.lab.startup -m smollm2 FOLDER pocket

Each model answers a question by `warpcortex ask`, in turn with two programs that only import: torch, and one model of
transformers. Every run is a process of its own. Seconds are until its end, and of the CPU; memory is its peak of RSS.
`warpcortex doctor --startup MODEL` shows where the time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from warpcortex_cli.errors import RunError

TORCH, TRANSFORMERS = "import torch", "from transformers import LlamaForCausalLM"
_QUESTION = "What is the capital of France?"
_NOTE, _ABOUT_NOTE = "Mara keeps ropes: 47, brown, in the old mill.", "How many ropes does Mara have?"  # for pocket
_MIB = 2**20


@dataclass(frozen=True)
class Run:
    """One process: seconds until its end, seconds of the CPU, and its peak of RSS in bytes."""

    seconds: float
    cpu: float
    peak: int


def run(command: Sequence[str]) -> Run:
    """Runs a program. Its peak is at least the memory of this process, from which it is forked.

    Raises:
        RunError: it fails, with its last words.
    """
    with tempfile.TemporaryFile("w+") as said:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)  # it is no longer there to wait for
        if process.returncode:
            said.seek(0)
            last = (said.read().strip().splitlines() or ["nothing"])[-1]
            raise RunError(f"{command[-1]}: exit code {process.returncode}: {last}")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return Run(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * unit)


def asking(model: str, folder: Path) -> list[str]:
    """The command that asks a model a question; pocket, which knows nothing else, one about a note."""
    ask = [sys.executable, "-m", "warpcortex_cli", "ask"]
    if model != "pocket":
        return [*ask, _QUESTION, "-m", model]
    note = folder / "note.txt"
    note.write_text(_NOTE, encoding="utf-8")
    return [*ask, _ABOUT_NOTE, "--notes", str(note), "-m", model]


def weights_of(model: str) -> int:
    """Bytes of a model's weights in memory. What is measured once on a machine is cached by this start."""
    command = [sys.executable, "-m", "warpcortex_cli", "doctor", "--startup", model, "--json"]
    found: int = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)[
        "weights_bytes"
    ]
    return found


def table(runs: dict[str, list[Run]], weights: dict[str, int]) -> str:
    """Medians as Markdown: of models also what they take above the import of transformers."""
    base = {name: median(getattr(r, name) for r in runs[TRANSFORMERS]) for name in ("seconds", "cpu", "peak")}
    lines = [
        "| | s | to the import | CPU s | peak MiB | above the import, in weights |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in runs.items():
        seconds, cpu, peak = (median(getattr(r, key) for r in of) for key in ("seconds", "cpu", "peak"))
        cells = [f"{seconds:.2f}", "", f"{cpu:.2f}", f"{peak / _MIB:.0f}", ""]
        if name in weights:
            cells[1] = f"{seconds - base['seconds']:+.2f}"
            cells[4] = f"{(peak - base['peak']) / weights[name]:.2f} of {weights[name] / _MIB:.0f} MiB"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Medians of {len(runs[TRANSFORMERS])} rounds in turn."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--models", nargs="+", default=["smollm2", "pocket"], help="as -m of other commands")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        commands = {code: [sys.executable, "-c", code] for code in (TORCH, TRANSFORMERS)}
        commands |= {model: asking(model, Path(folder)) for model in args.models}
        weights = {model: weights_of(model) for model in args.models}
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                runs[name].append(run(command))
    print(table(runs, weights))


if __name__ == "__main__":
    main()
