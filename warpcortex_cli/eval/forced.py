"""Teacher forcing: the model's log-probabilities for given text."""

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
    """Log-probabilities after each token of a text without context, [tokens, vocabulary]."""
    row = Row(ids, list(range(len(ids))), prism.new_tail(len(ids)), logits="all")
    return torch.log_softmax(_logits(prism, row).float(), -1)


class Written(NamedTuple):
    """The forward of tokens that a Stream was forced to write.

    Attributes:
        scores: the log-probabilities before each token, [tokens, vocabulary].
        hidden: the tokens' last hidden states, [tokens, hidden_size], fp32.
        queries: rotated, of the positions that predict them, [layers, heads, tokens, head_dim].
    """

    scores: Tensor
    hidden: Tensor
    queries: Tensor


def stream_writes(prism: Prism, work: Writing, ids: list[int]) -> Written:
    """Forwards a started Stream's prompt and `ids` at once."""
    assert work.tail is not None
    tokens = [*work.pending, *ids]
    positions = list(range(work.position, work.position + len(tokens)))
    reads = work.reads
    row = Row(tokens, positions, work.tail, reads.segments, "all", queries=True, adapter=reads.adapter)
    result = prism.forward([row])[0]
    assert result.logits is not None and result.queries is not None
    asking = slice(len(tokens) - len(ids) - 1, len(tokens) - 1)
    scores = torch.log_softmax(result.logits[asking].float(), -1)
    return Written(scores, result.hidden[-len(ids) :].float(), result.queries[:, :, asking])


def begun_anew(session: Session, role: Role, task: str) -> Writing:
    """The work of a Stream as the session would start it now, outside of the session."""
    crew = session.conversation.crew
    brief = crew.briefing.task(0, role, task, {})
    work = crew.writer.take(crew.briefing.full(brief, session.river, session.profile, Journal()))
    work.start()
    return work


def written_anew(session: Session, role: Role, task: str, text: str) -> tuple[Written, list[int]]:
    """Forces a Stream `begun_anew` to write the end of `text`, as much as its tail holds; also returns its ids."""
    work = begun_anew(session, role, task)
    assert work.tail is not None
    room = work.tail.capacity - work.tail.length - len(work.pending)
    ids = session.prism.encode(text)[-room:]
    written = stream_writes(session.prism, work, ids)
    work.close()
    return written, ids


def attention_error(prism: Prism, queries: Tensor, whole: Readable, kept: Sequence[Readable]) -> list[float]:
    """The relative error of attention over `kept` against attention over `whole`, by layer.

    Args:
        queries: rotated, [layers, heads, tokens, head_dim], at positions after all keys.
        whole, kept: keys and values.
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
