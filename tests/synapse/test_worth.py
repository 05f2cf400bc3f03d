"""Sentences as spans, and choosing among them: one rule for focus sets and recall."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from warpcortex_cli.engine.index import in_blocks
from warpcortex_cli.synapse.worth import Spans, choose, score, spans_of

RUNS = st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=20)


def spans(runs: list[tuple[int, bool]], budget: int, first: int = 0) -> Spans:
    """Spans of sentences of these lengths, each written by the River or not, behind `first` other tokens."""
    starts = first + np.cumsum([0, *(length for length, _ in runs)])
    own = np.repeat([False, *(own for _, own in runs)], [first, *(length for length, _ in runs)])
    return spans_of(starts[:-1], int(starts[-1]), own, budget)


def test_a_line_break_joins_the_sentence_before_it_if_the_same_agent_wrote_both() -> None:
    found = spans([(6, False), (1, False), (5, False), (2, True), (4, True)], 20)
    assert list(zip(found.starts, found.ends, strict=True)) == [(0, 7), (7, 12), (12, 14), (14, 18)]
    assert found.own.tolist() == [False, False, True, True]


def test_a_sentence_longer_than_the_budget_is_cut_into_parts_of_at_most_half_of_it() -> None:
    found = spans([(4, False), (30, False)], 8)
    assert found.starts[0] == 0 and found.ends[-1] == 34 and (found.ends - found.starts)[1:].max() <= 4


@given(RUNS, st.integers(1, 60), st.integers(0, 40))
def test_spans_are_all_tokens_in_order(runs: list[tuple[int, bool]], budget: int, first: int) -> None:
    found = spans(runs, budget, first)
    assert found.starts[0] == first and found.ends[-1] == first + sum(length for length, _ in runs)
    assert (found.starts[1:] == found.ends[:-1]).all() and (found.ends > found.starts).all()
    assert (found.ends - found.starts).max() <= max(budget, 2)


@given(RUNS, st.integers(1, 60), st.randoms(use_true_random=False))
def test_the_best_that_fit_are_chosen_whole_and_none_that_the_river_wrote(runs, budget, random) -> None:  # type: ignore[no-untyped-def]
    found = spans(runs, budget)
    worth = np.array([random.choice([0, 1, 2, 3]) for _ in range(len(found))], np.float32)
    chosen = set(choose(found, worth, budget))
    assert len(chosen) <= budget
    left = budget - len(chosen)
    for start, end, own, value in zip(found.starts, found.ends, found.own, worth, strict=True):
        inside = chosen & set(range(start, end))
        assert not inside or (len(inside) == end - start and not own and value > 0)
        if not inside and not own and value > 0 and end - start >= 3:
            assert end - start > left


def test_what_the_river_wrote_does_not_set_the_bar_for_others() -> None:
    """Its request repeats all words of the task: others that share half of them would be left out."""
    found = Spans(np.array([0, 5]), np.array([5, 10]), np.array([True, False]))
    worth = score(found, np.array([4, 1], np.float32), np.array([9, 1], np.float32), 0.3)
    assert worth.tolist() == [0, 2]


def test_a_span_has_the_best_score_of_all_its_blocks_and_one_that_is_not_stored_has_none() -> None:
    scores = np.array([1, 2, 5, 3], np.float32)
    found = Spans(np.array([0, 4, 8, 29]), np.array([4, 8, 29, 33]), np.zeros(4, np.bool_))
    assert in_blocks(scores, found, 8).tolist() == [1, 1, 5, 0]
