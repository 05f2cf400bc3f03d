"""Layers compiled by torch: their small operations become a few kernels, which is what one token waits for on a CPU.

Attention and packed weights stay what they are: operators that compiled code calls. All layers of a model share what is
compiled, once for a single token and once for any other number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from warpcortex_cli.errors import ModelError, RunError
from warpcortex_cli.prism.fused import FusedLayer
from warpcortex_cli.prism.library import compiler, program


def compile_layers(decoder: torch.nn.Module, name: str) -> int:
    """Marks the layers of a model to be compiled when they first run; returns how many are.

    Those that are a kernel of ours already stay what they are.

    Raises:
        ModelError: it keeps its layers elsewhere than models of transformers do.
    """
    import torch._inductor.config as inductor

    inductor.cpp.cxx = (None, program())  # it takes CXX for one word
    inductor.compile_threads = 1  # a pool of compiling processes would hold some hundred MB each
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList):
        raise ModelError(f"the layers of {name} cannot be compiled.", "Leave --compile out.")
    plain = [layer for layer in layers if not isinstance(layer, FusedLayer)]
    for layer in plain:
        layer.compile(dynamic=True)
    return len(plain)


def warm_up(run: Callable[[int], object]) -> None:
    """Compiles by running one token, and some.

    Raises:
        RunError: nothing can be compiled here, with the reason.
    """
    try:
        for tokens in (1, 3):
            run(tokens)
    except (RuntimeError, OSError) as error:  # the latter where what was compiled cannot be written
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise RunError(
            f"the layers could not be compiled: {_reason(error)}.",
            "It takes a C++ compiler such as g++ and Python's headers; without --compile nothing is compiled.",
        ) from error


def _reason(error: Exception) -> str:
    """What went wrong in one line, in the compiler's own words where it ran."""
    from torch._inductor.exc import InvalidCxxCompiler

    cause = getattr(error, "inner_exception", error)
    if isinstance(cause, InvalidCxxCompiler):
        return f"there is no C++ compiler {compiler()}"
    said = [line.strip() for line in str(getattr(cause, "output", cause)).splitlines() if line.strip()]
    errors = [line for line in said if "error:" in line]
    return (errors or said or [type(cause).__name__])[0].rstrip(".")
