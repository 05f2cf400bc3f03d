"""What reading the model's KV costs a Stream with a LoRA adapter:

    python -m warpcortex_cli.eval.adapted --text FILE

A Synapse holds KV that the River computed with the model, or with its own adapter; a Stream with another adapter reads
it although it would have computed other keys and values. Here a text is read in windows of 512 tokens. The second half
of each is read with the adapter, over several forms of the first half. The reference is the form that the adapter
computed itself, in full: `kl` is the divergence from its distribution, in nats a token, and `same` how often the
likeliest token agrees. Without --adapter, random adapters of several sizes show how the cost grows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from warpcortex_cli.bench.adapters import write_adapter
from warpcortex_cli.engine.river import QUERY_WINDOW
from warpcortex_cli.eval.quantized import WINDOW, windows
from warpcortex_cli.memory.segment import Segment
from warpcortex_cli.memory.tail import Tail
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.quantize import FORMATS
from warpcortex_cli.prism.rows import Row
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import SynapseSettings
from warpcortex_cli.synapse.snapshot import take

OWN, MODEL, OWN_SYNAPSE, SYNAPSE, REREAD, NOTHING, PLAIN = (
    "all of it, read by the adapter",
    "all of it, read by the model",
    "{} landmarks, read by the adapter",
    "{} landmarks, read by the model",
    "the same, and its last {} tokens read again as text",
    "nothing",
    "all of it, and no adapter at all",
)


class Reading:
    """A window of text: its first half as context, and the rest, which is scored."""

    def __init__(self, prism: Prism, ids: Sequence[int], first: int) -> None:
        self._prism, self._ids, self._first = prism, list(ids), first

    def past(self, adapter: str | None) -> tuple[Tail, Tensor]:
        """The first half's KV and the queries of its last tokens."""
        tail, at = self._prism.new_tail(self._first), list(range(self._first))
        row = Row(self._ids[: self._first], at, tail, logits="none", queries=True, adapter=adapter)
        queries = self._prism.forward([row])[0].queries
        assert queries is not None
        return tail, queries[:, :, -QUERY_WINDOW:]

    def landmarks(self, past: tuple[Tail, Tensor], count: int) -> Segment:
        return take(self._prism, past[0], SynapseSettings(landmarks=count), past[1], 1).segment

    def scores(self, adapter: str | None, reads: Sequence[Segment], begin: int) -> Tensor:
        """Log-probabilities [tokens, vocabulary] of the second half; reading starts at token `begin`."""
        ids, at = self._ids[begin:], list(range(begin, len(self._ids)))
        row = Row(ids, at, self._prism.new_tail(len(ids)), tuple(reads), logits="all", adapter=adapter)
        logits = self._prism.forward([row])[0].logits
        assert logits is not None
        return torch.log_softmax(logits[self._first - begin : -1].float(), -1)

    def by_form(self, adapter: str, count: int, again: int) -> Iterator[tuple[str, Tensor]]:
        """The scores with each form of the first half; the first form is the exact one."""
        own, plain, half = self.past(adapter), self.past(None), self._first
        synapse = self.landmarks(plain, count)
        yield OWN, self.scores(adapter, [own[0].freeze(0, half)], half)
        yield MODEL, self.scores(adapter, [plain[0].freeze(0, half)], half)
        yield OWN_SYNAPSE.format(count), self.scores(adapter, [self.landmarks(own, count)], half)
        yield SYNAPSE.format(count), self.scores(adapter, [synapse], half)
        yield REREAD.format(again), self.scores(adapter, [synapse], half - again)
        yield NOTHING, self.scores(adapter, [], half)
        yield PLAIN, self.scores(None, [plain[0].freeze(0, half)], half)


def measured(
    prism: Prism, adapter: str, texts: Sequence[Reading], count: int, again: int
) -> dict[str, tuple[float, float]]:
    """For each form of the first half: KL in nats a token, and the share of tokens with the same likeliest one."""
    found: dict[str, list[tuple[float, float]]] = {}
    for reading in texts:
        exact: Tensor | None = None
        for name, scores in reading.by_form(adapter, count, again):
            exact = scores if exact is None else exact
            kl = float((exact.exp() * (exact - scores)).sum(1).mean())
            same = float((exact.argmax(1) == scores.argmax(1)).float().mean())
            found.setdefault(name, []).append((kl, same))
    return {name: (fmean(kl for kl, _ in some), fmean(same for _, same in some)) for name, some in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2", help="as any command takes it")
    parser.add_argument("--quantize", default="bf16", choices=["none", *FORMATS])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--adapter", action="append", help="a folder in PEFT's format; may be repeated")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--landmarks", type=int, default=64)
    parser.add_argument("--again", type=int, default=64, help="last tokens to read again as text")
    args = parser.parse_args()
    prism = Prism.load(resolve_model(args.model), "cpu", "auto", args.quantize)
    some = windows(prism, args.text.read_text(encoding="utf-8"))[: args.windows]
    texts = [Reading(prism, window.ids, window.first) for window in some]
    print(f"{prism.name}, {args.quantize}: {len(texts)} windows of {WINDOW} tokens of {args.text.name}\n")
    with TemporaryDirectory() as made:
        adapters = {Path(folder).name: folder for folder in args.adapter or []}
        if not adapters:
            for number, size in enumerate((0.02, 0.04, 0.08)):
                adapters[f"random, {size}"] = str(Path(made) / str(number))
                write_adapter(prism, Path(made) / str(number), rank=8, seed=number, size=size)
        columns = {
            name: measured(prism, folder, texts, args.landmarks, args.again) for name, folder in adapters.items()
        }
    print(f"| what it knows of what was before | {' | '.join(f'{n}: kl | same' for n in columns)} |")
    print(f"|{'---|' * (1 + 2 * len(columns))}")
    for form in next(iter(columns.values())):
        cells = " | ".join(f"{kl:.3f} | {same:.1%}" for kl, same in (column[form] for column in columns.values()))
        print(f"| {form} | {cells} |")


if __name__ == "__main__":
    main()
