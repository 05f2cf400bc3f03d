"""The River's past: tokens that left its tail, in blocks of 32, and its working set, the part that is read again.

The layout of positions is fixed: the first tokens (a system prompt) stand at 0, 1, ..., recalled tokens end just before
`base`, and the tail begins there. So a River of any length stays within the positions that its model knows, and the
tokens that a step attends to are bounded by the sum of the three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warpcortex_cli.engine.heads import calibrated
from warpcortex_cli.engine.index import SentenceIndex, in_blocks
from warpcortex_cli.engine.text import Sentences
from warpcortex_cli.memory.fingerprints import Fingerprints
from warpcortex_cli.memory.log import DamagedError
from warpcortex_cli.memory.segment import KVLayout, Segment, join
from warpcortex_cli.memory.store import BLOCK, BareError, BlockStore, Budgets, Plain
from warpcortex_cli.memory.tail import Tail
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row
from warpcortex_cli.profile import MemorySettings
from warpcortex_cli.synapse.focus import SINKS, found_in_tail
from warpcortex_cli.synapse.worth import Spans, choose

_BEFORE = 64  # tokens before a bare or damaged block that are read again with it
_Read = TypeVar("_Read")


class Past:
    """Tokens that the River no longer holds in its tail.

    Args:
        prism: the model.
        settings: budgets.
        sentences: of the whole River; it grows with it.

    Attributes:
        tokens: how many tokens are in blocks; also the number of the tail's first token.
        base: the position at which the tail begins; 0 while nothing is in blocks.
        recalled: the tokens that are recalled now, ascending.
        brought: all tokens that were recalled since the turn began.
        anew: numbers of damaged blocks that were recomputed.
    """

    def __init__(self, prism: Prism, settings: MemorySettings, sentences: Sentences) -> None:
        self._prism = prism
        self._adapter: str | None = None  # that the River is computed with
        self.sentences = sentences
        self.budget = _recalled(prism, settings)
        self.store = BlockStore(prism.layout, settings.stored, _budgets(settings, self.budget, prism.layout))
        self.index = SentenceIndex(sentences)
        self.fingerprints = Fingerprints(prism.layers, prism.heads, prism.kv_heads, prism.head_dim)
        self.tokens = 0
        self.base = 0
        self.pinned = 0
        self.recalled: list[int] = []
        self.brought: set[int] = set()
        self.anew: list[int] = []
        self._working: Segment | None = None

    # -- what goes in -------------------------------------------------------------------------------------------

    def begin(self, opening: int) -> None:
        """Fixes the layout when the first tokens leave the tail. `opening`: tokens of the system prompt."""
        self.pinned = min(max(SINKS, opening), self._prism.max_context // 8)
        self.base = self.pinned + self.budget
        self.fingerprints = calibrated(self._prism)

    def use(self, settings: MemorySettings, adapter: str | None = None) -> None:
        """Applies budgets, and the format of blocks stored from now on. Call `lay_out` next."""
        self._adapter = adapter
        self.budget = _recalled(self._prism, settings)
        self.store.change(settings.stored, _budgets(settings, self.budget, self._prism.layout))

    def lay_out(self) -> int:
        """Fits the layout to the budget, which may have changed since the first tokens left the tail.

        Returns:
            By how many positions the tail has to move.
        """
        if not self.tokens:
            return 0
        before, self.base = self.base, self.pinned + self.budget
        if len(self.recalled) > self.budget:
            self.recall([])
        if self.base != before:
            self._working = None
        return self.base - before

    @torch.inference_mode()
    def take(self, tail: Tail, tokens: int) -> tuple[Tail, int]:
        """Moves the first `tokens` of the tail, whole blocks, to the store.

        Returns:
            A tail of the remaining tokens, and by how many positions they were moved. The old tail is not changed:
            somebody may be reading it.
        """
        rope, layers = self._prism.rope, range(self._prism.layers)
        leaving = tail.freeze(0, tokens)
        plain = rope.unrotated(leaving.keys, leaving.positions)
        first = self.tokens // BLOCK
        for number in range(tokens // BLOCK):
            part = slice(number * BLOCK, (number + 1) * BLOCK)
            keys, values = [k[:, part] for k in plain], [leaving.values[i][:, part] for i in layers]
            self.store.put(first + number, keys, values)
        fingerprints = self.fingerprints.of_blocks(plain, BLOCK)
        del leaving, plain
        by = self.base - (int(tail.positions[tokens]) if tail.length > tokens else self.base)
        rest = tail.without(tokens, rope, by)
        self.fingerprints.extend(fingerprints)
        self.tokens += tokens
        self._working = None
        self.store.tidy()
        return rest, by

    @torch.inference_mode()
    def give_back(self, tail: Tail, length: int, window: int) -> None:
        """Makes the tail end before token `length`, which is in a block: the blocks before it return to the tail."""
        start = max(0, length - window) // BLOCK * BLOCK
        positions = torch.arange(length - start, device=self._prism.device) + (self.base if start else 0)
        tail.truncate(0)
        if length > start:
            found = self.gather(list(range(start, length)), positions)
            tail.append(list(found.keys), list(found.values), positions)
        self.tokens = start
        self.store.truncate(start // BLOCK)
        self.fingerprints.truncate(start // BLOCK)
        if not start:
            self.base = self.pinned = 0
        self.recall([t for t in self.recalled if t < start])

    # -- what comes back ----------------------------------------------------------------------------------------

    def look_for(
        self,
        words: Iterable[int],
        queries: Sequence[Tensor] | None,
        budget: int,
        among: range,
        least: float = 0.0,
        tail: Tail | None = None,
    ) -> list[int]:
        """Tokens of the sentences that share the rare words, and that the queries look for, ascending.

        Args:
            words: numbers of words.
            queries: unrotated, per layer [heads, W, head_dim].
            budget: tokens to choose at most.
            among: sentences that lie within these tokens may be chosen.
            least: a sentence that shares less than this part of what the best one shares is left out.
            tail: the River's, where `among` reaches beyond what is stored.
        """
        if budget <= 0:
            return []
        spans = self.index.spans(among, budget)
        found = None if queries is None or not len(spans) else self._found(queries, spans, tail)
        return choose(spans, self.index.worth(spans, words, found, least), budget)

    def _found(self, queries: Sequence[Tensor], spans: Spans, tail: Tail | None) -> NDArray[np.float32]:
        """What queries find in spans: in stored ones by fingerprints, in those of the tail by its keys.

        Both are squared standard deviations above the usual, so they can be compared.
        """
        found = np.zeros(len(spans), np.float32)
        if len(self.fingerprints):
            found = in_blocks(self.fingerprints.scores(queries), spans, BLOCK)
        first = int(np.searchsorted(spans.ends, self.tokens, side="right"))
        if tail is not None and first < len(spans):
            fingerprints = self.fingerprints if self.tokens else calibrated(self._prism)
            starts = np.maximum(spans.starts[first:] - self.tokens, 0)
            ends = torch.from_numpy(spans.ends[first:] - self.tokens)
            found[first:] = found_in_tail(self._prism, fingerprints, tail, queries, int(starts[0]), ends).numpy()
        return found

    def recall(self, tokens: list[int]) -> None:
        """Makes these stored tokens the recalled ones, instead of those before."""
        self.brought.update(tokens)
        if tokens != self.recalled:
            self.recalled, self._working = tokens, None
            self.store.tidy()

    def working(self) -> tuple[Segment, ...]:
        """The first tokens and the recalled ones, at their compacted positions; empty while nothing is stored."""
        if not self.tokens:
            return ()
        if self._working is None:
            pinned = range(min(self.pinned, self.tokens))
            back = [t for t in self.recalled if t not in pinned]
            device = self._prism.device
            parts = [self.gather(list(pinned), torch.arange(len(pinned), device=device))]
            if back:
                parts.append(self.gather(back, torch.arange(self.base - len(back), self.base, device=device)))
            self._working = join(parts)
        return (self._working,)

    @torch.inference_mode()
    def gather(self, tokens: list[int], positions: Tensor) -> Segment:
        """Stored tokens, ascending, rotated for `positions` [n]."""
        keys: list[list[Tensor]] = [[] for _ in range(self._prism.layers)]
        values: list[list[Tensor]] = [[] for _ in range(self._prism.layers)]
        for number, some in groupby(tokens, lambda t: t // BLOCK):
            places = torch.tensor([t % BLOCK for t in some], device=self._prism.device)
            block = self._block(number)
            for layer in range(self._prism.layers):
                keys[layer].append(block[0][layer][:, places])
                values[layer].append(block[1][layer][:, places])
        turned = self._prism.rope.turn([torch.cat(k, 1) for k in keys], positions)
        return Segment(tuple(turned), tuple(torch.cat(v, 1) for v in values), positions)

    def _block(self, number: int) -> Plain:
        return self._mended(self.store.get, number)

    def _mended(self, read: Callable[[int], _Read], number: int) -> _Read:
        """The result of `read` for a block, which is recomputed first if it is bare, damaged or lost."""
        try:
            return read(number)
        except BareError:
            pass
        except (DamagedError, KeyError):
            self.anew.append(number)
        self.store.put(number, *self._computed(number))
        return read(number)

    def _computed(self, number: int) -> tuple[list[Tensor], list[Tensor]]:
        """A block recomputed from its tokens and a few before them. It no longer attends to anything earlier."""
        start = max(0, number * BLOCK - _BEFORE)
        ids = list(self.sentences.ids[start : (number + 1) * BLOCK])
        tail = self._prism.new_tail(len(ids))
        positions = list(range(self.base, self.base + len(ids)))
        self._prism.forward([Row(ids, positions, tail, logits="none", adapter=self._adapter)])
        found = tail.freeze(number * BLOCK - start, len(ids))
        tail.release()
        return self._prism.rope.unrotated(found.keys, found.positions), list(found.values)

    def reasons(self, asked: Iterable[int]) -> list[tuple[str, list[str]]]:
        """The sentences recalled since the turn began, and the rare words that each shares with what was asked.

        Sentences that share the most words come first.
        """
        rare = {w for w in asked if self.index.tells_apart(w)}
        sentences = self.sentences
        found: list[tuple[str, list[str]]] = []
        for _, some in groupby(sorted(self.brought), lambda t: sentences.numbers[t]):
            tokens = list(some)
            shared: dict[int, list[int]] = {}
            for token in tokens:
                word = sentences.words.numbers[token]
                if word in rare:
                    shared.setdefault(word, []).append(sentences.ids[token])
            text = " ".join(sentences.lines(tokens))
            if text:
                words = (self._prism.decode(ids).strip() for ids in shared.values())
                found.append((text, [word for word in words if word]))
        return sorted(found, key=lambda f: -len(f[1]))

    # -- on disk ------------------------------------------------------------------------------------------------

    def packed(self) -> Iterator[tuple[int, bytes]]:
        """All blocks as they go to disk, in order; bare ones are empty, damaged ones are recomputed."""
        left_out = self.store.left_out()
        for number in range(self.tokens // BLOCK):
            yield number, b"" if number in left_out else self._mended(self.store.packed, number)

    def take_up(self, tokens: int, base: int, pinned: int, fingerprints: bytes) -> int:
        """Restores a stored past into an empty one. Its blocks are in the store already.

        Returns:
            The number of blocks whose fingerprints were stored. The others are computed from the blocks.
        """
        self.tokens, self.base, self.pinned = tokens, base, pinned
        if tokens:
            self.fingerprints = calibrated(self._prism)
        rows = np.frombuffer(fingerprints, np.uint64).reshape(-1, self.fingerprints.bytes_per_block // 8)
        self.fingerprints.extend(rows)
        for number in range(len(rows), tokens // BLOCK):
            self.fingerprints.extend(self.fingerprints.of_blocks(self._block(number)[0], BLOCK))
        return len(rows)

    def truncate(self, length: int) -> None:
        """Removes tokens from number `length` on from the index. Call it before they are gone."""
        self.index.truncate(length)

    def close(self) -> None:
        self.store.close()


def _recalled(prism: Prism, settings: MemorySettings) -> int:
    """How many tokens can be recalled at once."""
    return min(settings.recall, prism.max_context // 4)


def _budgets(settings: MemorySettings, recall: int, layout: KVLayout) -> Budgets:
    """Bytes of each tier, if `recall` tokens are recalled at once."""
    hot, cold = settings.hot_mb, settings.cold_mb
    return Budgets(
        hot=(2 * recall + 2 * BLOCK) * layout.bytes_per_token if hot is None else hot << 20,
        warm=settings.warm_mb << 20,
        cold=None if cold is None else cold << 20,
    )
