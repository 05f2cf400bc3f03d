"""A River of random weights whose babble triggers Streams: the real engine, with nothing trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM

from warpcortex_cli.engine.session import Session
from warpcortex_cli.events import Event
from warpcortex_cli.lab.pocket import tokenizer
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.profile import Profile

QUESTION = (
    "Mara keeps ropes: 47, brown, in the old mill. The lamps of Otto: 12, red, at the barn.\n\n"
    "How many ropes does Mara have?"
)


@pytest.fixture(scope="session")
def prism(tmp_path_factory) -> Prism:
    """A tiny random Qwen2. Its tokenizer is a file: built anew, it would change with whatever pocket learns from, and
    with it what the model babbles, which these tests are about."""
    file = Path(__file__).with_name("tokenizer.json")
    tok = tokenizer.save(Tokenizer.from_file(str(file)), tmp_path_factory.mktemp("tok"))
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=tokenizer.VOCAB_SIZE,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.4,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    return Prism(Qwen2ForCausalLM(config).float(), tok, "random")


def make_profile(trigger: str = r"(?P<task>[a-z]{4})", **changes) -> Profile:
    """A profile whose role fires on any four letters, so that random text starts Streams."""
    role = {
        "name": "helper",
        "description": "thinks at random",
        "trigger": trigger,
        "prompt": "help: {task}",
        "max_tokens": 8,
        **changes.pop("role", {}),
    }
    settings = {
        "name": "test",
        "description": "for tests",
        "river": {"max_tokens": 40},
        "roles": [role],
        "synapse": {"landmarks": 24, "focus": 16},
        "gate": {"mode": "off"},
        "limits": {"streams": 4, "stream_tail_tokens": 64},
    }
    return Profile.model_validate({**settings, **changes})


def run(session: Session, text: str = QUESTION) -> list[Event]:
    return list(session.send(text))
