"""The Synapse on tiny random models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from warpcortex_cli.memory.tail import Tail
from warpcortex_cli.prism.prism import Prism, Row
from warpcortex_cli.profile import SynapseSettings
from warpcortex_cli.synapse.landmarks import Coverage
from warpcortex_cli.synapse.snapshot import Synapse, take

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
    assert synapse.nbytes == kept * prism.kv_bytes_per_token
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
