"""The focus set: sentences of the River that a Stream's own task asks for, by its words and its queries.

Its queries are compared with keys in the few heads that find things again, those that fingerprints are made of: what
all heads attend to says less where no word is shared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from warpcortex_cli.memory.fingerprints import Fingerprints
from warpcortex_cli.memory.tail import Tail, TailView
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.synapse.worth import rarity, tells_apart, weighed

LEAST = 0.3  # of the best sentence's worth, where words are shared; what is worth less only distracts
_SHORTEST = 3  # tokens of a sentence
_SINKS = 4  # first tokens, on which attention rests where it finds nothing; they are landmarks for every Stream anyway


@torch.inference_mode()
def focus_indices(
    prism: Prism,
    fingerprints: Fingerprints,
    tail: Tail,
    queries: Sequence[Tensor],
    sentences: Tensor,
    budget: int,
    exclude: Tensor | None = None,
    task: Tensor | None = None,
    words: Tensor | None = None,
) -> Tensor:
    """Tokens of the sentences that the task asks for, the same for all layers and heads.

    A sentence is worth what it shares of the task's rare words and what the task's queries find in it, as `weighed`
    says. Whole sentences, the best first, until no further one fits. A sentence longer than the whole budget is cut
    into equal pieces that count as sentences, so that a text without full stops still has parts. Time is linear in L;
    products are held a bounded block at a time.

    Args:
        prism: the model.
        fingerprints: knows its heads that find things again; no fingerprint is needed.
        tail: the River's.
        queries: the task's unrotated queries, per layer [heads, W, head_dim].
        sentences: number of each token's sentence, [L], for the first L tokens of the tail.
        budget: tokens to choose at most.
        exclude: sentences that hold one of these tokens are left out, bool [L].
        task: the task's words, as numbers, [n]; none: its queries alone decide.
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
    found = fingerprints.exact(_keys(prism, fingerprints, view), queries, ends).nan_to_num_(nan=0.0)
    left_out = torch.zeros(len(ends), dtype=torch.bool)
    if exclude is not None:
        upto = exclude.cumsum(0)[ends - 1]
        left_out = torch.diff(upto, prepend=upto.new_zeros(1)) > 0
    shared = torch.zeros(len(ends)) if task is None or words is None else lexical_worth(task, words, ends)
    worth = weighed(shared.masked_fill_(left_out, 0).numpy(), found.masked_fill_(left_out, 0).numpy(), LEAST)
    chosen: list[Tensor] = []
    for place in (-worth).argsort(kind="stable").tolist():
        length, end = int(lengths[place]), int(ends[place])
        if worth[place] <= 0 or budget <= 0:
            break
        if length <= budget:
            chosen.append(torch.arange(end - length, end))
            budget -= length
    return torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.long)


def _keys(prism: Prism, fingerprints: Fingerprints, view: TailView) -> list[Tensor]:
    """Unrotated keys of the watched heads, each [L, head_dim]. The first tokens look like the mean of the others."""
    found, turn = [], prism.rope.turning(-view.positions)
    for layer, head in fingerprints.watches:
        rotated = view.layer(layer)[0][head, None]
        key = turn(layer, rotated, torch.empty(rotated.shape, device=rotated.device))[0]
        key[:_SINKS] = key[_SINKS:].mean(0) if len(key) > _SINKS else key[0]
        found.append(key)
    return found


def lexical_worth(task: Tensor, words: Tensor, ends: Tensor) -> Tensor:
    """What sentences share of the task's words, rare ones counting more, [S].

    The sum of the `rarity` of the words that it holds and that tell sentences apart.

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
        if tells_apart(frequency, len(ends)):
            worth[holds] += rarity(frequency, len(ends))
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
