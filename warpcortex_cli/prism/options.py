"""How a model is loaded: the values of `--device`, `--dtype`, `--quantize` and `--compile`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LoadOptions:
    """The options of loading, as one value for all commands.

    Attributes:
        device: auto, cpu, cuda[:n] or mps.
        dtype: auto, fp32, bf16 or fp16.
        quantize: none, bf16, int8, int4, or file for the weights of a GGUF file as they are. auto is chosen for a model
            by `load.choose_quantize`.
        compiled: whether to compile layers that our kernels do not serve, which takes from seconds to a minute.
    """

    device: str = "auto"
    dtype: str = "auto"
    quantize: str = "none"
    compiled: bool = False


USUAL = LoadOptions()
