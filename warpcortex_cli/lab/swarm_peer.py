"""A swarm beside transformers' continuous batching: `python -m warpcortex_cli.lab.swarm_peer --tasks 1000`.

Both write the work of the same sums with pocket, from the same prompts, greedily. Each runs in a process of its own, so
that its peak memory is its own; loading the model does not count as time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from warpcortex_cli.engine.brief import Brief
from warpcortex_cli.engine.workers.base import picked
from warpcortex_cli.engine.workers.model import turn
from warpcortex_cli.lab.swarm import tasks_of
from warpcortex_cli.pocket import world
from warpcortex_cli.pocket.vocabulary import Words
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.probes.memory import peak_of
from warpcortex_cli.profile import load_profile

ROLE = "math"
SIDES = {"swarm, weights bf16": "bf16", "swarm, fp32": "none", "transformers generate_batch, fp32": ""}


def sums(n: int, seed: int) -> list[tuple[str, str]]:
    """Tasks, each with the thought that is right."""
    rng = random.Random(seed)
    w = world.make_world(Words(rng, "held-out", 0.4), 20)
    return list(islice(tasks_of(ROLE, w, rng), n))


def swarmed(tasks: list[str], quantize: str, awake: int) -> tuple[list[str], float]:
    """The thoughts of a swarm, and its seconds."""
    from warpcortex_cli.engine.session import Session
    from warpcortex_cli.swarm.plans import Plans
    from warpcortex_cli.swarm.swarm import Swarm, run
    from warpcortex_cli.swarm.thoughts import Thoughts, thoughts_in

    session = Session(Prism.load(resolve_model("pocket"), quantize=quantize), load_profile("pocket"))
    with tempfile.TemporaryDirectory(prefix="warpcortex-") as name:
        path, out = Path(name) / "tasks.jsonl", Path(name) / "thoughts.jsonl"
        path.write_text("".join(json.dumps({"task": task}) + "\n" for task in tasks), encoding="utf-8")
        with Thoughts(out, "00000000", 1, resume=False) as log:
            swarm = Swarm(session, path, Plans(ROLE, awake), log.answered)
            began = time.perf_counter()
            run(session, swarm, log.append, lambda: False)
            seconds = time.perf_counter() - began
        found = {line["line"]: line["thought"] for line in thoughts_in(out)}
    return [found[i + 1] for i in range(len(tasks))], seconds


def batched(tasks: list[str]) -> tuple[list[str], float]:
    """The same by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    source = resolve_model("pocket")
    prism = Prism.load(source)
    role = next(role for role in load_profile("pocket").roles if role.name == ROLE)
    prompts = [turn(prism, role, Brief(0, role, task).instruction()) for task in tasks]
    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32, attn_implementation="sdpa")
    settings = GenerationConfig(
        max_new_tokens=role.max_tokens, do_sample=False, eos_token_id=sorted(prism.eos_ids), pad_token_id=0
    )
    began = time.perf_counter()
    found = model.generate_batch(prompts, generation_config=settings, progress_bar=False)
    seconds = time.perf_counter() - began
    by_prompt = {tuple(reply.prompt_ids): reply.generated_tokens for reply in found.values()}
    return [picked(role, prism.decode(by_prompt[tuple(prompt)])) for prompt in prompts], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--awake", type=int, default=128)
    parser.add_argument("--seed", type=int, default=26)
    parser.add_argument("--side", choices=SIDES, help="one of them, as JSON")
    args = parser.parse_args()
    if args.side:
        made = sums(args.tasks, args.seed)
        tasks, quantize = [task for task, _ in made], SIDES[args.side]
        thoughts, seconds = swarmed(tasks, quantize, args.awake) if quantize else batched(tasks)
        right = sum(thought == wanted for thought, (_, wanted) in zip(thoughts, made, strict=True))
        print(json.dumps({"seconds": seconds, "right": right, "peak": peak_of(os.getpid())}))
        return
    print(f"{args.tasks:,} sums, {args.awake} awake, seed {args.seed}\n")
    print("| | thoughts a second | right | peak MiB |")
    print("|---|---|---|---|")
    for side in SIDES:
        command = [sys.executable, "-m", "warpcortex_cli.lab.swarm_peer", "--side", side]
        command += ["--tasks", str(args.tasks), "--awake", str(args.awake), "--seed", str(args.seed)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{side} failed: {' '.join(done.stderr.strip().splitlines()[-1:])}")
        found = json.loads(done.stdout.splitlines()[-1])
        speed, share = args.tasks / found["seconds"], found["right"] / args.tasks
        print(f"| {side} | {speed:.1f} | {share:.1%} | {found['peak'] / 2**20:.0f} |")


if __name__ == "__main__":
    main()
