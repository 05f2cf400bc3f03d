"""The focus set finds sentences that a task's queries look for."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from warpcortex_cli.engine.index import SentenceIndex
from warpcortex_cli.memory.fingerprints import Fingerprints
from warpcortex_cli.memory.tail import Tail
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.synapse.focus import found_in_tail
from warpcortex_cli.synapse.worth import LEAST, Spans, choose, shared_words

LENGTHS = [6, 9, 4, 12, 7, 10, 5, 8]
SENTENCES = torch.cat([torch.full((n,), i) for i, n in enumerate(LENGTHS)])
STARTS = torch.tensor([0, *LENGTHS]).cumsum(0).tolist()
CONTEXT = sum(LENGTHS)
WIDTH = 6


def focus_indices(
    prism: Prism,
    fingerprints: Fingerprints,
    tail: Tail,
    queries: list[torch.Tensor],
    sentences: torch.Tensor,
    budget: int,
    own: torch.Tensor | None = None,
    task: torch.Tensor | None = None,
    words: torch.Tensor | None = None,
) -> torch.Tensor:
    """Tokens of the tail's sentences that a task asks for, as `Past.look_for` finds them."""
    length = len(sentences)
    numbers = array("q", [0] * length if words is None else words.tolist())
    starts = [i for i in range(length) if i == 0 or sentences[i] != sentences[i - 1]]
    known = SimpleNamespace(
        ids=numbers,
        starts=array("i", starts),
        words=SimpleNamespace(numbers=numbers),
        own=bytearray(length) if own is None else bytearray(own.tolist()),
    )
    index = SentenceIndex(known)  # type: ignore[arg-type]
    spans = index.spans(range(length), budget)
    if not len(spans):
        return torch.zeros(0, dtype=torch.long)
    found = found_in_tail(prism, fingerprints, tail, queries, 0, torch.from_numpy(spans.ends)).numpy()
    worth = index.worth(spans, [] if task is None else task.tolist(), found, LEAST)
    return torch.tensor(choose(spans, worth, budget), dtype=torch.long)


def lexical_worth(task: torch.Tensor, words: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """What sentences with these ends share of the task's words."""
    spans = Spans(np.array([0, *ends[:-1].tolist()]), ends.numpy(), np.zeros(len(ends), np.bool_))
    of_tokens = words.numpy()
    return torch.from_numpy(shared_words(task.tolist(), lambda word: np.flatnonzero(of_tokens == word), spans))


def span(sentence: int) -> list[int]:
    return list(range(STARTS[sentence], STARTS[sentence + 1]))


def watching(prism: Prism, layer: int, head: int) -> Fingerprints:
    """Fingerprints that know of one head that finds things."""
    fingerprints = Fingerprints(prism.layers, prism.heads, prism.kv_heads, prism.head_dim, watched=1)
    fingerprints.watches = [(layer, head)]
    return fingerprints


def planted(prism: Prism, sentences: list[int]) -> tuple[Fingerprints, Tail, list[torch.Tensor]]:
    """A River whose first token draws all queries, and a task that looks for `sentences` besides, in one head."""
    torch.manual_seed(5)
    keys = 0.1 * torch.randn(prism.layers, prism.kv_heads, CONTEXT, prism.head_dim)
    keys[:, :, :, :2] = 0
    keys[:, :, 0, 0] = 8.0  # the sink
    queries = 0.1 * torch.randn(prism.layers, prism.heads, WIDTH, prism.head_dim)
    queries[..., 0] = 4.0
    group = prism.heads // prism.kv_heads
    for i, sentence in enumerate(sentences):
        direction = torch.zeros(prism.head_dim)
        direction[2 + i] = 7.0 - i
        keys[:, :, STARTS[sentence] + 1] = direction
        queries[1, -group:, 1 + i] += 8 * direction
    tail = prism.new_tail(None)
    places = torch.arange(CONTEXT)
    tail.append(prism.rope.turn(list(keys), places), list(keys), places)
    return watching(prism, 1, prism.kv_heads - 1), tail, list(queries)


def test_the_sentences_asked_for_come_first_and_whole(prism: Prism) -> None:
    fingerprints, tail, queries = planted(prism, [4, 2])
    got = focus_indices(prism, fingerprints, tail, queries, SENTENCES, LENGTHS[4] + LENGTHS[2])
    assert got.dtype == torch.int64
    assert sorted(got.tolist()) == sorted(span(4) + span(2))
    assert span(0) != got.tolist()[: LENGTHS[0]], "a sink that every query sees says nothing"


@given(budget=st.integers(0, CONTEXT + 9))
@settings(max_examples=30, deadline=None)
def test_any_budget_is_filled_with_whole_sentences_in_which_more_than_usual_is_found(budget: int) -> None:
    worth = torch.rand(len(LENGTHS), generator=torch.Generator().manual_seed(budget))
    prism = _Flat(worth)
    fingerprints = Fingerprints(1, 1, 1, 4, watched=1)
    got = focus_indices(prism, fingerprints, prism, prism.queries, SENTENCES, budget).tolist()  # type: ignore[arg-type]
    assert len(got) <= budget
    assert len(set(got)) == len(got)
    if budget >= max(LENGTHS):
        for sentence in range(len(LENGTHS)):
            share = len(set(span(sentence)) & set(got))
            assert share in (0, LENGTHS[sentence])
        left = budget - len(got)
        tokens = worth[SENTENCES]
        tokens[:4] = tokens[4:].mean()  # on which attention rests
        best = torch.stack([tokens[span(i)].max() for i in range(len(LENGTHS))])
        more = (best > best.mean()).tolist()
        assert all(n > left for i, n in enumerate(LENGTHS) if more[i] and span(i)[0] not in got)
        assert not any(span(i)[0] in got for i in range(len(LENGTHS)) if not more[i])


class _Flat:
    """A model of one layer and one head whose query finds sentence i with a logit of worth[i]."""

    layers, head_dim, device = 1, 4, torch.device("cpu")

    def __init__(self, worth: torch.Tensor) -> None:
        self.rope, self.positions = self, torch.arange(CONTEXT)
        self.keys = torch.zeros(1, CONTEXT, 4)
        self.keys[0, :, 0] = 10 * worth[SENTENCES]
        self.queries = [torch.tensor([[[1.0, 0, 0, 0]]])]

    def view(self, tokens: int) -> _Flat:
        return self

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.keys, self.keys

    def turning(self, by: torch.Tensor) -> Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]:
        return lambda layer, key, out: out.copy_(key)


