"""Landmark samplers against brute force."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from warpcortex_cli.synapse.landmarks import (
    SAMPLERS,
    Coverage,
    Density,
    Hybrid,
    LayerView,
    coverage,
    witnesses,
)
from warpcortex_cli.synapse.landmarks.base import Landmarks
from warpcortex_cli.synapse.landmarks.coverage import cover
from warpcortex_cli.synapse.landmarks.density import attention_mass, key_density


def some_keys(tokens: int, seed: int = 0, kv_heads: int = 2, dim: int = 8) -> Tensor:
    keys = torch.randn(kv_heads, tokens, dim, generator=torch.Generator().manual_seed(seed))
    return keys - keys.mean(1, keepdim=True)


def view_of(sampler: Landmarks, keys: Tensor, k: int, queries: Tensor | None = None) -> LayerView:
    return LayerView(keys, [(keys, keys)], queries, sampler.always(keys.shape[1], k), k, keys.shape[2] ** -0.5)


def farthest_first(keys: Tensor, start: list[int], k: int, bonus: Tensor | None = None) -> list[int]:
    """Greedy order of one head, with all distances written out: keys [L, D]."""
    square = torch.cdist(keys, keys, compute_mode="donot_use_mm_for_euclid_dist").square()
    to_start = square[:, start].amin(1) if start else keys.square().sum(1)
    mean = to_start.mean()
    chosen = list(start)
    while len(chosen) < k:
        nearest = torch.minimum(to_start, square[:, chosen].amin(1)) if chosen else to_start
        gain = nearest / (nearest + mean) + (0 if bonus is None else bonus)
        gain[chosen] = -torch.inf
        chosen.append(int(gain.argmax()))
    return chosen


@pytest.fixture
def small_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pool so small that the order has to be found in many passes."""
    monkeypatch.setattr(coverage, "_POOL", 3)
    yield


@pytest.mark.parametrize("name", SAMPLERS)
@given(tokens=st.integers(1, 60), k=st.integers(0, 70), seed=st.integers(0, 3), with_queries=st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_k_gives_k_tokens_with_sinks_and_newest(
    name: str, tokens: int, k: int, seed: int, with_queries: bool
) -> None:
    sampler = SAMPLERS[name]()
    queries = torch.randn(4, 5, 8) if with_queries else None
    chosen = sampler.select(view_of(sampler, some_keys(tokens, seed), k, queries))
    assert chosen.shape == (2, min(k, tokens))
    assert (chosen.diff(dim=1) > 0).all(), "ascending, each once"
    always = sampler.always(tokens, k).tolist()
    assert len(always) <= min(k, tokens)
    for head in chosen.tolist():
        assert set(always) <= set(head)
        assert not head or (head[0] >= 0 and head[-1] < tokens)


def test_a_quarter_at_most_for_sinks_and_newest() -> None:
    sampler = Coverage(sinks=4, recent=16)
    assert sampler.always(1000, 64).tolist() == [0, 1, 2, 3, *range(984, 1000)]
    assert sampler.always(1000, 8).tolist() == [0, 1, 998, 999]
    assert sampler.always(1000, 1).tolist() == [0]
    assert sampler.always(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert Coverage(0, 0).always(1000, 64).tolist() == []


@pytest.mark.parametrize("sinks", [0, 4])
@pytest.mark.parametrize("seed", range(3))
def test_coverage_is_the_greedy_k_centre(seed: int, sinks: int, small_pool: None) -> None:
    keys, sampler = some_keys(90, seed), Coverage(sinks, sinks)
    view = view_of(sampler, keys, 24)
    chosen = sampler.select(view)
    score = sampler.score(view)
    for head in range(2):
        order = farthest_first(keys[head], view.always.tolist(), 24)
        assert chosen[head].tolist() == sorted(order)
        later = order[len(view.always) :]
        assert score[head].topk(len(later)).indices.tolist() == later, "scores keep the order"


@given(tokens=st.integers(20, 80), seed=st.integers(0, 1000), k=st.integers(2, 20))
@settings(max_examples=25, deadline=None)
def test_a_pool_of_any_size_gives_the_same_order(tokens: int, seed: int, k: int) -> None:
    keys, sampler = some_keys(tokens, seed), Coverage()
    whole = sampler.select(view_of(sampler, keys, k))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "_POOL", 2)
        assert torch.equal(sampler.select(view_of(sampler, keys, k)), whole)


def test_coverage_does_not_hang_on_equal_keys() -> None:
    sampler = Coverage()
    assert sampler.select(view_of(sampler, torch.zeros(2, 50, 8), 20)).shape == (2, 20)


def test_coverage_of_a_key_bias_keeps_its_digits() -> None:
    keys, sampler = some_keys(200), Coverage()
    chosen = sampler.select(view_of(sampler, keys, 24))
    biased = keys + 300
    assert torch.equal(sampler.select(view_of(sampler, biased - biased.mean(1, keepdim=True), 24)), chosen)


def test_hybrid_is_greedy_over_both_parts(small_pool: None) -> None:
    keys, queries, alpha = (
        some_keys(80),
        torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1)),
        0.4,
    )
    sampler = Hybrid(alpha=alpha)
    view = view_of(sampler, keys, 20, queries)
    mass = attention_mass(queries, keys, 8**-0.5)
    others = [i for i in range(80) if i not in view.always.tolist()]
    chosen = sampler.select(view)
    for head in range(2):
        bonus = alpha / (1 - alpha) * mass[head] / (mass[head] + mass[head][others].mean())
        assert chosen[head].tolist() == sorted(farthest_first(keys[head], view.always.tolist(), 20, bonus))


