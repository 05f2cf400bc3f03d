"""Sampling against brute force, and its independence of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from warpcortex_cli.engine import sampling
from warpcortex_cli.engine.sampling import Sampler, SamplingError, sample
from warpcortex_cli.prism.head import largest
from warpcortex_cli.profile import Sampling


def some_logits(rows: int, vocabulary: int = 50, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def sample_all(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int | SamplingError]:
    return [sample(*row) for row in zip(logits, largest(logits), samplers, strict=True)]


def test_greedy_takes_the_largest() -> None:
    logits = some_logits(5)
    assert sample_all(logits, [Sampler() for _ in range(5)]) == logits.argmax(1).tolist()


@given(st.integers(1, 700), st.integers(0, 9), st.booleans(), st.integers(0, 2**32))
def test_greedy_finds_the_first_largest_of_any_vocabulary(size: int, peaks: int, tied: bool, seed: int) -> None:
    logits = some_logits(3, size, seed)
    for peak in range(peaks):
        logits[1, (peak * 131 + seed) % size] = 50.0 if tied else 50.0 + peak
    assert sample_all(logits, [Sampler()] * 3) == logits.argmax(1).tolist()


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_frequencies_follow_temperature_and_top_p(top_p: float) -> None:
    logits = some_logits(1, 8)
    probabilities = torch.softmax(logits[0] / 1.3, 0)
    order = probabilities.argsort(descending=True)
    kept = order[: int((probabilities[order].cumsum(0) < top_p).sum()) + 1] if top_p < 1 else order
    expected = torch.zeros(8)
    expected[kept] = probabilities[kept] / probabilities[kept].sum()
    sampler = Sampler(1.3, top_p, seed=4)
    drawn = torch.tensor([sampler.draw(logits[0]) for _ in range(4000)])
    counts = torch.bincount(drawn, minlength=8) / 4000
    assert (counts[expected == 0] == 0).all()
    torch.testing.assert_close(counts, expected, atol=0.03, rtol=0)


@given(seed=st.integers(-5, 10**12), rows=st.integers(1, 5), top_p=st.sampled_from([0.3, 0.9, 1.0]))
@settings(max_examples=25, deadline=None)
def test_a_seed_gives_the_same_tokens_whoever_is_in_the_batch(seed: int, rows: int, top_p: float) -> None:
    steps = [some_logits(rows, seed=i) for i in range(4)]
    samplers = [Sampler(0.8, top_p, seed + i) for i in range(rows)]
    together = [sample_all(step, samplers) for step in steps]
    for row in range(rows):
        alone = Sampler(0.8, top_p, seed + row)
        assert [sample_all(step[row : row + 1], [alone])[0] for step in steps] == [t[row] for t in together]


def test_other_seeds_give_other_tokens() -> None:
    steps = [some_logits(1, seed=i)[0] for i in range(20)]
    texts = {tuple(s.draw(step) for step in steps) for s in (Sampler(2.0, 1.0, seed) for seed in range(5))}
    assert len(texts) == 5


def test_top_p_over_a_long_tail_sorts_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = some_logits(30)
    wide = [Sampler(5.0, 0.95, i).draw(row) for i, row in enumerate(logits)]
    monkeypatch.setattr(sampling, "_FIRST_SORTED", 2)
    assert [Sampler(5.0, 0.95, i).draw(row) for i, row in enumerate(logits)] == wide


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_broken_row_fails_alone(bad: float, temperature: float) -> None:
    logits = some_logits(3)
    logits[1, 7] = bad
    out = sample_all(logits, [Sampler(temperature, 0.9, i) for i in range(3)])
    assert isinstance(out[1], SamplingError)
    assert isinstance(out[0], int)
    assert isinstance(out[2], int)


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = torch.full((1, 6), -torch.inf)
    logits[0, [1, 5]] = 0.0
    for top_p in (0.4, 1.0):
        sampler = Sampler(1.0, top_p)
        assert {sampler.draw(logits[0]) for _ in range(50)} <= {1, 5}
    everything = sample_all(torch.full((1, 6), -torch.inf), [Sampler()])[0]
    assert isinstance(everything, SamplingError)


def test_a_tiny_temperature_is_greedy_and_half_precision_is_read() -> None:
    logits = some_logits(4).to(torch.bfloat16)
    logits[:, 3] = 40.0
    assert sample_all(logits, [Sampler(1e-300, 0.9, i) for i in range(4)]) == [3] * 4


def test_wrong_settings_are_refused() -> None:
    for temperature, top_p in ((-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0), (1.0, 1.1)):
        with pytest.raises(ValueError, match="must be"):
            Sampler(temperature, top_p)
    assert largest(torch.zeros(0, 5)) == []


def test_choices_are_those_of_transformers_own_processors() -> None:
    """Which tokens may be drawn, and how probable each is, for any settings together."""
    settings_of = st.fixed_dictionaries(
        {
            "temperature": st.floats(0.2, 3),
            "top_p": st.floats(0.05, 1.0),
            "top_k": st.integers(0, 40),
            "min_p": st.floats(0.0, 0.9),
            "repetition_penalty": st.floats(0.5, 2.0),
        }
    )

    @given(settings_of, st.integers(0, 10**6), st.lists(st.integers(0, 49), max_size=30))
    @settings(max_examples=150, deadline=None)
    def check(asked: dict[str, float], seed: int, seen: list[int]) -> None:
        logits = some_logits(1, seed=seed)[0].double()
        ids = torch.tensor([seen or [0]])
        scores = logits[None].clone()
        if seen:
            scores = RepetitionPenaltyLogitsProcessor(asked["repetition_penalty"])(ids, scores)
        scores = TemperatureLogitsWarper(asked["temperature"])(ids, scores)
        if asked["top_k"]:
            scores = TopKLogitsWarper(int(asked["top_k"]))(ids, scores)
        if asked["top_p"] < 1:
            scores = TopPLogitsWarper(asked["top_p"])(ids, scores)
        expected = MinPLogitsWarper(asked["min_p"])(ids, scores).softmax(-1)[0]
        weights, order = Sampler(**asked).weights(logits, seen)
        mine = torch.zeros(50, dtype=torch.float64).index_put((order,), weights / weights.sum())
        torch.testing.assert_close(mine, expected, atol=1e-9, rtol=1e-6)

    check()


def test_greedy_with_a_penalty_takes_what_generate_takes() -> None:
    logits = torch.tensor([1.0, 1.9, 2.0, -0.5])
    assert Sampler(repetition_penalty=1.2).draw(logits, seen=[2, 2]) == 1
    assert Sampler(repetition_penalty=1.2).draw(-logits.abs(), seen=[3]) == 3  # -0.6 is still the largest
    assert Sampler(repetition_penalty=1.2).asks == "last" and Sampler().asks == "largest"


def test_a_profile_goes_before_the_model_and_the_model_before_no_effect() -> None:
    own = Sampling(temperature=0.7, top_k=20)
    sampler = Sampler.of(Sampling(temperature=0.0, min_p=0.1), own, 0)
    assert (sampler.temperature, sampler.top_k, sampler.min_p, sampler.top_p) == (0.0, 20, 0.1, 1.0)


@pytest.mark.parametrize(
    "wrong", [{"top_k": -1}, {"min_p": 1.5}, {"repetition_penalty": 0.0}, {"repetition_penalty": float("inf")}]
)
def test_more_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Sampler(**wrong)  # type: ignore[arg-type]
