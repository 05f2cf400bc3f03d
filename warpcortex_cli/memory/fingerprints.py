"""Fingerprints of blocks: sign bits of their keys, by which a few queries find the blocks that they look for.

A few heads retrieve: an induction head (Olsson et al. 2022, arXiv 2209.11895) looks for earlier occurrences of the
same words. A block's fingerprint has 64 sign bits of random projections (SimHash, Charikar 2002) for each of its tokens
in each of these heads. Heads are kept apart, and a name of three tokens is not lost in a mean over 32. Which heads
these are is measured on the model itself, see `calibrate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warpcortex_cli.memory.store import BLOCK

WATCHED = 2
BITS = 64
_SEED = 20156060  # stored fingerprints can only be compared under the same projections
_CHUNK = 8192  # blocks compared at once, so that differences and counts stay in the L2 cache
_COMPARED = 7_500_000  # words of 64 bits in one search; `python -m warpcortex_cli.lab.fingerprints` prints its times
_SECOND = 1_000_000  # of these, for blocks that are compared with all queries
_SAMPLE = 512  # blocks at most in the sample that shows what distances are usual
_PRODUCTS = 1 << 22  # products held at once
_NEAR = 1  # a head may be off by this many tokens: it looks for the same token or for the one after it

Codes = NDArray[np.uint64]


class Fingerprints:
    """The fingerprints of all blocks, in order, and a search among them.

    Args:
        layers, heads, kv_heads, head_dim: the model's.
        block: tokens in a block.
        watched: how many KV heads to use, at 8 bytes a token each.

    Attributes:
        watches: these heads as (layer, KV head), the best first.
        bytes_per_block: bytes of one fingerprint.
    """

    def __init__(
        self, layers: int, heads: int, kv_heads: int, head_dim: int, block: int = BLOCK, watched: int = WATCHED
    ) -> None:
        if heads % kv_heads:
            raise ValueError(f"{heads} heads cannot share {kv_heads} KV heads")
        self._shape = layers, heads, kv_heads, head_dim
        self.block = block
        every = [(layer, head) for layer in range(layers) for head in range(kv_heads)]
        count = min(watched, len(every))
        # Spread over the layers until `calibrate` finds the good ones.
        self.watches = [every[(2 * i + 1) * len(every) // (2 * count)] for i in range(count)]
        self._key_mean = torch.zeros(count, head_dim)
        self._query_mean = torch.zeros(count, head_dim)
        self._projection = _projection(head_dim)
        self.bytes_per_block = 8 * count * block
        # A row for each token of each head, a column for each block: a search runs along the blocks.
        self._codes: Codes = np.zeros((count * block, 0), np.uint64)
        self._blocks = 0

    def __len__(self) -> int:
        return self._blocks

    # -- which heads ---------------------------------------------------------------------------------------------

    def calibrate(self, keys: Sequence[Tensor], queries: Sequence[Tensor], period: int) -> list[float]:
        """Chooses the heads, and their mean keys and queries, from a text that is read twice in a row.

        A head's score is the share of tokens in the second reading whose query fits best to the same token, or the one
        after it, in the first reading ("prefix matching", Olsson et al. 2022). Keys and queries have a large common
        mean without information; it is subtracted before the signs are taken. So the text should be ordinary, and the
        same whenever stored fingerprints are to be read.

        Args:
            keys: unrotated, per layer [kv_heads, 2 * period, head_dim].
            queries: unrotated, per layer [heads, 2 * period, head_dim].
            period: tokens of the text.

        Returns:
            The score of each (layer, KV head), layer by layer.

        Raises:
            ValueError: there are fingerprints already, made with other heads.
        """
        if self._blocks:
            raise ValueError(f"{self._blocks} fingerprints are there, made by other heads")
        layers, _, kv_heads, _ = self._shape
        own = torch.arange(period)
        found: dict[tuple[int, int], float] = {}
        for layer in range(layers):
            key, query = keys[layer].float().cpu(), self._pooled(queries[layer])
            key, query = key - key.mean(1, keepdim=True), query - query.mean(1, keepdim=True)
            best = (query[:, period:] @ key[:, :period].transpose(1, 2)).argmax(-1)
            for head in range(kv_heads):
                found[layer, head] = float(((best[head] - own).abs() <= _NEAR).float().mean())
        self.watches = sorted(found, key=lambda at: -found[at])[: len(self.watches)]
        self._key_mean = torch.stack([keys[i][h].float().cpu().mean(0) for i, h in self.watches])
        self._query_mean = torch.stack([self._pooled(queries[i])[h].mean(0) for i, h in self.watches])
        return list(found.values())

    def calibration(self) -> dict[str, Any]:
        """The result of `calibrate`, as JSON types."""
        means = {"keys": self._key_mean.tolist(), "queries": self._query_mean.tolist()}
        return {"watches": [list(at) for at in self.watches], **means}

    def restore(self, calibration: Any) -> None:
        """Restores a `calibration`. Raises ValueError, KeyError or TypeError if it does not fit the model."""
        layers, _, kv_heads, _ = self._shape
        watches = [(int(layer), int(head)) for layer, head in calibration["watches"]]
        keys, queries = (torch.tensor(calibration[name], dtype=torch.float32) for name in ("keys", "queries"))
        if len(set(watches)) != len(self.watches) or any(
            not (0 <= layer < layers and 0 <= head < kv_heads) for layer, head in watches
        ):
            raise ValueError("these are no heads of the model")
        for mean in (keys, queries):
            if mean.shape != self._key_mean.shape or not mean.isfinite().all():
                raise ValueError("these are no means of its heads")
        self.watches, self._key_mean, self._query_mean = watches, keys, queries

    # -- making them ---------------------------------------------------------------------------------------------

    def of_blocks(self, keys: Sequence[Tensor], block: int) -> Codes:
        """Fingerprints of all whole blocks of some tokens.

        Args:
            keys: unrotated, per layer [kv_heads, tokens, head_dim].
            block: tokens in a block, as given to the constructor.

        Returns:
            [tokens // block, words]

        Raises:
            ValueError: `block` is not the constructor's.
        """
        if block != self.block:
            raise ValueError(f"fingerprints are of blocks of {self.block} tokens, not of {block}")
        blocks = keys[0].shape[1] // block
        watched = torch.stack([keys[layer][head, : blocks * block] for layer, head in self.watches])
        codes = self._signs(watched.float().cpu() - self._key_mean[:, None])
        return np.ascontiguousarray(codes.reshape(len(codes), blocks, block).swapaxes(0, 1)).reshape(blocks, -1)

    def _signs(self, vectors: Tensor) -> Codes:
        """64 sign bits of each vector, [..., head_dim] -> [...]."""
        bits = (vectors @ self._projection > 0).numpy()
        codes: Codes = np.packbits(bits, axis=-1, bitorder="little").view("<u8")[..., 0].astype(np.uint64)
        return codes

    def _pooled(self, queries: Tensor) -> Tensor:
        """The mean query of the heads that share a KV head, [kv_heads, W, head_dim] in fp32."""
        _, heads, kv_heads, _ = self._shape
        return queries.float().cpu().unflatten(0, (kv_heads, heads // kv_heads)).mean(1)

    # -- as a list -----------------------------------------------------------------------------------------------

    def extend(self, rows: Codes) -> None:
        """Appends fingerprints [blocks, words].

        Raises:
            ValueError: they have a different number of words.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self._codes):
            raise ValueError(f"fingerprints of shape {rows.shape} do not fit to those of {len(self._codes)} words")
        needed = self._blocks + len(rows)
        if needed > self._codes.shape[1]:
            wider = np.zeros((len(self._codes), max(needed, 2 * self._codes.shape[1])), np.uint64)
            wider[:, : self._blocks] = self._codes[:, : self._blocks]
            self._codes = wider
        self._codes[:, self._blocks : needed] = rows.T
        self._blocks = needed

    def truncate(self, blocks: int) -> None:
        """Forgets all fingerprints from number `blocks` on; nothing if there are no more than that."""
        self._blocks = min(self._blocks, max(0, blocks))

    def rows(self, start: int = 0) -> Codes:
        """Fingerprints from number `start` on, [blocks, words], as `extend` takes them."""
        return np.ascontiguousarray(self._codes[:, start : self._blocks].T)

    # -- searching -----------------------------------------------------------------------------------------------

    def scores(self, queries: Sequence[Tensor]) -> NDArray[np.float32]:
        """How well each block matches the queries; higher is better, 0 is nothing unusual.

        A query's distance to a block is the Hamming distance to its nearest token. It scores the square of how many
        standard deviations it lies below the mean: a query that is near to everything scores nothing, and two unusual
        matches score more than one.

        If blocks times queries are few enough, all are compared. Otherwise the queries with the most unusual matches
        in a sample of the blocks choose the blocks that are compared with all, so that a search costs about
        `_COMPARED` words.

        Args:
            queries: unrotated, per layer [heads, W, head_dim].

        Returns:
            [blocks]
        """
        if not self._blocks or not queries[0].shape[1]:
            return np.zeros(self._blocks, np.float32)
        codes, pairs = self._codes[:, : self._blocks], self._query_codes(queries)
        sample = self._distances(np.ascontiguousarray(codes[:, :: -(-self._blocks // _SAMPLE)]), pairs)
        mean, deviation = sample.mean(1, keepdims=True), np.maximum(sample.std(1, keepdims=True), 0.5)
        worth = np.square(np.maximum((mean - np.arange(BITS + 1)) / deviation, 0)).astype(np.float32)
        every = np.arange(len(pairs))
        if len(pairs) * codes.size // len(self.watches) <= _COMPARED:
            return _sum(self._distances(codes, pairs), worth, every)
        count = max(1, (_COMPARED - _SECOND) // (self.block * self._blocks))
        telling = np.argsort(((sample.min(1) - mean[:, 0]) / deviation[:, 0]), kind="stable")[:count]
        first = _sum(self._distances(codes, [pairs[i] for i in telling]), worth, telling)
        second = max(1, min(self._blocks, _SECOND // (self.block * len(pairs))))
        chosen = np.sort(np.argpartition(-first, second - 1)[:second])
        out = first / (1 + first.max())  # below 1, for blocks that are not compared with all queries
        out[chosen] = 1 + _sum(self._distances(np.take(codes, chosen, 1), pairs), worth, every)
        return out

    def exact(self, keys: Sequence[Tensor], queries: Sequence[Tensor], ends: Tensor) -> Tensor:
        """What `scores` estimates, computed from the keys themselves, for stretches of tokens of any length.

        A query's match in a stretch is its largest product with a key there. It scores as in `scores`, by how far it
        lies above the mean of all stretches.

        Args:
            keys: unrotated, of each watched head, [tokens, head_dim].
            queries: unrotated, per layer [heads, W, head_dim].
            ends: where each stretch ends (exclusive), ascending to the number of tokens, [S].

        Returns:
            [S], fp32, on the CPU.
        """
        lengths = torch.diff(ends.cpu(), prepend=ends.new_zeros(1).cpu())
        owner = torch.arange(len(lengths)).repeat_interleave(lengths)
        total = torch.zeros(len(lengths))
        for number, (layer, head) in enumerate(self.watches):
            looking = self._pooled(queries[layer])[head] - self._query_mean[number]
            key = keys[number].float().cpu()
            for part in looking.split(max(1, _PRODUCTS // max(1, len(key)))):
                best = torch.full((len(lengths), len(part)), -torch.inf)
                best.scatter_reduce_(0, owner[:, None].expand(-1, len(part)), key @ part.T, "amax")
                deviation, mean = torch.std_mean(best, 0, correction=0)
                total += ((best - mean) / deviation.clamp_min(1e-6)).clamp_min_(0).square_().sum(1)
        return total

    def _query_codes(self, queries: Sequence[Tensor]) -> list[tuple[int, np.uint64]]:
        """For each query in each watched head: the number of the head, and the query's sign bits."""
        found = []
        for number, (layer, head) in enumerate(self.watches):
            signs = self._signs(self._pooled(queries[layer])[head] - self._query_mean[number])
            found += [(number, code) for code in signs]
        return found

    def _distances(self, codes: Codes, pairs: Sequence[tuple[int, np.uint64]]) -> NDArray[np.uint8]:
        """The Hamming distance of each query to the nearest token of each block, [pairs, blocks].

        Args:
            codes: as they are stored, [words, blocks].
            pairs: the head and sign bits of each query.
        """
        blocks = codes.shape[1]
        out = np.empty((len(pairs), blocks), np.uint8)
        differ = np.empty((self.block, min(blocks, _CHUNK)), np.uint64)
        bits = np.empty(differ.shape, np.uint8)
        for start in range(0, blocks, _CHUNK):
            end = min(blocks, start + _CHUNK)
            there, counted = differ[:, : end - start], bits[:, : end - start]
            for number, (head, code) in enumerate(pairs):
                np.bitwise_xor(codes[head * self.block : (head + 1) * self.block, start:end], code, out=there)
                np.bitwise_count(there, out=counted)
                counted.min(0, out=out[number, start:end])
        return out


def _sum(distances: NDArray[np.uint8], worth: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """The summed scores of distances [n, blocks]. `worth` [pairs, BITS + 1] gives them; `rows` [n] are the pairs."""
    total = np.zeros(distances.shape[1], np.float32)
    for distance, row in zip(distances, rows, strict=True):
        total += worth[row].take(distance)
    return total


def _projection(head_dim: int) -> Tensor:
    """Random directions as columns, [head_dim, BITS], in as many orthogonal sets as it takes.

    Signs along orthogonal directions estimate an angle better than along independent ones (Super-Bit LSH, Ji et al.
    2012). Signs of the coordinates themselves do not: on pocket a few coordinates are large in all keys.
    """
    generator = np.random.default_rng(_SEED)
    sets = [np.linalg.qr(generator.standard_normal((head_dim, head_dim)))[0] for _ in range(-(-BITS // head_dim))]
    return torch.from_numpy(np.concatenate(sets, 1)[:, :BITS].astype(np.float32).copy())
