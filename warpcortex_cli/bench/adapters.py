"""What LoRA adapters of Streams cost: `python -m warpcortex_cli.bench.adapters -m smollm2`.

A River and Streams write through the product's own engine, without and with adapters. Steps of the two alternate, so
that a machine that is slower for some seconds slows both. The adapters change every linear layer of the model; they are
random, in PEFT's format, in a temporary folder. Speed counts all tokens of the steps in which every Stream writes one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from warpcortex_cli.bench.workload import Load, Step, Workload
from warpcortex_cli.prism.adapter_files import CONFIG, PREFIX, WEIGHTS
from warpcortex_cli.prism.fused import FusedLayer
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.quantize import FORMATS
from warpcortex_cli.prism.source import resolve_model

_WARM = 4  # steps that are not counted


@dataclass(frozen=True)
class Cost:
    """Tokens per second of all agents together, without and with adapters, and the number of steps of each."""

    without: float
    adapted: float
    steps: int


def write_adapter(prism: Prism, folder: Path, rank: int, seed: int, size: float = 0.02) -> None:
    """Writes an adapter of random weights for all linear layers of the model's decoder, in PEFT's format.

    Args:
        size: the standard deviation of A and B.
    """
    decoder = prism.model.get_decoder()
    (path,) = (name for name, module in prism.model.named_modules() if module is decoder)
    make, held = torch.Generator().manual_seed(seed), {}
    for number, layer in enumerate(decoder.layers):
        own = layer.made_of[0] if isinstance(layer, FusedLayer) else layer
        for name, module in own.named_modules():
            if hasattr(module, "in_features") and hasattr(module, "out_features"):
                key = f"{PREFIX}{path}.layers.{number}.{name}.lora_"
                shapes = {"A": (rank, module.in_features), "B": (module.out_features, rank)}
                for part, shape in shapes.items():
                    held[f"{key}{part}.weight"] = size * torch.randn(shape, generator=make)
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank}))
    save_file(held, folder / WEIGHTS)


def cost(prism: Prism, load: Load, adapters: Sequence[str]) -> Cost:
    """Measures a load with its Streams taking these adapters in turn."""
    works = [Workload(prism, load), Workload(prism, replace(load, adapters=tuple(adapters)))]
    for work in works:
        work.spawn()
    pairs: list[tuple[Step, Step]] = []
    while all(work.thinking for work in works):
        first = len(pairs) % 2  # alternates, as the second one finds weights in the caches
        steps = {turn: works[turn].step() for turn in (first, 1 - first)}
        if not any(step.prefilling or step.streams < load.agents for step in steps.values()):
            pairs.append((steps[0], steps[1]))
    for work in works:
        work.conversation.crew.cancel_all("the bench is over")
    used = pairs[min(_WARM, len(pairs) - 1) :]
    speeds = [sum(s.river + s.streams for s in side) / sum(s.seconds for s in side) for side in zip(*used, strict=True)]
    return Cost(speeds[0], speeds[1], len(used))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2", help="as any command takes it")
    parser.add_argument("--quantize", default="auto", choices=["auto", "none", *FORMATS])
    parser.add_argument("--agents", default="1,10,100")
    parser.add_argument("--adapters", default="1,4,16", help="numbers of different adapters, none above the Streams")
    parser.add_argument("--ranks", default="8,64")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=40, help="tokens that each Stream writes")
    args = parser.parse_args()
    prism = Prism.load(resolve_model(args.model), "cpu", "auto", args.quantize)
    counts = [int(n) for n in args.adapters.split(",")]
    print(f"{prism.name}, {args.quantize}, {torch.get_num_threads()} threads, {args.context} tokens read\n")
    heads = "Streams", "adapters", "rank", "tokens/s without", "tokens/s with", "part of the speed"
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    sizes = {}
    for rank in map(int, args.ranks.split(",")):
        with TemporaryDirectory() as made:
            folders = [Path(made) / str(number) for number in range(max(counts))]
            for number, folder in enumerate(folders):
                write_adapter(prism, folder, rank, number)
            sizes[rank] = prism.adapters.get(str(folders[0])).nbytes
            for agents in map(int, args.agents.split(",")):
                load = Load(agents, args.context, min(64, args.context), args.tokens)
                for count in (n for n in counts if n <= agents):
                    found = cost(prism, load, [str(folder) for folder in folders[:count]])
                    part = found.adapted / found.without
                    speeds = f"{found.without:.1f} | {found.adapted:.1f} | {part:.2f}"
                    print(f"| {agents} | {count} | {rank} | {speeds} |", flush=True)
    print("\nIn memory, an adapter of all linear layers takes ", end="")
    print(" and ".join(f"{size / 2**20:.1f} MiB with rank {rank}" for rank, size in sizes.items()) + ".")


if __name__ == "__main__":
    main()