def test_a_sentence_longer_than_the_budget_is_read_in_part(prism: Prism) -> None:
    fingerprints, tail, queries = planted(prism, [4])
    got = focus_indices(prism, fingerprints, tail, queries, torch.zeros(CONTEXT, dtype=torch.long), 16).tolist()
    assert STARTS[4] + 1 in got
    assert 8 <= len(got) <= 16


def test_sentences_can_be_left_out(prism: Prism) -> None:
    fingerprints, tail, queries = planted(prism, [4])
    own = torch.zeros(CONTEXT, dtype=torch.bool)
    own[STARTS[4] + 2] = True
    everything = set(focus_indices(prism, fingerprints, tail, queries, SENTENCES, CONTEXT).tolist())
    got = set(focus_indices(prism, fingerprints, tail, queries, SENTENCES, CONTEXT, own).tolist())
    assert set(span(4)) <= everything and got and not got & set(span(4))


def test_only_the_named_part_of_the_tail_counts(prism: Prism) -> None:
    fingerprints, tail, queries = planted(prism, [4])
    got = focus_indices(prism, fingerprints, tail, queries, SENTENCES[: STARTS[3]], 1000)
    assert sorted(got.tolist()) == list(range(STARTS[3]))
    assert focus_indices(prism, fingerprints, tail, queries, SENTENCES[:0], 10).tolist() == []
    assert focus_indices(prism, fingerprints, tail, queries, SENTENCES, 0).tolist() == []


def test_only_the_heads_that_find_things_are_asked(prism: Prism) -> None:
    fingerprints, tail, queries = planted(prism, [4])
    other = watching(prism, 0, 0)
    queries[0][:, :, 2] = -1.0
    assert focus_indices(prism, other, tail, queries, SENTENCES, LENGTHS[4]).tolist() != span(4)
    for layer in (0, 2):  # what all other layers would say is drowned
        queries[layer] = queries[layer] * 1000
    assert focus_indices(prism, fingerprints, tail, queries, SENTENCES, LENGTHS[4]).tolist() == span(4)


def test_where_a_sentence_stands_does_not_matter(prism: Prism) -> None:
    """Keys are compared without positions."""
    fingerprints, tail, queries = planted(prism, [4])
    moved = prism.new_tail(None)
    segment = tail.freeze(0, CONTEXT).moved(prism.rope, tail.positions + 100)
    moved.append(list(segment.keys), list(segment.values), segment.positions)
    here, there = (focus_indices(prism, fingerprints, t, queries, SENTENCES, 40).tolist() for t in (tail, moved))
    assert here == there


