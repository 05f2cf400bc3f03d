"""Layers compiled by torch, which fuses their small operations: those are what one token waits for on a CPU.

Attention and packed weights stay operators that compiled code calls. All layers of a model share the compiled code; it
is compiled once for a single token and once for any other number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from warpcortex_cli.errors import ModelError, RunError
from warpcortex_cli.prism.fused import FusedLayer
from warpcortex_cli.prism.library import compiler, program


def compile_layers(decoder: torch.nn.Module, name: str) -> int:
    """Marks the layers of a model to be compiled on their first run, and returns how many.

    Layers served by our kernels are not compiled.

    Raises:
        ModelError: its layers are not where transformers keeps them.
    """
    import torch._inductor.config as inductor

    inductor.cpp.cxx = (None, program())  # torch would take CXX as one word
    inductor.compile_threads = 1  # each process of a compile pool would hold some hundred MB
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList):
        raise ModelError(f"the layers of {name} cannot be compiled.", "Leave --compile out.")
    plain = [layer for layer in layers if not isinstance(layer, FusedLayer)]
    for layer in plain:
        layer.compile(dynamic=True)
    return len(plain)


def warm_up(run: Callable[[int], object]) -> None:
    """Compiles by running one token, then several.

    Raises:
        RunError: nothing can be compiled here, with the reason.
    """
    try:
        for tokens in (1, 3):
            run(tokens)
    except (RuntimeError, OSError) as error:  # OSError: the compiled code cannot be written
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise RunError(
            f"the layers could not be compiled: {_reason(error)}.",
            "It takes a C++ compiler such as g++ and Python's headers; without --compile nothing is compiled.",
        ) from error


def _reason(error: Exception) -> str:
    """What went wrong, in one line; in the compiler's own words if it ran."""
    from torch._inductor.exc import InvalidCxxCompiler

    cause = getattr(error, "inner_exception", error)
    if isinstance(cause, InvalidCxxCompiler):
        return f"there is no C++ compiler {compiler()}"
    said = [line.strip() for line in str(getattr(cause, "output", cause)).splitlines() if line.strip()]
    errors = [line for line in said if "error:" in line]
    return (errors or said or [type(cause).__name__])[0].rstrip(".")
