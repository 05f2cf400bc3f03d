"""Our quantized products against torch's and torchao's: `python -m warpcortex_cli.lab.products`.

One weight matrix times 1 row (a step), 10 and 100 (Streams), and 512 (prefill), in microseconds, the least of three
medians. `error`: relative to the fp32 product. `size`: bytes of the weights relative to fp32. Libraries are called
eagerly, without a compiler; torchao (not a dependency; `pip install --no-deps torchao`) is skipped if not installed.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from warpcortex_cli.prism import native
from warpcortex_cli.prism.native import INT4

SHAPES = {"smollm2 mlp": (1536, 576), "qwen2.5-0.5b mlp": (4864, 896)}  # outputs, inputs
ROWS = (1, 10, 100, 512)
_GROUP = 32
Product = Callable[[Tensor], Tensor]


def ours(weight: Tensor) -> Iterator[tuple[str, Product, int]]:
    """Name, product and weight bytes of each of our formats."""
    for name, form in (("ours bf16", 16), ("ours int8", 8), ("ours int4", INT4)):
        packed = native.pack(weight, form)

        def product(x: Tensor, packed: Tensor = packed, form: int = form) -> Tensor:
            return native.multiply(x, packed, None, form, len(weight))

        yield name, product, packed.nbytes


def of_torch(weight: Tensor) -> Iterator[tuple[str, Product, int]]:
    yield "torch fp32", lambda x: nn.functional.linear(x, weight), weight.nbytes
    half = weight.bfloat16()
    yield "torch bf16", lambda x: nn.functional.linear(x.bfloat16(), half).float(), half.nbytes
    scales = weight.abs().amax(1) / 127
    levels = (weight / scales[:, None]).round().to(torch.int8)
    mixed = torch.ops.aten._weight_int8pack_mm
    yield "torch int8, bf16 inputs", lambda x: mixed(x.bfloat16(), levels, scales.bfloat16()).float(), levels.nbytes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        linear = nn.Linear(weight.shape[1], len(weight), bias=False)
        linear.weight.data = weight
        dynamic = torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), {nn.Linear}, torch.qint8)
    yield "torch int8, dynamic", dynamic, levels.nbytes
    groups = weight.unflatten(1, (-1, _GROUP))
    low, high = groups.amin(2), groups.amax(2)
    step = (high - low).clamp_min(1e-6) / 15
    fours = ((groups - low[:, :, None]) / step[:, :, None]).round().clamp(0, 15).to(torch.int32).flatten(1)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(fours, 1)
    both = torch.stack([step, low + 8 * step], 2).transpose(0, 1).contiguous().bfloat16()
    product = torch.ops.aten._weight_int4pack_mm_for_cpu
    yield "torch int4, bf16 inputs", lambda x: product(x.bfloat16(), packed, _GROUP, both).float(), packed.nbytes


def of_torchao(weight: Tensor) -> Iterator[tuple[str, Product, int]]:
    if not find_spec("torchao"):
        return
    import logging

    logging.disable(logging.WARNING)
    from torchao.quantization import (
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        quantize_,
    )

    linear = nn.Linear(weight.shape[1], len(weight), bias=False)
    linear.weight.data = weight.bfloat16()
    for name, config in (
        ("torchao int8, bf16 inputs", Int8WeightOnlyConfig()),
        ("torchao int8, dynamic", Int8DynamicActivationInt8WeightConfig()),
    ):
        model = nn.Sequential(copy.deepcopy(linear))
        quantize_(model, config)

        def product(x: Tensor, model: nn.Module = model) -> Tensor:
            found: Tensor = model(x.bfloat16())
            return found.float()

        yield name, product, weight.numel()


def seconds(product: Product, x: Tensor) -> float:
    """Seconds of one call: the least of three medians, to suppress other load on the machine."""
    product(x)
    began = time.perf_counter()
    product(x)
    calls = max(3, min(200, int(0.05 / (time.perf_counter() - began + 1e-9))))
    found = []
    for _ in range(3):
        times = []
        for _ in range(calls):
            began = time.perf_counter()
            product(x)
            times.append(time.perf_counter() - began)
        found.append(median(times))
    return min(found)


@torch.inference_mode()
def measure(outputs: int, inputs: int, rows: tuple[int, ...] = ROWS) -> list[dict[str, Any]]:
    """Each product's name, size relative to fp32, error, and microseconds by rows."""
    make = torch.Generator().manual_seed(1)
    weight = torch.randn(outputs, inputs, generator=make) / inputs**0.5
    given = {n: torch.randn(n, inputs, generator=make) for n in rows}
    found = []
    for name, product, nbytes in (*of_torch(weight), *of_torchao(weight), *ours(weight)):
        exact = given[rows[-1]] @ weight.T
        error = float((product(given[rows[-1]]) - exact).norm() / exact.norm())
        times = {str(n): 1e6 * seconds(product, x) for n, x in given.items()}
        found.append({"name": name, "size": nbytes / weight.nbytes, "error": error, "microseconds": times})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = {name: measure(*shape) for name, shape in SHAPES.items()}
    if args.json:
        print(json.dumps({"schema_version": 1, "threads": args.threads, "shapes": found}))
        return
    for shape, products in found.items():
        print(f"\n{shape}, {SHAPES[shape][0]} x {SHAPES[shape][1]}, {args.threads} threads, microseconds")
        print(f"{'':26}  size   error", *(f"{n:>8}" for n in ROWS))
        for p in products:
            times = " ".join(f"{t:8.0f}" for t in p["microseconds"].values())
            print(f"{p['name']:26} {p['size']:5.0%} {p['error']:7.4f} {times}")


if __name__ == "__main__":
    main()
