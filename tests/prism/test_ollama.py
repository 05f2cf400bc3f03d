"""The parameters of a model of Ollama are its own sampling: what nobody else sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import make_profile
from tests.gguf.files import write_model
from warpcortex_cli import events as ev
from warpcortex_cli.engine.sampling import Sampler
from warpcortex_cli.engine.session import Session
from warpcortex_cli.errors import ModelError
from warpcortex_cli.prism.ollama import generation
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import Sampling

# Of llama3.2, qwen3 and gemma3 in Ollama's library
LLAMA = {"stop": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]}
QWEN = {"repeat_penalty": 1, "stop": ["<|im_start|>", "<|im_end|>"], "temperature": 0.6, "top_k": 20, "top_p": 0.95}
GEMMA = {"stop": ["<end_of_turn>"], "temperature": 1, "top_k": 64, "top_p": 0.95}

Make = Callable[[Any], Prism]


@pytest.fixture
def make(tmp_path: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Make:
    """A tiny model that Ollama has fetched, with these parameters; its file says that it samples at 0.3."""
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    model, params = ("sha256:" + letter * 64 for letter in "ab")
    (tmp_path / "blobs").mkdir()
    write_model(
        model_folder("qwen2"), tmp_path / "blobs" / model.replace(":", "-"),
        metadata={"general.sampling.temp": 0.3, "general.sampling.top_k": 7},
    )  # fmt: skip
    manifest = tmp_path / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "latest"
    manifest.parent.mkdir(parents=True)
    kinds = {"model": model, "params": params}
    layers = [{"mediaType": f"application/vnd.ollama.image.{k}", "digest": d} for k, d in kinds.items()]

    def written(said: Any) -> Prism:
        manifest.write_text(json.dumps({"layers": layers[: 1 if said is None else 2]}))
        blob = tmp_path / "blobs" / params.replace(":", "-")
        blob.write_text(said if isinstance(said, str) else json.dumps(said))
        return Prism.load(resolve_model("ollama:tiny"), "cpu", "fp32")

    return written


@pytest.mark.parametrize(
    ("said", "sampling"),
    [
        (None, Sampling(temperature=0.3, top_k=7)),
        (LLAMA, Sampling(temperature=0.3, top_k=7)),
        (QWEN, Sampling(temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.0)),
        (GEMMA, Sampling(temperature=1.0, top_k=64, top_p=0.95)),
        ({"top_p": 0.5}, Sampling(temperature=0.8, top_k=40, top_p=0.5)),  # the rest as Ollama has it
        ({"min_p": 0.1, "temperature": 1}, Sampling(temperature=1.0, top_k=40, top_p=0.9, min_p=0.1)),
        ({"temperature": True, "top_k": "40", "num_ctx": 4096}, Sampling(temperature=0.3, top_k=7)),
    ],
)
def test_parameters_are_the_models_own_sampling(make: Make, said: Any, sampling: Sampling) -> None:
    found = make(said).sampling
    for name, value in sampling:
        assert getattr(found, name) == pytest.approx(value) if value is not None else getattr(found, name) is None


def test_a_temperature_of_0_is_greedy_and_a_profile_comes_first(make: Make) -> None:
    assert Sampler.of(Sampling(), make({"temperature": 0, "top_k": 40}).sampling, 0).asks == "largest"
    own = make(QWEN).sampling
    assert Sampler.of(Sampling(temperature=0.0), own, 0).asks == "largest"
    assert Sampler.of(Sampling(top_k=3), own, 0).top_k == 3


def test_stop_texts_end_a_reply_and_control_tokens_among_them_by_number(make: Make) -> None:
    def reply(prism: Prism) -> tuple[str, str]:
        session = Session(prism, make_profile(river={"max_tokens": 30}), streams=False)
        reason = next(e.reason for e in session.send("Mara keeps ropes") if isinstance(e, ev.RiverFinished))
        return session.transcript()[-1].text, reason

    whole, _ = reply(make({"temperature": 0}))
    stop = whole[8:11]
    prism = make({"temperature": 0, "stop": [stop, "<|im_start|>"]})
    assert prism.stops == (stop,)
    assert prism.tokenizer.convert_tokens_to_ids("<|im_start|>") in prism.eos_ids
    assert reply(prism) == (whole[: whole.index(stop)], "stop")


@pytest.mark.parametrize("said", ["{", "[]", '"x"', "\x00", "[" * 100_000])
def test_broken_parameters_are_refused_in_one_sentence(make: Make, said: str) -> None:
    with pytest.raises(ModelError, match=r"ollama:tiny has broken parameters") as caught:
        make(said)
    assert caught.value.hint == "Run `ollama pull tiny` again."


def test_one_stop_text_may_be_no_list(tmp_path: Path) -> None:
    file = tmp_path / "params"
    file.write_text('{"stop": "User:"}')
    assert generation(file, "x") == {"stop_strings": ["User:"]}
    file.write_text('{"stop": [3, "", "A"]}')
    assert generation(file, "x") == {"stop_strings": ["A"]}
