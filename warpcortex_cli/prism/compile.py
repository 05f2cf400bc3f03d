"""Layers compiled by torch: their small operations become a few kernels, which is what one token waits for on a CPU.

Attention and packed weights stay what they are: operators that compiled code calls. All layers of a model share what is
compiled, once for a single token and once for any other number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from warpcortex_cli.errors import ModelError, RunError


def compile_layers(decoder: torch.nn.Module, name: str) -> None:
    """Marks the layers of a model to be compiled when they first run.

    Raises:
        ModelError: it keeps its layers elsewhere than models of transformers do.
    """
    import torch._inductor.config as inductor

    inductor.compile_threads = 1  # a pool of compiling processes would hold some hundred MB each
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList):
        raise ModelError(f"the layers of {name} cannot be compiled.", "Leave --compile out.")
    for layer in layers:
        layer.compile(dynamic=True)


def warm_up(run: Callable[[int], object]) -> None:
    """Compiles by running one token, and some.

    Raises:
        RunError: nothing can be compiled here, with the reason.
    """
    try:
        for tokens in (1, 3):
            run(tokens)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RunError(
            f"the layers could not be compiled: {reason}.",
            "It takes a C++ compiler such as g++ and Python's headers; without --compile nothing is compiled.",
        ) from error
