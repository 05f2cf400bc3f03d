"""The effect of quantized weights on a model's predictions of a text.

A text is read in independent windows of 512 tokens, each beginning with BOS if the model has one; the second half of a
window is scored. `llama-perplexity --kl-divergence` does the same; `lab.peer` compares its figures with ours.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from warpcortex_cli.engine.sampling import chosen
from warpcortex_cli.errors import UsageError
from warpcortex_cli.eval.forced import scores_of
from warpcortex_cli.eval.pocket import QUESTIONS, make_case
from warpcortex_cli.eval.report import Grid
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.quantize import BITS
from warpcortex_cli.prism.source import ModelSource

WINDOW = 512  # tokens
LEAST = 16  # tokens of all texts together
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Effect:
    """The effect of a format on a text.

    Attributes:
        format: fp32, bf16, int8, int4, or file: the types of a GGUF file.
        bytes: of all weights.
        perplexity: of the text.
        greedy_agreement: the share of positions with the same most likely token as in fp32.
        kl: from fp32 to the format, in nats a token.
    """

    format: str
    bytes: int
    perplexity: float
    greedy_agreement: float
    kl: float


@dataclass(frozen=True)
class Window:
    """Tokens of one window; predictions are scored from index `first` on."""

    ids: list[int]
    first: int


def windows(prism: Prism, text: str) -> list[Window]:
    """The windows of a text. A shorter text is one window; a remainder after the last full one is dropped."""
    begin = prism.tokenizer.bos_token_id
    adds = begin is not None and prism.tokenizer("a").input_ids[:1] == [begin]
    ids = prism.encode(text)
    ids = ids[1:] if adds and ids[:1] == [begin] else ids
    size = max(1, min(WINDOW, prism.max_context, len(ids)))
    whole = [ids[start : start + size] for start in range(0, len(ids) - size + 1, size)]
    if adds:  # replaces the first token, as in llama.cpp
        whole = [[begin, *some[1:]] for some in whole]
    return [Window(some, size // 2) for some in whole]


def conversations(n: int, seed: int) -> list[str]:
    """Texts of pocket's world: notes, a question, and the right answer."""
    rng = random.Random(seed)
    kinds = list(QUESTIONS)
    cases = [make_case(kinds[i % len(kinds)], 12, rng) for i in range(n)]
    return [f"{c.notes}\n\n{c.question}\n{c.value}" for c in cases]


def formats(source: ModelSource) -> list[str]:
    """The formats that a model can be loaded in, besides fp32."""
    return [*BITS, *(["file"] if getattr(source, "format", "") == "gguf" else [])]


def run(
    source: ModelSource, texts: Sequence[str], kinds: Sequence[str], progress: Progress = lambda *_: None
) -> Iterator[tuple[int, Effect]]:
    """Scored tokens and the effect of each format, fp32 first; holds one model at a time.

    Raises:
        UsageError: there is too little text.
        ModelError, MemoryLimitError, RunError: as `Prism.load`.
    """
    with tempfile.TemporaryDirectory(prefix="warpcortex-") as folder:  # log-probabilities outgrow memory
        plain = Prism.load(source, "cpu", "fp32")
        some = [w for text in texts for w in windows(plain, text)]
        if sum(len(w.ids) for w in some) < LEAST:
            raise UsageError("the text is too short to be scored.", f"Give one of at least {LEAST} tokens.")
        tokens, total = sum(len(w.ids) - 1 - w.first for w in some), len(some) * (1 + len(kinds))

        def scored(prism: Prism, turn: int) -> Iterator[tuple[Path, Tensor, Tensor]]:
            for number, window in enumerate(some):
                ids = torch.tensor(window.ids[window.first + 1 :])
                yield Path(folder) / f"{number}.pt", scores_of(prism, window.ids)[window.first : -1], ids
                progress(turn * len(some) + number + 1, total)

        nll = 0.0
        for path, scores, ids in scored(plain, 0):
            torch.save(scores, path)
            nll -= float(chosen(scores, ids.tolist()).sum())
        yield tokens, Effect("fp32", plain.parameter_bytes, math.exp(nll / tokens), 1.0, 0.0)
        del plain
        for turn, kind in enumerate(kinds, 1):
            prism = Prism.load(source, "cpu", quantize=kind)
            nll, kl, same = 0.0, 0.0, 0
            for path, scores, ids in scored(prism, turn):
                exact = torch.load(path)
                nll -= float(chosen(scores, ids.tolist()).sum())
                kl += float((exact.exp() * (exact - scores)).sum(dtype=torch.float64))
                same += int((exact.argmax(1) == scores.argmax(1)).sum())
            yield tokens, Effect(kind, prism.parameter_bytes, math.exp(nll / tokens), same / tokens, kl / tokens)
            del prism


def as_json(model: str, results: Sequence[tuple[int, Effect]]) -> dict[str, Any]:
    """The result of `--json`."""
    tokens = results[0][0] if results else 0
    return {"schema_version": 1, "model": model, "tokens": tokens, "results": [asdict(e) for _, e in results]}


def grid(model: str, results: Sequence[tuple[int, Effect]]) -> Grid:
    """The result as a table."""
    title = f"{model}, {results[0][0] if results else 0} tokens scored"
    rows = tuple(
        (e.format, f"{e.bytes / 2**20:.1f}", f"{e.perplexity:.3f}", f"{e.greedy_agreement:.2%}", f"{e.kl:.5f}")
        for _, e in results
    )
    return Grid(title, ("weights", "MiB", "perplexity", "greedy agreement", "KL, nats a token"), rows)
