"""Whether a GGUF file is supported, as far as its header tells. Does not import torch, so the answer is instant."""

from __future__ import annotations

from warpcortex_cli.errors import ModelError
from warpcortex_cli.gguf.config import configured
from warpcortex_cli.gguf.header import Header
from warpcortex_cli.gguf.layout import LAYOUTS
from warpcortex_cli.gguf.splits import PATTERNS

_FAMILIES = ("gpt2", "llama")
_KNOWN = "Choose another model; Llama, Mistral, Qwen2, Qwen3, Phi-3 and Gemma 2 and 3 are supported as GGUF."

KEPT = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
UNPACKED = (  # dequantized by the gguf package
    *("Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS", "IQ3_XXS", "IQ3_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "IQ1_M"),
    *("TQ1_0", "TQ2_0", "MXFP4"),
)


def check_served(header: Header) -> None:
    """Raises ModelError if a file's architecture, sizes, tokenizer or types are not supported."""
    check_architecture(header)
    check_tokenizer(header)
    if "token_embd.weight" not in header.tensors:
        raise ModelError(f"{header.name} holds no embedding, so it is not a whole model.", "Choose another file.")
    for tensor in header.tensors.values():
        if tensor.kind not in KEPT + UNPACKED:
            raise ModelError(
                f"{header.name} holds weights of type {tensor.kind}, which is not supported.",
                "Choose another file of the model.",
            )
    configured(header, lambda _: [])  # contradictions are refused here, before torch is imported


def check_architecture(header: Header) -> None:
    """Raises ModelError if the architecture is not supported."""
    kind = header.architecture
    if kind not in LAYOUTS:
        raise ModelError(f"{header.name} has the architecture {kind[:40]!r}, which is not supported.", _KNOWN)
    if header.number(f"{kind}.expert_count", 0):
        raise ModelError(f"{header.name} is a mixture of experts, which is not supported as GGUF.", _KNOWN)


def check_tokenizer(header: Header) -> None:
    """Raises ModelError if there is no tokenizer, or its kind is not supported."""
    family = header.text("tokenizer.ggml.model")
    if family not in _FAMILIES or not header.strings_in("tokenizer.ggml.tokens"):
        kind = f"a tokenizer of the kind {family[:40]!r}, which is not supported" if family else "no tokenizer"
        raise ModelError(f"{header.name} has {kind}.", "Choose another file of the model.")
    pre = header.text("tokenizer.ggml.pre")
    if family == "gpt2" and pre not in PATTERNS:
        raise ModelError(
            f"{header.name} uses the pre-tokenizer {pre[:40]!r}, which is not supported.",
            "Choose another model, or its folder with tokenizer.json.",
        )


def context(header: Header) -> int | None:
    """The context length the model was trained for, or None if the file does not say."""
    found = header.metadata.get(f"{header.text('general.architecture')}.context_length")
    return found if type(found) is int and found > 0 else None


def unpacked_types(header: Header) -> list[str]:
    """Types of the file whose levels cannot be kept."""
    return sorted({t.kind for t in header.tensors.values()} & set(UNPACKED))
