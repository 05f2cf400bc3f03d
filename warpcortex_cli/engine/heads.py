"""Which of a model's heads are retrieval heads. Fingerprints are made from their keys."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from warpcortex_cli.memory.fingerprints import Fingerprints
from warpcortex_cli.memory.store import BLOCK
from warpcortex_cli.phases import phase
from warpcortex_cli.prism.fingerprint import fingerprint
from warpcortex_cli.prism.kept import keep, kept, machine
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row

# Read twice in a row to find the retrieval heads. Random tokens would find the same heads, but not the mean key of a
# text.
PROBE = """The ferry to the island leaves at seven in the morning, when the harbour is still dark, and Judith is always
the first to step on board. She carries two baskets of bread for the bakery near the church, a box with 48 candles, and
the letters that her uncle forgot on Monday. "You are early again," says the captain; he has known her since 1987, and
he never asks for a ticket. The crossing takes forty minutes. On the left are the cliffs where gulls build their nests,
on the right the lighthouse, painted white and red: it was built by a wealthy merchant whose ship had sunk there. In
winter the sea is rough, so most of the islanders stay at home, mend their nets, drink tea and play chess. In summer
there are visitors with cameras, tents and bicycles, and the only hotel, which has 19 rooms, is full until October. What
do they all look for? Silence, perhaps, or a piece of amber on the beach; few of them find either."""
_KIND = "heads"
_known: WeakKeyDictionary[Prism, dict[int, Fingerprints]] = WeakKeyDictionary()  # by block size; without fingerprints


def calibrated(prism: Prism, block: int = BLOCK) -> Fingerprints:
    """Empty `Fingerprints` whose heads were chosen by reading a text twice; the same heads for the same weights.

    Choosing takes half a second for SmolLM2, so the result is cached by weights, types and machine.
    """
    known = _known.setdefault(prism, {})
    if block not in known:
        with phase("which heads find things again"):
            found = _restored(prism, block)
            known[block] = _measured(prism, block) if found is None else found
    return copy.copy(known[block])


def _restored(prism: Prism, block: int) -> Fingerprints | None:
    found = _none_yet(prism, block)
    try:
        found.restore(kept(_KIND, _key(prism)))
    except (ValueError, KeyError, TypeError):
        return None
    return found


def _measured(prism: Prism, block: int) -> Fingerprints:
    ids = prism.encode(PROBE)[: prism.max_context // 2]
    keys, queries = read(prism, [], ids * 2)
    found = _none_yet(prism, block)
    found.calibrate(keys, queries, len(ids))
    keep(_KIND, _key(prism), found.calibration())
    return found


def _none_yet(prism: Prism, block: int) -> Fingerprints:
    return Fingerprints(prism.layers, prism.heads, prism.kv_heads, prism.head_dim, block)


def _key(prism: Prism) -> dict[str, object]:
    types = [prism.quantize, str(prism.dtype), str(prism.layout.dtype), prism.device.type]
    return {"weights": fingerprint(prism), "types": types, "text": prism.encode(PROBE), **machine()}


@torch.inference_mode()
def read(prism: Prism, before: Sequence[int], ids: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Unrotated keys and queries of `ids`, read after `before`."""
    tail = prism.new_tail(len(before) + len(ids))
    positions = list(range(len(before) + len(ids)))
    queries = prism.forward([Row([*before, *ids], positions, tail, logits="none", queries=True)])[0].queries
    assert queries is not None
    places = torch.tensor(positions[len(before) :], device=prism.device)
    keys = [tail.layer(i)[0][:, len(before) :] for i in range(prism.layers)]
    rope = prism.rope
    unrotated = rope.unrotated(keys, places), rope.unrotated([q[:, len(before) :] for q in queries], places)
    tail.release()
    return unrotated
