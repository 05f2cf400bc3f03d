"""What cannot be served is refused in a sentence that names it, before anything is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SIZES, make_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.engine.conftest import make_profile
from warpcortex_cli.engine.session import Session
from warpcortex_cli.errors import ModelError
from warpcortex_cli.prism.chat_format import ChatFormat
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import check_folder
from warpcortex_cli.prism.support import check_config


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["consolidated.safetensors"], "consolidated.safetensors"),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], "index.json is missing"),
        (["weights.safetensors"], "weights.safetensors"),
    ],
)  # fmt: skip
def test_weights_under_other_names(
    tmp_path: Path, model_folder: Callable[[str], Path], names: list[str], said: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder("llama"), folder)
    for name in names:
        shutil.copy(folder / "model.safetensors", folder / name)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=said):
        check_folder(folder, "mine")


def test_a_tokenizer_that_knows_more_than_the_model() -> None:
    tok = make_tokenizer()
    tok.add_special_tokens({"additional_special_tokens": ["<|late|>"]})
    model = AutoModelForCausalLM.from_config(LlamaConfig(**{**SIZES, "vocab_size": len(tok) - 1}))
    with pytest.raises(ModelError, match=r"<\|late\|>"):
        Prism(model, tok, "mine")


def test_a_rope_that_nobody_knows() -> None:
    config = LlamaConfig(**SIZES)
    config.rope_parameters = {"rope_type": "banana", "rope_theta": 1e4}
    with pytest.raises(ModelError, match=r"'banana' \(rope_type\)"):
        check_config(config, "mine")


def test_a_context_in_which_the_river_cannot_move() -> None:
    """It is refused where the River would come to stand beyond it; where it can move, it talks on."""

    def talking(context: int) -> Session:
        model = AutoModelForCausalLM.from_config(LlamaConfig(**{**SIZES, "max_position_embeddings": context}))
        return Session(Prism(model, make_tokenizer(), "m"), make_profile(river={"max_tokens": 24}), streams=False)

    with pytest.raises(ModelError, match=r"context of 32 tokens, and the profile .* needs"):
        talking(32)
    session = talking(160)
    session.load_notes("Mara keeps ropes: 47, brown. " * 16)
    for _ in range(2):
        list(session.send("How many ropes are there?"))
    assert session.river.past.tokens > 0


def test_why_a_template_is_not_used_is_kept() -> None:
    tok = make_tokenizer()
    for template, reason in (
        ("{% for m in messages %}{{ m['content'] }", "unexpected"),
        ({"tool_use": "{{ messages }}", "rag": "{{ messages }}"}, "no default"),
        ("{% for m in messages %}{{ m['content'] + m['content'] }}{% endfor %}", "once"),
        (None, "there is none"),
    ):
        tok.chat_template = template
        chat = ChatFormat(tok)
        assert not chat.templated and reason in chat.problem
    tok.chat_template = "{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}"
    assert ChatFormat(tok).problem == ""