def test_hybrid_has_density_and_coverage_at_its_ends() -> None:
    keys, queries = some_keys(70), torch.randn(4, 6, 8)
    for alpha, other in ((0.0, Coverage()), (1.0, Density())):
        hybrid = Hybrid(alpha=alpha)
        ours = hybrid.select(view_of(hybrid, keys, 20, queries))
        assert torch.equal(ours, other.select(view_of(other, keys, 20, queries)))


def test_attention_mass_is_that_of_a_causal_softmax() -> None:
    torch.manual_seed(0)
    keys, queries = torch.randn(2, 30, 8), torch.randn(6, 5, 8)
    mask = torch.full((5, 30), -torch.inf).triu(30 - 5 + 1)
    grouped = keys.repeat_interleave(3, 0)
    expected = torch.softmax(queries @ grouped.transpose(1, 2) * 0.3 + mask, 2).mean(1).view(2, 3, 30).mean(1)
    torch.testing.assert_close(attention_mass(queries, keys, 0.3), expected)
    torch.testing.assert_close(expected.sum(1), torch.ones(2))


def test_attention_mass_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, queries = some_keys(40), torch.randn(6, 5, 8)
    whole = attention_mass(queries, keys, 0.3)
    monkeypatch.setattr("warpcortex_cli.synapse.mass.CHUNK", 100)  # tokens in parts of 12
    monkeypatch.setattr("warpcortex_cli.synapse.mass.SCORES", 80)  # two queries at once
    sizes, mm = set(), torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, out: sizes.add((len(a), b.shape[1])) or mm(a, b, out=out))
    torch.testing.assert_close(attention_mass(queries, keys, 0.3), whole)
    assert max(n for n, _ in sizes) == 2 and max(tokens for _, tokens in sizes) == 12


def test_density_takes_what_the_newest_tokens_look_at() -> None:
    keys = some_keys(100)
    keys[:, 40] *= 3
    queries = keys[:, 40][:, None].expand(2, 3, 8) * 20
    sampler = Density(sinks=1, recent=1)
    assert all(40 in head for head in sampler.select(view_of(sampler, keys, 8, queries)).tolist())


def test_key_density_is_higher_in_a_crowd() -> None:
    keys = torch.randn(2, 60, 8)
    keys[:, 10:50] = keys[:, 10:11] + 0.01 * torch.randn(2, 40, 8)
    density = key_density(keys - keys.mean(1, keepdim=True))
    assert (density[:, 10:50].amin(1) > density[:, 50:].amax(1)).all()


def test_witnesses_count_the_nearest_and_sum_to_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, sampler = some_keys(75), Coverage()
    chosen = sampler.select(view_of(sampler, keys, 10))
    counts = witnesses(keys, chosen)
    for head in range(2):
        nearest = torch.cdist(keys[head], keys[head, chosen[head]]).argmin(1)
        assert counts[head].tolist() == torch.bincount(nearest, minlength=10).tolist()
    assert counts.sum(1).tolist() == [75, 75]
    monkeypatch.setattr("warpcortex_cli.synapse.landmarks.base.CHUNK", 64)
    assert torch.equal(witnesses(keys, chosen), counts)


def test_a_broken_key_does_not_stop_the_selection() -> None:
    keys, sampler = some_keys(50), Hybrid()
    keys[:, 20] = torch.nan
    chosen = sampler.select(view_of(sampler, keys, 12, torch.randn(4, 3, 8)))
    assert (chosen.diff(dim=1) > 0).all()
    assert chosen.shape == (2, 12)


@pytest.mark.parametrize("spread", [0.0, 1e-4, 1e-6])
def test_keys_that_are_all_the_same_take_few_passes(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """What rounding does to their worth must not look as if tokens outside of the pool were better."""
    passes, add = [], coverage._Distances.add
    monkeypatch.setattr(coverage._Distances, "add", lambda self, new: passes.append(1) or add(self, new))
    keys = spread * torch.randn(2, 2000, 8, generator=torch.Generator().manual_seed(1))
    cover(keys, torch.arange(4), 64, torch.full((2, 2000), 0.3))
    assert len(passes) <= 8


def test_a_broken_head_is_given_as_many_tokens_as_others() -> None:
    keys = torch.randn(2, 500, 8)
    keys[1] = torch.nan
    assert (cover(keys, torch.arange(4), 20) > 1).sum(1).tolist() == [20, 20]
