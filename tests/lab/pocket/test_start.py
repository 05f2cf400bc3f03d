"""What training starts from: a circuit that finds the right one of many notes before anything was learnt."""

from __future__ import annotations

import random

import pytest
import torch
from tokenizers import Tokenizer

from warpcortex_cli.lab.pocket import conversation, tokenizer, train
from warpcortex_cli.lab.pocket.conversation import Piece
from warpcortex_cli.pocket import world
from warpcortex_cli.pocket.vocabulary import Words


@pytest.fixture(scope="module")
def tok() -> Tokenizer:
    return tokenizer.build(conversations=1500)


def first_layer_finds_the_count(model, tok: Tokenizer, style: int, seed: int) -> bool:
    """Whether the first head of layer 1 looks at the count that the answer is about to copy."""
    rng = random.Random(seed)
    w = world.make_world(Words(rng, "held-out", 0.5), 10)
    fact = rng.choice(w.facts)
    text = "\n".join(f.sentence(style) for f in w.facts)
    question = f"How many {fact.thing.many} does {fact.person} have?"
    answer = Piece(f"The {fact.name}: {fact.count}.", 1.0)
    ids, positions, _ = train.encode(tok, [*conversation._user(f"{text}\n\n{question}"), answer], 4000)
    mask = torch.full((1, 1, len(ids), len(ids)), float("-inf")).triu(1)
    with torch.inference_mode():
        out = model.model(
            input_ids=torch.tensor([ids]),
            position_ids=torch.tensor([positions]),
            attention_mask=mask,
            use_cache=False,
            output_attentions=True,
        )
    asks = len(ids) - 2 - len(str(fact.count))  # the token before the answer's first digit
    place = text.index(fact.sentence(style)) + fact.sentence(style).index(": ") + 2
    encoded = tok.encode(text, add_special_tokens=False)
    digit = next(i for i, (a, b) in enumerate(encoded.offsets) if a <= place < b and encoded.tokens[i] != "▁") + 1
    return int(out.attentions[1][0, 0, asks].argmax()) == digit


@pytest.mark.parametrize("style", [0, 1])
def test_recall_is_there_before_training(tok: Tokenizer, style: int) -> None:
    torch.manual_seed(1)
    model = train.build_model().eval()
    model.config._attn_implementation = "eager"
    chance = sum(first_layer_finds_the_count(model, tok, style, seed) for seed in range(12))
    train.help_recall(model, train.word_weights(tok))
    found = sum(first_layer_finds_the_count(model, tok, style, seed) for seed in range(12))
    assert chance <= 3 and found >= 9
