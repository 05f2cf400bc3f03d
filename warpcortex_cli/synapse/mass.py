"""Attention probabilities of a few queries over a long context, computed in bounded blocks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 1 << 17
"""Numbers computed at once in a pass over a long context, 512 KiB in fp32: they stay in the cache."""
SCORES = 1 << 20
"""Scores held at once where all of a context's are needed, 4 MiB."""


def attention(
    queries: Tensor, keys: Tensor, scale: float, *, newest: bool = False
) -> Iterator[tuple[int, int, Tensor]]:
    """Softmax over the whole context, block by block. Each row of a block is one query of one head.

    Rows of a KV head are ordered by query head, then by query.

    Args:
        queries: [heads, W, head_dim], rotated.
        keys: [kv_heads, L, head_dim], rotated.
        scale: factor on the scores.
        newest: whether the queries belong to the last W tokens of the context, and so see only tokens before them.
            Otherwise they see all tokens.

    Yields:
        (KV head, the block's first row in it, probabilities [rows, L] in fp32, valid until the next block).
    """
    kv_heads, tokens, dim = keys.shape
    width = queries.shape[1]
    rows = queries.reshape(kv_heads, -1, dim).float() * scale
    step = max(1, SCORES // max(1, tokens))
    part = max(1, CHUNK // dim)
    room = torch.empty(min(step, rows.shape[1]), tokens, device=keys.device)
    for head in range(kv_heads):
        for start in range(0, rows.shape[1], step):
            some = rows[head, start : start + step]
            scores = room[: len(some)]
            for first in range(0, tokens, part):
                torch.mm(some, keys[head, first : first + part].float().T, out=scores[:, first : first + part])
            if newest:
                last = torch.arange(start, start + len(scores), device=keys.device) % width + tokens - width
                # Only the last W columns can be hidden from anyone.
                tail = torch.arange(max(0, tokens - width), tokens, device=keys.device)
                scores[:, -len(tail) :].masked_fill_(tail > last[:, None], -torch.inf)
            scores.sub_(scores.amax(1, keepdim=True)).exp_()
            yield head, start, scores.div_(scores.sum(1, keepdim=True))
