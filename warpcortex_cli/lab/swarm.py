"""Many agents of pocket over one file of notes, killed on the way: `python -m warpcortex_cli.lab.swarm --tasks 20000`.

Sums, look-ups and checks with known answers are made by a generator, a third each, and given to `warpcortex swarm`, one
run for each role, in a process of its own. Each run is killed with -9 when a share of its thoughts is written, and the
same command goes on. Then every task is looked up in the file of thoughts: lost, doubled, right.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import psutil

from warpcortex_cli.pocket import world
from warpcortex_cli.pocket.vocabulary import Words
from warpcortex_cli.pocket.world import Answer, World
from warpcortex_cli.probes.memory import peak_of
from warpcortex_cli.swarm.thoughts import thoughts_in

ROLES = ("math", "recall", "check")
_POLL = 0.5  # seconds


def ask(role: str, w: World, rng: random.Random) -> Answer | None:
    """A question whose request is for this role."""
    if role == "math":
        return rng.choice((world.ask_plain_total, world.ask_difference, world.ask_cost))(w, rng)
    if role == "recall":
        return rng.choice((world.ask_who_else, world.ask_about))(w, rng)
    if rng.random() < 0.5:
        return world.ask_compare(w, rng)
    return world.ask_claim(w, rng, Words(rng, "held-out", 0.4))


def tasks_of(role: str, w: World, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Tasks without end, each with the thought that is right."""
    while True:
        answer = ask(role, w, rng)
        if answer is not None and answer.request is not None:
            yield answer.request.task, answer.request.thought


@dataclass
class Outcome:
    """One role's run.

    Attributes:
        seconds: of all its processes together, with their starts.
        writing: seconds in which thoughts were written.
        marked: peak bytes of the process when 10,000 thoughts were written, or all, if there are fewer.
        peak: of all its processes.
    """

    role: str
    tasks: int
    seconds: float = 0.0
    writing: float = 0.0
    written: int = 0
    kills: int = 0
    marked: int = 0
    peak: int = 0
    lost: int = 0
    doubled: int = 0
    right: int = 0
    tokens: int = 0
    states: Counter[str] = field(default_factory=Counter)


def lines_in(path: Path) -> int:
    """Whole lines of a file; 0 if there is none."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def lived(out: Outcome, command: list[str], path: Path, until: int | None, mark: int) -> None:
    """Starts the command, and kills it with -9 when `until` thoughts are written; None: it runs to its end."""
    began, first, before = time.monotonic(), 0.0, lines_in(path)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            time.sleep(_POLL)
            with contextlib.suppress(psutil.NoSuchProcess):
                out.peak = max(out.peak, peak_of(process.pid))
            done = lines_in(path)
            if done > before and not first:
                first, before = time.monotonic(), done
            if done >= mark and not out.marked:
                out.marked = out.peak
            if until is not None and done >= until:
                out.kills += 1
                break
    finally:
        process.kill()  # -9
        process.wait()
    if until is None and process.returncode:
        sys.exit(f"the swarm ended with exit code {process.returncode}")
    now = time.monotonic()
    out.seconds += now - began
    if first:
        out.writing += now - first
        out.written += lines_in(path) - before


def judged(out: Outcome, path: Path, right: list[str]) -> Outcome:
    """Looks every task up in the file of thoughts."""
    seen: Counter[int] = Counter()
    for line in thoughts_in(path):
        seen[line["line"]] += 1
        out.right += line["thought"] == right[line["line"] - 1]
        out.tokens += line["tokens"]
        out.states[line["state"]] += 1
    out.lost = out.tasks - len(seen)
    out.doubled = sum(n - 1 for n in seen.values())
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000, help="of all roles together")
    parser.add_argument("--roles", default=",".join(ROLES))
    parser.add_argument("--notes", type=int, default=20, help="sentences of the notes")
    parser.add_argument("--kills", type=int, default=3, help="times that each role's run is killed with -9")
    parser.add_argument("--awake", type=int, default=128)
    parser.add_argument("--quantize", default="auto", help="as in other commands")
    parser.add_argument("--seed", type=int, default=26)
    parser.add_argument("--folder", type=Path, required=True, help="for its files; a run that was cut goes on there")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(args.seed)
    w = world.make_world(Words(rng, "held-out", 0.4), args.notes)
    notes = args.folder / "notes.txt"
    notes.write_text(world.notes_text(w, rng), encoding="utf-8")
    roles = args.roles.split(",")
    found = [run(args, role, args.tasks // len(roles), w, notes) for role in roles]
    how = f"{args.awake} awake, weights {args.quantize}, {args.kills} kills a role, seed {args.seed}"
    print(f"{args.notes} notes, {how}\n")
    print("| role | tasks | right | tokens a thought | thoughts a second | with starts | peak MiB | lost | doubled |")
    print("|---|---|---|---|---|---|---|---|---|")
    for out in found:
        print(
            f"| {out.role} | {out.tasks:,} | {out.right / out.tasks:.1%} | {out.tokens / out.tasks:.1f} "
            f"| {out.written / max(out.writing, 1e-9):.1f} | {out.tasks / out.seconds:.1f} "
            f"| {out.marked / 2**20:.0f}, at the end {out.peak / 2**20:.0f} | {out.lost} | {out.doubled} |"
        )


def run(args: argparse.Namespace, role: str, n: int, w: World, notes: Path) -> Outcome:
    """One role: makes its tasks, lets the swarm live and die, and judges what it wrote."""
    tasks, path = args.folder / f"{role}.jsonl", args.folder / f"{role}-thoughts.jsonl"
    right: list[str] = []
    with tasks.open("w", encoding="utf-8") as file:
        made = islice(tasks_of(role, w, random.Random(f"{args.seed} {role}")), n)
        for number, (task, thought) in enumerate(made):
            file.write(json.dumps({"id": f"{role}-{number}", "task": task}) + "\n")
            right.append(thought)
    command = [
        *(sys.executable, "-m", "warpcortex_cli", "swarm", str(tasks), "--role", role, "-m", "pocket"),
        *("--out", str(path), "--notes", str(notes), "--awake", str(args.awake), "--quantize", args.quantize),
        "--resume",
    ]
    out = Outcome(role, n)
    stops = [n * (i + 1) // (args.kills + 1) for i in range(args.kills)]
    for until in (*(stop for stop in stops if stop > lines_in(path)), None):
        lived(out, command, path, until, min(10_000, n))
    return judged(out, path, right)


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "140")
    main()
