"""Compiled layers: the same output, out of code that is compiled once for all layers and any number of rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor.exc import CppCompileError, InductorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from warpcortex_cli.errors import RunError
from warpcortex_cli.prism import crowding
from warpcortex_cli.prism.compile import warm_up
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row

TOKENS = [5, 9, 40, 7, 23, 90, 11, 60]


def opened(folder: Path, quantize: str, compiled: bool) -> Prism:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return Prism(model, AutoTokenizer.from_pretrained(folder), folder.name, quantize, compiled)


def read(prism: Prism, agents: int) -> list[torch.Tensor]:
    """Logits, and queries, of a River that read some tokens and goes on beside `agents` Streams, which read its first.

    The queries are what landmarks, focus sets and recall are chosen by.
    """
    river = prism.new_tail(64)
    found = prism.forward([Row(TOKENS, list(range(len(TOKENS))), river, logits="all", queries=True)])
    shared = river.freeze(0, 4)
    # Of other tokens one value lies where a difference in the last bit rounds it to another bfloat16.
    rows = [Row([30 + i], [4], prism.new_tail(8), (shared,)) for i in range(agents)]
    found += prism.forward([Row([7], [len(TOKENS)], river, queries=True), *rows])
    return [part for r in found for part in (r.logits, r.queries) if part is not None]


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> None:
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.parametrize(
    ("architecture", "kinds", "quantize"),
    [("gemma3", 2, "none"), ("granite", 1, "int8"), ("qwen2", 0, "int8")],  # the last is a kernel already
)
def test_the_output_is_the_same(
    architecture: str, kinds: int, quantize: str, model_folder: Callable[[str], Path]
) -> None:
    folder = model_folder(architecture)
    plain, compiled = (opened(folder, quantize, c) for c in (False, True))
    graphs = counters["stats"]["unique_graphs"]
    assert graphs == 2 * kinds  # for one token and for more; not for each of the layers
    for agents in (0, 1, 2, 6):
        for mine, theirs in zip(read(compiled, agents), read(plain, agents), strict=True):
            torch.testing.assert_close(mine, theirs, atol=2e-4 if quantize == "none" else 2e-2, rtol=0)
    assert counters["stats"]["unique_graphs"] == graphs  # whatever the number of rows


def test_a_failed_compilation_is_reported(model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv("CXX", "no-such-compiler")
    # The first as torch takes it from CXX at its start. By torch's own patch: what pytest undoes on an option that
    # has another name elsewhere stays hidden, and nothing compiles any more.
    with (
        inductor.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}),
        pytest.raises(RunError, match=r"could not be compiled: there is no C\+\+ compiler no-such-compiler\."),
    ):
        opened(model_folder("qwen2"), "none", True)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            InductorError(CppCompileError(["g++"], "In file a.cpp:\na.cpp:1: error: no Python.h.\n"), None),
            "a.cpp:1: error: no Python.h.",
        ),
        (
            InductorError(PermissionError(13, "Permission denied", "/cache"), None),
            "[Errno 13] Permission denied: '/cache'.",
        ),
        (NotADirectoryError(20, "Not a directory", "/file/x"), "[Errno 20] Not a directory: '/file/x'."),
        (RuntimeError(), "RuntimeError."),
    ],
)
def test_the_reason_is_one_line(error: Exception, said: str) -> None:
    def run(tokens: int) -> None:
        raise error

    with pytest.raises(RunError) as told:
        warm_up(run)
    assert str(told.value).startswith(f"the layers could not be compiled: {said} It takes a C++ compiler")


def test_the_number_of_threads_stays_for_compiled_layers(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be compiled anew for another one, in the middle of a reply."""
    looked: list[bool] = []
    monkeypatch.setattr(crowding, "follows", lambda: True)
    monkeypatch.setattr(crowding, "look", lambda: looked.append(True))
    for compiled in (True, False):
        prism = opened(model_folder("qwen2"), "int8", compiled)
        looked.clear()
        read(prism, 0)
        assert bool(looked) == (not compiled)
