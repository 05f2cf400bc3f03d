"""How a model is loaded: what `--device`, `--dtype`, `--quantize` and `--compile` say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LoadOptions:
    """One value through all commands.

    Attributes:
        device: auto, cpu, cuda[:n] or mps.
        dtype: auto, fp32, bf16 or fp16.
        quantize: none, or how weights are kept: bf16, int8, int4, or file for those of a GGUF file as they are. auto is
            what `load.choose_quantize` finds for a model.
        compiled: whether layers are compiled that are no kernels of ours already, which takes from seconds to a minute.
    """

    device: str = "auto"
    dtype: str = "auto"
    quantize: str = "none"
    compiled: bool = False


USUAL = LoadOptions()
