"""The Synapse on tiny random models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from warpcortex_cli.memory.tail import Tail
from warpcortex_cli.prism.prism import Prism, Row
from warpcortex_cli.profile import SynapseSettings
from warpcortex_cli.synapse.landmarks import Coverage, Hybrid, LayerView
from warpcortex_cli.synapse.snapshot import Synapse, geometry, take

CONTEXT = 60


def river(prism: Prism, tokens: int = CONTEXT) -> tuple[Tail, torch.Tensor]:
    tail = prism.new_tail(None)
    ids = [1, *(40 + i * 7 % 200 for i in range(tokens - 1))]
    queries = prism.forward([Row(ids, list(range(tokens)), tail, queries=True)])[0].queries
    assert queries is not None
    return tail, queries[:, :, -32:]


def snapshot(prism: Prism, k: int) -> tuple[Synapse, Tail]:
    tail, queries = river(prism)
    return take(prism, tail, SynapseSettings(landmarks=k), queries, 3), tail


def logits_of(prism: Prism, reads: tuple[object, ...], position: int) -> torch.Tensor:
    rows = [Row([50, 60, 70], [position + i for i in range(3)], prism.new_tail(8), reads, "all")]  # type: ignore[arg-type]
    logits = prism.forward(rows)[0].logits
    assert logits is not None
    return logits


@pytest.mark.parametrize("k", [0, 1, 5, 16, 59, 60, 100])
def test_keys_are_copied_at_their_own_positions(prism: Prism, k: int) -> None:
    synapse, tail = snapshot(prism, k)
    kept = min(k, CONTEXT)
    assert (synapse.version, synapse.context, synapse.position, synapse.landmarks) == (
        3,
        CONTEXT,
        CONTEXT,
        kept,
    )
    assert synapse.nbytes == kept * prism.layout.bytes_per_token
    assert synapse.compression == pytest.approx(1 - kept / CONTEXT)
    assert torch.equal(synapse.segment.positions, synapse.indices)
    for layer in range(prism.layers):
        for head in range(prism.kv_heads):
            chosen = synapse.indices[layer, head]
            for ours, theirs in zip(synapse.segment.layer(layer), tail.layer(layer), strict=True):
                assert torch.equal(ours[head], theirs[head, chosen])


def test_all_landmarks_are_the_whole_context(architecture: str, make_prism: Callable[[str], Prism]) -> None:
    prism = make_prism(architecture)
    synapse, tail = snapshot(prism, CONTEXT)
    whole = logits_of(prism, (tail.view(CONTEXT),), CONTEXT)
    torch.testing.assert_close(logits_of(prism, (synapse.segment,), synapse.position), whole, rtol=1e-4, atol=1e-4)


def test_heads_choose_for_themselves(architecture: str, make_prism: Callable[[str], Prism]) -> None:
    prism = make_prism(architecture)
    synapse, _ = snapshot(prism, 12)
    assert synapse.indices.shape == (prism.layers, prism.kv_heads, 12)
    assert len({tuple(head) for layer in synapse.indices.tolist() for head in layer}) > 1
    logits_of(prism, (synapse.segment,), synapse.position)


def test_it_does_not_change_when_the_river_goes_on(prism: Prism) -> None:
    synapse, tail = snapshot(prism, 12)
    before = [k.clone() for k in synapse.segment.keys]
    tail.truncate(10)
    prism.forward([Row([90, 91, 92], [10, 11, 12], tail)])
    assert all(torch.equal(a, b) for a, b in zip(before, synapse.segment.keys, strict=True))


def test_choice_does_not_depend_on_where_the_river_stands(prism: Prism) -> None:
    """Coverage looks at keys without rotation, so the same keys elsewhere give the same landmarks."""
    tail, _ = river(prism)
    moved = prism.new_tail(None)
    segment = tail.freeze(0, CONTEXT).moved(prism.rope, tail.positions + 100)
    moved.append(list(segment.keys), list(segment.values), segment.positions)
    here, there = (take(prism, t, SynapseSettings(landmarks=12), None, 1, sampler=Coverage()) for t in (tail, moved))
    assert torch.equal(here.indices, there.indices)
    assert there.position == CONTEXT + 100


def test_witnesses_sum_to_the_context(prism: Prism) -> None:
    synapse, tail = snapshot(prism, 12)
    assert (synapse.witnesses(prism, tail).sum(2) == CONTEXT).all()
    tail.truncate(CONTEXT - 1)
    with pytest.raises(ValueError, match="has no first"):
        synapse.witnesses(prism, tail)


def test_an_empty_river_gives_an_empty_synapse(prism: Prism) -> None:
    synapse = take(prism, prism.new_tail(None), SynapseSettings(), None, 1)
    assert (synapse.landmarks, synapse.context, synapse.position, synapse.compression) == (0, 0, 0, 0.0)


LONG, FEW = 320, 12  # tokens, and landmarks: few enough that a grown context is chosen from candidates


def long_river(prism: Prism, tokens: int = LONG) -> tuple[Tail, torch.Tensor]:
    """A river, and queries of its newest 32 tokens, with keys at random: chosen ones depend on what is chosen from."""
    generator = torch.Generator().manual_seed(3)
    shape = prism.kv_heads, tokens, prism.head_dim
    keys, values = ([torch.randn(shape, generator=generator) for _ in range(prism.layers)] for _ in range(2))
    tail = prism.new_tail(None)
    tail.append(keys, values, torch.arange(tokens))
    return tail, torch.randn(prism.layers, prism.heads, 32, prism.head_dim, generator=generator)


def grow(prism: Prism, tail: Tail, tokens: int, seed: int = 4) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [
        [torch.randn(prism.kv_heads, tokens, prism.head_dim, generator=generator) for _ in range(prism.layers)]
        for _ in range(2)
    ]
    tail.append(parts[0], parts[1], torch.arange(tail.length, tail.length + tokens))


def test_candidates_hold_the_landmarks_and_change_none_of_them(prism: Prism) -> None:
    tail, queries = long_river(prism)
    settings = SynapseSettings(landmarks=FEW)
    synapse = take(prism, tail, settings, queries, 1)
    assert synapse.candidates is not None and synapse.candidates.context == LONG
    spare = synapse.candidates.indices
    assert spare.shape == (prism.layers, prism.kv_heads, 2 * FEW + 32) and (spare.diff(dim=2) > 0).all()
    for landmarks, candidates in zip(synapse.indices.flatten(0, 1), spare.flatten(0, 1), strict=True):
        assert set(landmarks.tolist()) | set(range(LONG - 32, LONG)) <= set(candidates.tolist())
    small = take(prism, tail, settings.model_copy(update={"landmarks": 70}), queries, 1)
    assert small.candidates is None, "twice as many candidates as tokens to choose them from are no help"


def test_layers_of_other_scores_are_not_seen_as_one(prism: Prism, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, float]] = []

    class Looking(Coverage):
        def score(self, view: LayerView) -> torch.Tensor:
            seen.append((len(view.keys) // prism.kv_heads, view.scale))
            return super().score(view)

    scalings = [0.5, *[0.25] * (prism.layers - 1)]
    monkeypatch.setattr(prism, "scalings", tuple(scalings))
    tail = prism.new_tail()
    ids = list(range(5, 65))
    prism.forward([Row(ids, list(range(60)), tail, logits="none")])
    take(prism, tail, SynapseSettings(landmarks=12), None, 1, sampler=Looking())
    assert seen == [(1, 0.5), (prism.layers - 1, 0.25)]


@pytest.mark.parametrize("sampler", [Coverage(), Hybrid()])
def test_a_grown_river_is_chosen_from_candidates_and_what_is_new(prism: Prism, sampler: Coverage | Hybrid) -> None:
    """What is neither may be anything: nobody looks at it."""
    tail, queries = long_river(prism)
    settings = SynapseSettings(landmarks=FEW)
    first = take(prism, tail, settings, queries, 1, sampler=sampler)
    before = [k.clone() for k in first.segment.keys]
    grow(prism, tail, 20)
    second = take(prism, tail, settings, queries, 2, sampler=sampler, after=first)
    assert first.candidates is not None
    pool = first.candidates.pool(tail.length)
    assert (second.indices[..., None] == pool[:, :, None]).any(3).all()
    assert (second.indices >= LONG).any() and second.candidates is first.candidates
    assert (second.context, second.position, second.landmarks) == (LONG + 20, LONG + 20, FEW)
    for layer in range(prism.layers):
        unseen = torch.ones(prism.kv_heads, tail.length, dtype=torch.bool).scatter_(1, pool[layer], False)
        with torch.inference_mode():
            tail.layer(layer)[0][unseen] = 1e4
    again = take(prism, tail, settings, queries, 2, sampler=sampler, after=first)
    assert torch.equal(again.indices, second.indices)
    assert not torch.equal(take(prism, tail, settings, queries, 2, sampler=sampler).indices, second.indices)
    assert all(torch.equal(a, b) for a, b in zip(before, first.segment.keys, strict=True)), "versions do not change"


def test_what_came_since_is_covered_like_the_rest(prism: Prism) -> None:
    """The largest distance to a landmark is nearly that of a selection out of all tokens, new ones far off included."""
    tail, queries = long_river(prism)
    settings, sampler = SynapseSettings(landmarks=24), Coverage()
    first = take(prism, tail, settings, queries, 1, sampler=sampler)
    grow(prism, tail, 30)
    with torch.inference_mode():
        for layer in range(prism.layers):
            tail.layer(layer)[0][:, LONG + 5] += 10
    grown = take(prism, tail, settings, queries, 2, sampler=sampler, after=first)
    whole = take(prism, tail, settings, queries, 2, sampler=sampler)
    assert (grown.indices == LONG + 5).any(2).all()
    radii = []
    for synapse in (grown, whole):
        keys = list(geometry(prism, tail.view(tail.length)))
        radii.append([torch.cdist(k[h], k[h, i[h]]).amin(1).max() for k, i in zip(keys, synapse.indices, strict=True)
                      for h in range(prism.kv_heads)])  # fmt: skip
    assert all(ours <= 1.3 * theirs for ours, theirs in zip(*radii, strict=True))


@pytest.mark.parametrize(("cut", "more"), [(0, LONG // 8 + 1), (1, 0), (40, 20)])
def test_all_tokens_are_looked_at_where_candidates_do_not_serve(prism: Prism, cut: int, more: int) -> None:
    """An eighth has come since, or tokens were taken back."""
    tail, queries = long_river(prism)
    settings = SynapseSettings(landmarks=FEW)
    first = take(prism, tail, settings, queries, 1)
    tail.truncate(LONG - cut)
    grow(prism, tail, more) if more else None
    second = take(prism, tail, settings, queries, 2, after=first)
    assert torch.equal(second.indices, take(prism, tail, settings, queries, 2).indices)
    assert second.candidates is not None and second.candidates.context == tail.length
