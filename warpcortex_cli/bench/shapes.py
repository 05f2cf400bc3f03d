"""Models of a known shape with random weights: memory and speed do not depend on the values."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from warpcortex_cli.errors import UsageError
from warpcortex_cli.prism.load import check_room, choose_device, choose_dtype, name_of, packs_bf16
from warpcortex_cli.prism.options import USUAL, LoadOptions
from warpcortex_cli.prism.prism import Prism

# From the models' config.json on the hub.
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen2.5-0.5B": {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
    "Qwen2.5-1.5B": {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
    "Llama-3.2-1B": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
    },
    "SmolLM2-135M": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
}
_TEMPLATE = (
    "{%- for m in messages -%}<|{{ m['role'] }}|> {{ m['content'] }} <|end|> {% endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|> {% endif -%}"
)


def random_prism(shape: str, options: LoadOptions = USUAL, seed: int = 0) -> Prism:
    """A Prism of this shape. Its vocabulary is `w0`, `w1`, ...

    Args:
        shape: one of `SHAPES`, in any case; treated as published in bf16.
        options: as for a published model.

    Raises:
        UsageError: there is no such shape.
        MemoryLimitError: it does not fit.
    """
    known = {name.lower(): name for name in SHAPES}
    name = known.get(shape.lower())
    if name is None:
        raise UsageError(f"there is no shape {shape!r}.", f"Shapes are {', '.join(SHAPES)}.")
    return made(name, SHAPES[name], options, seed)


def made(name: str, shape: dict[str, Any], options: LoadOptions = USUAL, seed: int = 0) -> Prism:
    """The same for sizes as in `SHAPES`."""
    config = AutoConfig.for_model(**shape, eos_token_id=1, pad_token_id=0, bos_token_id=None)
    target, quantize, dtype = choose_device(options.device), options.quantize, options.dtype
    if quantize == "auto":
        quantize = "bf16" if packs_bf16(options) else "none"
    number = torch.bfloat16 if dtype == "auto" and quantize != "none" else choose_dtype(dtype, target)
    check_room(name, _parameters(config) * number.itemsize, target, f"in {name_of(number)}")
    torch.manual_seed(seed)
    with torch.device(target):
        model = AutoModelForCausalLM.from_config(config, dtype=number, attn_implementation="eager")
    tokenizer = _tokenizer(config.vocab_size)
    return Prism(model, tokenizer, f"{name} (random weights)", quantize, options.compiled, choose_dtype(dtype, target))


def _parameters(config: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())


def _tokenizer(size: int) -> PreTrainedTokenizerFast:
    words = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    vocabulary = {word: i for i, word in enumerate([*words, *(f"w{i}" for i in range(len(words), size))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w5"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.add_special_tokens({"additional_special_tokens": words[2:]})
    fast.chat_template = _TEMPLATE
    return fast
