"""Invariant 2: a River alone is the model itself, token for token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from warpcortex_cli.prism.prism import Prism, Row

PROMPT = [1, *range(40, 62)]
NEW_TOKENS = 40  # the context passes every tiny sliding window and the first capacity of nothing


def generated(model: PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    ids = model.generate(
        torch.tensor([prompt]), max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
    )  # fmt: skip
    return [int(t) for t in ids[0, len(prompt) :]]


def written(prism: Prism, prompt: list[int], count: int, chunk: int) -> list[int]:
    tail = prism.new_tail(None)
    tokens: list[int] = []
    for start in range(0, len(prompt), chunk):
        piece = prompt[start : start + chunk]
        positions = list(range(start, start + len(piece)))
        logits = prism.forward([Row(piece, positions, tail)])[0].logits
    for _ in range(count):
        assert logits is not None
        allowed = logits[0].clone()
        allowed[2] = float("-inf")  # generate's min_new_tokens forbids the end
        tokens.append(int(allowed.argmax()))
        logits = prism.forward([Row([tokens[-1]], [tail.length], tail)])[0].logits
    return tokens


@pytest.mark.parametrize("chunk", [64, 7])
def test_greedy_tokens_equal_generate(
    architecture: str,
    chunk: int,
    make_prism: Callable[[str], Prism],
    reference: Callable[[str], PreTrainedModel],
) -> None:
    expected = generated(reference(architecture), PROMPT, NEW_TOKENS)
    assert len(set(expected)) > 5, "the random model repeats itself; the test would prove little"
    assert written(make_prism(architecture), PROMPT, NEW_TOKENS, chunk) == expected


def test_all_logits_equal_the_models(
    architecture: str, make_prism: Callable[[str], Prism], reference: Callable[[str], PreTrainedModel]
) -> None:
    prism = make_prism(architecture)
    result = prism.forward([Row(PROMPT, list(range(len(PROMPT))), prism.new_tail(None), logits="all")])[0]
    with torch.inference_mode():
        out = reference(architecture)(input_ids=torch.tensor([PROMPT]), output_hidden_states=True)
    assert result.logits is not None
    torch.testing.assert_close(result.logits, out.logits[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.hidden, out.hidden_states[-1][0], rtol=1e-4, atol=1e-4)
