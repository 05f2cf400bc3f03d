"""Text that is given instead of sampled: what the model thinks of each of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from warpcortex_cli.engine.journal import Journal
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.workers.model import Writing
from warpcortex_cli.memory.segment import Readable
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row
from warpcortex_cli.profile import Role


def scores_of(prism: Prism, ids: list[int]) -> Tensor:
    """Log-probabilities of what follows each token of a text that stands alone, [tokens, vocabulary]."""
    row = Row(ids, list(range(len(ids))), prism.new_tail(len(ids)), logits="all")
    return torch.log_softmax(_logits(prism, row).float(), -1)


class Written(NamedTuple):
    """What a Stream made of tokens that it was made to write.

    Attributes:
        scores: the log-probabilities from which each would have been chosen, [tokens, vocabulary].
        hidden: last hidden states of them, [tokens, hidden_size], fp32.
        queries: rotated, of those that chose them, [layers, heads, tokens, head_dim].
    """

    scores: Tensor
    hidden: Tensor
    queries: Tensor


def stream_writes(prism: Prism, work: Writing, ids: list[int]) -> Written:
    """A Stream that has begun reads its prompt and writes `ids`, in one forward."""
    assert work.tail is not None
    tokens = [*work.pending, *ids]
    positions = list(range(work.position, work.position + len(tokens)))
    result = prism.forward([Row(tokens, positions, work.tail, work.reads.segments, "all", queries=True)])[0]
    assert result.logits is not None and result.queries is not None
    asking = slice(len(tokens) - len(ids) - 1, len(tokens) - 1)
    scores = torch.log_softmax(result.logits[asking].float(), -1)
    return Written(scores, result.hidden[-len(ids) :].float(), result.queries[:, :, asking])


def begun_anew(session: Session, role: Role, task: str) -> Writing:
    """The work of a Stream that the session would start now. It takes no part in the session."""
    crew = session.conversation.crew
    brief = crew.briefing.task(0, role, task, {})
    work = crew.writer.take(crew.briefing.full(brief, session.river, session.profile, Journal()))
    work.start()
    return work


def written_anew(session: Session, role: Role, task: str, text: str) -> tuple[Written, list[int]]:
    """A Stream `begun_anew` writes as much of the end of `text` as its tail holds, in token ids."""
    work = begun_anew(session, role, task)
    assert work.tail is not None
    room = work.tail.capacity - work.tail.length - len(work.pending)
    ids = session.prism.encode(text)[-room:]
    written = stream_writes(session.prism, work, ids)
    work.close()
    return written, ids


def attention_error(prism: Prism, queries: Tensor, whole: Readable, kept: Sequence[Readable]) -> list[float]:
    """How far attention over what is kept is from attention over the whole, by layer, relative to its length.

    Args:
        queries: rotated, [layers, heads, tokens, head_dim]; they stand behind all keys.
        whole, kept: what is attended to.
    """
    errors = []
    for layer in range(prism.layers):
        parts = [k.layer(layer) for k in kept]
        kept_kv = torch.cat([k for k, _ in parts], 1), torch.cat([v for _, v in parts], 1)
        exact, ours = (
            nn.functional.scaled_dot_product_attention(
                queries[layer].float(), k.float(), v.float(), scale=prism.scalings[layer], enable_gqa=True
            )
            for k, v in (whole.layer(layer), kept_kv)
        )
        errors.append(float((ours - exact).norm() / exact.norm().clamp_min(1e-12)))
    return errors


def _logits(prism: Prism, row: Row) -> Tensor:
    logits = prism.forward([row])[0].logits
    assert logits is not None
    return logits
