"""What a task's queries find in the sentences of the River's tail.

Queries are compared with keys in the few heads that find things again, those that fingerprints are made of: what all
heads attend to says less where no word is shared. Of tokens that left the tail only fingerprints are at hand.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from warpcortex_cli.memory.fingerprints import Fingerprints
from warpcortex_cli.memory.tail import Tail, TailView
from warpcortex_cli.prism.prism import Prism

SINKS = 4  # first tokens, on which attention rests when it finds nothing; always read (StreamingLLM, arXiv 2309.17453)


@torch.inference_mode()
def found_in_tail(
    prism: Prism, fingerprints: Fingerprints, tail: Tail, queries: Sequence[Tensor], first: int, ends: Tensor
) -> Tensor:
    """What queries find in consecutive stretches of a tail, fp32 [S] on the CPU; see `Fingerprints.exact`.

    Time is linear in the number of tokens; products are held a bounded block at a time.

    Args:
        prism: the model.
        fingerprints: knows its heads that find things again; no fingerprint is needed.
        tail: the River's.
        queries: the task's unrotated queries, per layer [heads, W, head_dim].
        first: where in the tail the first stretch begins.
        ends: where in the tail each stretch ends (exclusive), ascending, [S].

    Raises:
        ValueError: the tail is shorter than that.
    """
    view = tail.view(int(ends[-1]))
    keys = [key[first:] for key in _keys(prism, fingerprints, view)]
    return fingerprints.exact(keys, queries, ends - first).nan_to_num_(nan=0.0)


def _keys(prism: Prism, fingerprints: Fingerprints, view: TailView) -> list[Tensor]:
    """Unrotated keys of the watched heads, each [L, head_dim]. The first tokens look like the mean of the others."""
    found, turn = [], prism.rope.turning(-view.positions)
    for layer, head in fingerprints.watches:
        rotated = view.layer(layer)[0][head, None]
        key = turn(layer, rotated, torch.empty(rotated.shape, device=rotated.device))[0]
        key[:SINKS] = key[SINKS:].mean(0) if len(key) > SINKS else key[0]
        found.append(key)
    return found
