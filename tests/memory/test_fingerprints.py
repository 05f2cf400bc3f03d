"""Fingerprints find what resembles a query, keep heads apart, and behave as a list."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from warpcortex_cli.memory import fingerprints
from warpcortex_cli.memory.fingerprints import BITS, Fingerprints
from warpcortex_cli.memory.store import BLOCK

LAYERS, HEADS, KV_HEADS, DIM = 3, 4, 2, 64


def prints(**settings: int) -> Fingerprints:
    return Fingerprints(LAYERS, HEADS, KV_HEADS, DIM, **settings)


def noise(heads: int, tokens: int, seed: int = 0, dim: int = DIM) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(heads, tokens, dim, generator=generator) for _ in range(LAYERS)]


def looking_for(index: Fingerprints, keys: list[Tensor], token: int, among: int = 8) -> list[Tensor]:
    """Queries, of which one resembles the key of a token in the first watched head (and no other head's)."""
    queries = noise(HEADS, among, seed=1)
    layer, head = index.watches[0]
    group = slice(head * HEADS // KV_HEADS, (head + 1) * HEADS // KV_HEADS)
    queries[layer][group, among // 2] = 3 * keys[layer][head, token] + 0.5 * queries[layer][group, among // 2]
    return queries


@pytest.fixture(scope="module")
def many() -> tuple[Fingerprints, list[Tensor]]:
    index, keys = prints(), noise(KV_HEADS, 3000 * BLOCK)
    index.extend(index.of_blocks(keys, BLOCK))
    return index, keys


@pytest.mark.parametrize("place", (0, 1234, 2999))
def test_a_planted_key_is_first_among_thousands(many: tuple[Fingerprints, list[Tensor]], place: int) -> None:
    index, keys = many
    scores = index.scores(looking_for(index, keys, place * BLOCK + 7))
    assert scores.dtype == np.float32 and scores.shape == (3000,)
    assert int(scores.argmax()) == place
    assert scores[place] > 1.5 * np.delete(scores, place).max()


def test_a_search_that_cannot_compare_all_finds_it_too(
    many: tuple[Fingerprints, list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, keys = many
    planted = -(-3000 // fingerprints._SAMPLE) * 200  # in the sample, as words that recur are: it chooses the queries
    queries = looking_for(index, keys, planted * BLOCK + 7, among=1)
    whole = index.scores(queries)
    monkeypatch.setattr(fingerprints, "_COMPARED", 3000 * BLOCK + 2000)
    monkeypatch.setattr(fingerprints, "_SECOND", 2000)
    scores = index.scores(queries)
    assert int(scores.argmax()) == planted
    looked_at = scores >= 1
    assert looked_at.sum() == 2000 // (BLOCK * 2)
    np.testing.assert_allclose(scores[looked_at], 1 + whole[looked_at], rtol=1e-5)


def test_shuffled_fingerprints_fall_to_chance() -> None:
    keys = noise(KV_HEADS, 200 * BLOCK)
    right = shuffled = 0
    index, mixed = prints(), prints()
    index.extend(index.of_blocks(keys, BLOCK))
    mixed.extend(np.random.default_rng(0).permutation(index.rows()))
    for place in range(0, 200, 5):
        queries = looking_for(index, keys, place * BLOCK + 3)
        right += int(index.scores(queries).argmax() == place)
        shuffled += int(mixed.scores(queries).argmax() == place)
    assert right == 40 and shuffled <= 2


def test_one_block_and_many_agree() -> None:
    index, keys = prints(), noise(KV_HEADS, 5 * BLOCK + 9)
    rows = index.of_blocks(keys, BLOCK)
    assert rows.shape == (5, index.bytes_per_block // 8) and rows.dtype == np.uint64
    for number, row in enumerate(rows):
        part = slice(number * BLOCK, (number + 1) * BLOCK)
        np.testing.assert_array_equal(index.of_blocks([k[:, part] for k in keys], BLOCK)[0], row)
    np.testing.assert_array_equal(prints().of_blocks(keys, BLOCK), rows)  # another time, the same bits
    with pytest.raises(ValueError, match="blocks of 32"):
        index.of_blocks(keys, 16)


def naive(index: Fingerprints, rows: NDArray[np.uint64], queries: list[Tensor]) -> list[float]:
    """Scores by loops over bits, for fewer blocks than the sample holds."""
    totals = np.zeros(len(rows))
    for number, (layer, head) in enumerate(index.watches):
        pooled = queries[layer].view(KV_HEADS, -1, *queries[layer].shape[1:]).mean(1)[head]
        for query in pooled - index._query_mean[number]:
            signs = [float(x) > 0 for x in query @ index._projection]
            nearest = []
            for row in rows:
                tokens = row[number * index.block : (number + 1) * index.block]
                nearest.append(min(sum(signs[b] != bool(int(t) >> b & 1) for b in range(BITS)) for t in tokens))
            near = np.array(nearest)
            totals += np.maximum((near.mean() - near) / max(near.std(), 0.5), 0) ** 2
    return totals.tolist()


def test_scores_are_those_of_a_loop_over_bits() -> None:
    index = prints(block=8)
    index.calibrate(noise(KV_HEADS, 20, seed=4), noise(HEADS, 20, seed=5), 10)
    index.extend(index.of_blocks(noise(KV_HEADS, 12 * 8), 8))
    queries = noise(HEADS, 3, seed=1)
    np.testing.assert_allclose(index.scores(queries), naive(index, index.rows(), queries), rtol=1e-4)


def test_heads_are_kept_apart() -> None:
    index, keys = prints(), noise(KV_HEADS, 50 * BLOCK)
    rows = index.of_blocks(keys, BLOCK)
    queries = looking_for(index, keys, 20 * BLOCK + 5)
    index.extend(rows)
    assert int(index.scores(queries).argmax()) == 20
    other = prints()
    other.extend(np.roll(rows, BLOCK, axis=1))  # each head's bits in the place of the other's
    assert index.scores(queries)[20] > 3 * other.scores(queries)[20]


def test_calibration_chooses_the_heads_that_find_what_was_read_before() -> None:
    """One head of random keys finds the first reading by a query like its key; all share a mean that says nothing."""
    period = 40
    keys, queries = noise(KV_HEADS, 2 * period, seed=2), noise(HEADS, 2 * period, seed=3)
    keys[1][1, period:] = keys[1][1, :period]
    queries[1][2:] = keys[1][1] + 0.1 * queries[1][2:]
    keys, queries = [k + 5 for k in keys], [q - 5 for q in queries]
    index = prints(watched=1)
    shares = index.calibrate(keys, queries, period)
    assert index.watches == [(1, 1)]
    assert len(shares) == LAYERS * KV_HEADS and shares[1 * KV_HEADS + 1] == 1 and sorted(shares)[-2] < 0.3
    index.extend(index.of_blocks(keys, BLOCK))
    assert int(index.scores([q[:, period + 3 : period + 4] for q in queries]).argmax()) in (0, 1)
    with pytest.raises(ValueError, match="other heads"):
        index.calibrate(keys, queries, period)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.one_of(st.tuples(st.just("extend"), st.integers(0, 5)), st.tuples(st.just("cut"), st.integers(0, 12))))
)
def test_it_is_a_list(steps: list[tuple[str, int]]) -> None:
    index = prints(block=2)
    words = index.bytes_per_block // 8
    rng = np.random.default_rng(0)
    model: list[list[int]] = []
    for step, count in steps:
        if step == "extend":
            rows = rng.integers(0, 1 << 63, (count, words), dtype=np.uint64)
            index.extend(rows)
            model += rows.tolist()
        else:
            index.truncate(count)
            del model[count:]
        assert index.rows().tolist() == model
        assert index.rows(len(model) // 2).tolist() == model[len(model) // 2 :]
        assert len(index) == len(model)
        assert len(index.scores(noise(HEADS, 1))) == len(model)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="words"):
        prints().extend(np.zeros((1, 3), np.uint64))
    with pytest.raises(ValueError, match="share"):
        Fingerprints(2, 3, 2, 16)


@pytest.mark.parametrize("dim", (16, 48, 64, 128))
def test_heads_of_any_size(dim: int) -> None:
    index = Fingerprints(LAYERS, HEADS, KV_HEADS, dim)
    keys = noise(KV_HEADS, 100 * BLOCK, dim=dim)
    index.extend(index.of_blocks(keys, BLOCK))
    layer, head = index.watches[0]
    queries = noise(HEADS, 1, seed=1, dim=dim)
    queries[layer][:] = keys[layer][head, 40 * BLOCK]
    assert int(index.scores(queries).argmax()) == 40


@pytest.mark.parametrize("held", [1 << 22, 300])
def test_exact_finds_against_brute_force(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both words of a task count; a head that is not watched and a query that is usual say nothing."""
    monkeypatch.setattr(fingerprints, "_PRODUCTS", held)
    index, keys, queries = prints(), noise(KV_HEADS, 90), noise(HEADS, 7, seed=3)
    index.calibrate(noise(KV_HEADS, 64, seed=4), [q + 1 for q in noise(HEADS, 64, seed=5)], 32)
    ends = torch.tensor([5, 30, 31, 60, 90])
    expected = torch.zeros(5)
    for number, (layer, head) in enumerate(index.watches):
        group = slice(head * HEADS // KV_HEADS, (head + 1) * HEADS // KV_HEADS)
        looking = queries[layer][group].mean(0) - index._query_mean[number]
        for query in looking:
            products = keys[layer][head] @ query
            best = torch.stack([part.max() for part in products.tensor_split(ends[:-1])])
            expected += ((best - best.mean()) / best.std(correction=0)).clamp_min(0) ** 2
    watched = [keys[layer][head] for layer, head in index.watches]
    torch.testing.assert_close(index.exact(watched, queries, ends), expected, rtol=1e-4, atol=1e-4)


def test_exact_finds_agree_with_those_by_bits() -> None:
    index, keys = prints(), noise(KV_HEADS, 200 * BLOCK)
    index.extend(index.of_blocks(keys, BLOCK))
    queries = looking_for(index, keys, 77 * BLOCK + 7)
    exact = index.exact([keys[i][h] for i, h in index.watches], queries, BLOCK * torch.arange(1, 201))
    assert int(exact.argmax()) == int(index.scores(queries).argmax()) == 77
