"""How fast this machine multiplies packed weights, and torch the same weights in fp32, by the rows of a step.

Whether weights are packed is chosen once for a model, never for a step: a row's numbers would depend on how many others
come with it, and two conversations on one Stepper would not give what each gives alone. So where torch is faster for
some widths and slower for others, what counts is a usual mix of them. `doctor` shows every width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from warpcortex_cli.prism import native
from warpcortex_cli.prism.kept import keep, kept, machine

WIDTHS = (1, 10, 100, 512)  # rows: the River alone, with few Streams, with many, and reading
# Of a usual turn the tokens that come in steps of each width: a prompt is read, a reply is written, half of it alone.
MIX = {1: 64, 10: 320, 100: 400, 512: 512}
_COLD = 1 << 25  # bytes of weights that are gone through in turn, so that they come from memory, as in a step
_LEAST = 3  # times that each product is computed, and for
_SECONDS = 0.02  # at least
_OUTPUTS = 128  # of a layer, at most: all of a 7B model's, with their products, took 44 s of its first start
_KIND = "rates"

Shape = tuple[int, int]  # outputs, inputs


class Rate(NamedTuple):
    """Of steps of `width` rows: billions of multiplications a second, by the kernels and by torch in fp32."""

    width: int
    ours: float
    torch: float


@torch.inference_mode()
def measured(shapes: Sequence[Shape], formats: Sequence[int], widths: Sequence[int] = WIDTHS) -> dict[int, list[Rate]]:
    """The rates of each of `native`'s formats, on random weights of these shapes, on one core.

    On several, threads wait for each other: where another program has a core at this moment, which says nothing of
    later, that would be measured instead. What one thread spends is counted while it runs.

    Raises:
        RunError: the kernels cannot be compiled here.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured(shapes, formats, widths)
    finally:
        torch.set_num_threads(threads)


def _measured(shapes: Sequence[Shape], formats: Sequence[int], widths: Sequence[int]) -> dict[int, list[Rate]]:
    make = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=make) for shape in shapes]
    given = {n: [torch.randn(n, inputs, generator=make) for _, inputs in shapes] for n in widths}
    work = sum(outputs * inputs for outputs, inputs in shapes) / 1e9
    plain = _many(weights)
    found: dict[int, list[Rate]] = {}
    for format in formats:
        packed = _many([native.pack(w, format) for w in weights])

        def ours(x: Tensor, weight: Tensor, outputs: int, format: int = format) -> Tensor:
            return native.multiply(x, weight, None, format, outputs)

        def theirs(x: Tensor, weight: Tensor, outputs: int) -> Tensor:
            return nn.functional.linear(x, weight)

        found[format] = []
        for n in widths:
            mine, other = _seconds(ours, given[n], packed, shapes), _seconds(theirs, given[n], plain, shapes)
            found[format].append(Rate(n, n * work / mine, n * work / other))
    return found


def _many(weights: list[Tensor]) -> list[list[Tensor]]:
    copies = -(-_COLD // sum(w.nbytes for w in weights))
    return [weights, *([w.clone() for w in weights] for _ in range(copies - 1))]


def _seconds(
    product: Callable[[Tensor, Tensor, int], Tensor], given: list[Tensor], weights: list[list[Tensor]],
    shapes: Sequence[Shape],
) -> float:  # fmt: skip
    """Of all products of a layer; the least, so that what else the machine does counts least."""
    times: list[float] = []
    while len(times) <= _LEAST or sum(times[1:]) < _SECONDS:  # the first one warms up
        layer = weights[len(times) % len(weights)]
        began = time.thread_time()
        for x, weight, (outputs, _) in zip(given, layer, shapes, strict=True):
            product(x, weight, outputs)
        times.append(time.thread_time() - began)
    return min(times[1:])


def pays(rates: Sequence[Rate]) -> bool:
    """Whether packed weights take less time than torch's for a usual mix of widths."""
    return sum(MIX[r.width] / r.ours for r in rates) <= sum(MIX[r.width] / r.torch for r in rates)


def packing_pays(shapes: Sequence[Shape], format: int) -> bool:
    """The same for a model with layers of these shapes, measured once on a machine and remembered."""
    shapes = [(min(outputs, _OUTPUTS), inputs) for outputs, inputs in shapes]
    key = {"shapes": [list(s) for s in shapes], "format": format, **machine()}
    held = kept(_KIND, key)
    if not isinstance(held, bool):
        held = pays(measured(shapes, [format])[format])
        keep(_KIND, key, held)
    return held
