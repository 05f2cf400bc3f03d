"""What a model's own files say of sampling."""

from __future__ import annotations

import pytest
from transformers import GenerationConfig

from warpcortex_cli.prism.generation import own_sampling
from warpcortex_cli.profile import Sampling

# generation_config.json of Qwen2.5-0.5B-Instruct, Llama-3.2-1B-Instruct and SmolLM2-135M-Instruct
QWEN = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}
LLAMA = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}


def test_the_files_settings_are_the_models_own() -> None:
    assert own_sampling(GenerationConfig(**QWEN)) == Sampling(
        temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1
    )


def test_a_file_that_samples_without_top_k_has_the_one_of_transformers() -> None:
    assert own_sampling(GenerationConfig(**LLAMA)) == Sampling(temperature=0.6, top_p=0.9, top_k=50)


@pytest.mark.parametrize("config", [None, GenerationConfig(), GenerationConfig(temperature=0.7, top_p=0.5)])
def test_a_file_that_does_not_ask_for_sampling_is_greedy(config: GenerationConfig | None) -> None:
    assert own_sampling(config) == Sampling(temperature=0.0)


def test_settings_out_of_range_are_left_out() -> None:
    config = GenerationConfig(do_sample=True)
    config.temperature, config.top_p, config.repetition_penalty = -3.0, "much", 1.2
    assert own_sampling(config) == Sampling(temperature=1.0, top_k=50, repetition_penalty=1.2)