def test_a_line_break_belongs_to_the_sentence_before_it(prism: Prism) -> None:
    fingerprints, tail, queries = planted(prism, [4])
    numbers = SENTENCES.clone()
    numbers[STARTS[5] - 1 :] += 1  # the last token of sentence 4 stands alone
    assert focus_indices(prism, fingerprints, tail, queries, numbers, LENGTHS[4]).tolist() == span(4)


def test_a_word_in_most_sentences_says_nothing_of_one() -> None:
    """Word 1 is in a third of 60 sentences, word 2 in three of them."""
    words = torch.zeros(60, 4, dtype=torch.long)
    words[::3, 0], words[:3, 1] = 1, 2
    words[::3, 2], words[1, 2] = 3, 1
    worth = lexical_worth(torch.tensor([1, 2]), words.flatten(), 4 * torch.arange(1, 61))
    assert worth[:3].gt(0).all()
    assert float(worth[3:].max()) > 0  # 21 of 60 are no more than few
    many = words.repeat(4, 1)
    worth = lexical_worth(torch.tensor([1, 2]), many.flatten(), 4 * torch.arange(1, 241))
    assert sorted(worth.nonzero().flatten().tolist()) == [60 * i + j for i in range(4) for j in range(3)]


def test_a_chance_word_does_not_outweigh_what_queries_find(prism: Prism) -> None:
    """Half of the sentences share a word with the task, the one that queries find does not. Two rare words decide."""
    fingerprints, tail, queries = planted(prism, [4])
    words = torch.arange(100, 100 + CONTEXT)
    for sentence in (0, 2, 5, 7):
        words[STARTS[sentence] + 1] = 1
    words[STARTS[6]], words[STARTS[6] + 1] = 2, 3
    common, rare = (
        focus_indices(prism, fingerprints, tail, queries, SENTENCES, 8, None, torch.tensor(task), words).tolist()
        for task in ([1], [1, 2, 3])
    )
    assert common == span(4)
    assert rare[: LENGTHS[6]] == span(6)


def test_what_shares_less_than_the_best_is_left_out(prism: Prism) -> None:
    """It would only distract, whatever room is left."""
    fingerprints, tail, queries = planted(prism, [4])
    words = torch.arange(100, 100 + CONTEXT)
    words[STARTS[6]], words[STARTS[6] + 1], words[STARTS[1]] = 2, 3, 2
    got = focus_indices(prism, fingerprints, tail, queries, SENTENCES, CONTEXT, None, torch.tensor([2, 3]), words)
    assert sorted(got.tolist()) == sorted(span(6) + span(1))


def test_rare_shared_words_count_and_common_ones_do_not() -> None:
    """Three sentences of four words: word 1 is everywhere, word 7 in the second only."""
    words = torch.tensor([1, 2, 3, 4, 1, 7, 3, 5, 1, 2, 6, 4])
    ends = torch.tensor([4, 8, 12])
    worth = lexical_worth(torch.tensor([1, 7, 7, 99]), words, ends)
    assert worth[1] > 5 * worth[0] and worth[0] == worth[2]
    assert lexical_worth(torch.tensor([99]), words, ends).tolist() == [0, 0, 0]


@given(st.lists(st.integers(0, 9), min_size=4, max_size=40), st.lists(st.integers(0, 9), max_size=6))
def test_a_sentence_is_worth_the_sum_over_the_words_it_holds(words: list[int], task: list[int]) -> None:
    """0 is no word: punctuation."""
    ends = torch.tensor([*range(4, len(words), 4), len(words)])
    starts = [0, *ends.tolist()[:-1]]
    sentences = [set(words[a:b]) for a, b in zip(starts, ends.tolist(), strict=True)]
    found = lexical_worth(torch.tensor(task, dtype=torch.long), torch.tensor(words), ends).tolist()
    for worth, sentence in zip(found, sentences, strict=True):
        counts = [sum(word in s for s in sentences) for word in (set(task) & sentence) - {0}]
        idf = [math.log(1 + (len(ends) - c + 0.5) / (c + 0.5)) for c in (1, *counts)]
        assert worth == pytest.approx(sum(idf[1:]) / idf[0], abs=1e-5)
