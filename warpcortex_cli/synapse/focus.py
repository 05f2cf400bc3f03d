"""The focus set: sentences of the River that a Stream's own task asks for, by its words and its queries."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from warpcortex_cli.memory.tail import Tail
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.synapse.mass import attention

_ATTENTION = 0.1  # weight of attention against shared words
LEAST = 0.3  # of the best sentence's worth, where words are shared; what is worth less only distracts
_SHORTEST = 3  # tokens of a sentence
_SINKS = 4  # first tokens, which are landmarks for every Stream anyway


@torch.inference_mode()
def focus_indices(
    prism: Prism,
    tail: Tail,
    queries: Sequence[Tensor] | Tensor,
    sentences: Tensor,
    budget: int,
    exclude: Tensor | None = None,
    task: Tensor | None = None,
    words: Tensor | None = None,
) -> Tensor:
    """Tokens of the sentences that the task asks for, the same for all layers and heads.

    A sentence is worth what it shares of the task's rare words and, a tenth as much, how the task's queries attend to
    it: where no word is shared, attention alone decides. Whole sentences, the best first, until no further one
    fits. A sentence longer than the whole budget is cut into equal pieces that count as sentences, so that a text
    without full stops still has parts. Time is linear in L; scores are held a bounded block at a time.

    Args:
        prism: the model.
        tail: the River's.
        queries: the task's rotated queries, per layer [heads, W, head_dim]; they see the whole context.
        sentences: number of each token's sentence, [L], for the first L tokens of the tail.
        budget: tokens to choose at most.
        exclude: sentences that hold one of these tokens are left out, bool [L].
        task: the task's words, as numbers, [n]; none: attention alone decides.
        words: the number of each token of the context, [L], equal for equal words.

    Returns:
        [<= budget] int64 on the CPU; sentences in falling order of worth, ascending inside each.

    Raises:
        ValueError: the tail is shorter than `sentences`.
    """
    view = tail.view(len(sentences))
    if budget <= 0 or not len(sentences):
        return torch.zeros(0, dtype=torch.long)
    ends = _pieces(sentences.cpu(), budget)
    lengths = torch.diff(ends, prepend=ends.new_zeros(1))
    worth = torch.zeros(len(ends), device=prism.device)
    for layer in range(prism.layers):
        keys, _ = view.layer(layer)
        worth += sentence_worth(queries[layer], keys, ends.to(prism.device), prism.scalings[layer])
    worth = worth.cpu().nan_to_num_(nan=0.0)
    left_out = torch.zeros(len(ends), dtype=torch.bool)
    if exclude is not None:
        upto = exclude.cumsum(0)[ends - 1]
        left_out = torch.diff(upto, prepend=upto.new_zeros(1)) > 0
    worth[left_out] = 0
    least = 0.0
    if task is not None and words is not None:
        shared = lexical_worth(task, words, ends).masked_fill_(left_out, 0)
        worth = _ATTENTION * worth / worth.max().clamp_min(1e-9) + shared / shared.max().clamp_min(1e-9)
        least = LEAST * float(worth.max()) if float(shared.max()) > 0 else 0.0
    worth[left_out] = -1
    chosen: list[Tensor] = []
    for place in worth.argsort(descending=True, stable=True).tolist():
        length, end = int(lengths[place]), int(ends[place])
        if worth[place] < least or budget <= 0:
            break
        if length <= budget:
            chosen.append(torch.arange(end - length, end))
            budget -= length
    return torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.long)


def lexical_worth(task: Tensor, words: Tensor, ends: Tensor) -> Tensor:
    """What sentences share of the task's words, rare ones counting more, [S].

    The sum of the `rarity` of the words that it holds.

    Args:
        task: numbers of words, [n]; 0 is none.
        words: those of the context, [L].
        ends: where each sentence ends (exclusive), ascending to L, [S].
    """
    worth = torch.zeros(len(ends))
    for word in task[task != 0].unique():
        upto = (words == word).cumsum(0)[ends - 1]
        holds = torch.diff(upto, prepend=upto.new_zeros(1)) > 0
        frequency = int(holds.sum())
        worth[holds] += rarity(frequency, len(ends))
    return worth


def rarity(holding: int, sentences: int) -> float:
    """The inverse document frequency of BM25 (Robertson & Zaragoza 2009): of a word that `holding` sentences hold."""
    return math.log(1 + (sentences - holding + 0.5) / (holding + 0.5))


def sentence_worth(queries: Tensor, keys: Tensor, ends: Tensor, scale: float) -> Tensor:
    """What one layer's heads say about each sentence, 0..1.

    A head's say is the attention mass that the task's tokens put on a sentence beyond what half of them put
    there anyway and beyond the uniform share, averaged over the tokens. So a head that always looks at the
    newest tokens says nothing, and one whose tokens `ropes` and `Mara` both find a sentence says more of it
    than of one with either. The layer says what its loudest head does. Mass on the very first tokens, where
    attention rests when it finds nothing, does not count.

    Args:
        queries: rotated, [heads, W, head_dim].
        keys: rotated, [kv_heads, L, head_dim].
        ends: where each sentence ends (exclusive), ascending to L, [S].
        scale: factor on attention scores.

    Returns:
        [S], fp32.
    """
    kv_heads, tokens = keys.shape[:2]
    width = queries.shape[1]
    uniform = torch.diff(ends, prepend=ends.new_zeros(1)) / tokens
    worth = torch.zeros(len(ends), device=keys.device)
    blocks: list[Tensor] = []
    group = queries.shape[0] // kv_heads * width
    rows = 0
    for _, _, probabilities in attention(queries, keys, scale):
        probabilities[:, :_SINKS] = 0
        upto = probabilities.cumsum(1)[:, ends - 1]
        blocks.append(torch.diff(upto, dim=1, prepend=upto.new_zeros(len(upto), 1)))
        rows += len(upto)
        if rows == group:  # all queries of a KV head
            mass = torch.cat(blocks).view(-1, width, len(ends))
            usual = uniform
            if width > 1:
                usual = torch.maximum(mass.median(1, keepdim=True).values, uniform)
            worth = torch.maximum(worth, (mass - usual).clamp_min_(0).mean(1).amax(0))
            blocks, rows = [], 0
    return worth


def _pieces(sentences: Tensor, budget: int) -> Tensor:
    """Ends (exclusive) of sentences, [S].

    A run of one or two tokens, such as a line break, belongs to the sentence before it. A sentence longer
    than `budget` is cut into pieces of half of it.
    """
    ends: list[int] = []
    start = end = 0
    for length in torch.unique_consecutive(sentences, return_counts=True)[1].tolist():
        if ends and length < _SHORTEST and end + length - start <= budget:
            ends.pop()
        else:
            start = end
        end += length
        parts = -(-(end - start) // max(1, budget // 2)) if end - start > budget else 1
        ends += [start + (end - start) * (i + 1) // parts for i in range(parts)]
    return torch.tensor(ends)
