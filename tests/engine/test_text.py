"""Text out of tokens while they come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.prism.families import EXACT, tokenizer
from warpcortex_cli.engine.text import TextBuilder

WORDS = st.text(st.sampled_from("aR 47.\n\u00e9\u4e2d\U0001f422\u200d\U0001f469"), max_size=12)


class Decoder:
    """What a TextBuilder asks of a model; `most`: tokens that were decoded at once."""

    def __init__(self, kind: str) -> None:
        self.tokenizer = tokenizer(kind, "chatml")
        self.chat = SimpleNamespace(tags={})
        self.most = 0

    def decode(self, ids: list[int]) -> str:
        self.most = max(self.most, len(ids))
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def built(decoder: Any, ids: list[int]) -> list[str]:
    builder = TextBuilder(decoder)
    pieces = [*map(builder.add, ids), builder.finish()]
    assert builder.text == "".join(pieces)
    return pieces


@pytest.mark.parametrize("kind", sorted(EXACT))
@settings(max_examples=25, deadline=None)
@given(text=WORDS)
def test_pieces_are_the_text_and_no_half_characters(kind: str, text: str) -> None:
    decoder = Decoder(kind)
    ids = decoder.tokenizer(text, add_special_tokens=False).input_ids
    pieces = built(decoder, ids)
    assert "".join(pieces) == decoder.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("kind", ["byte-level", "always"])
def test_bytes_that_are_no_character_are_shown_soon_and_never_decoded_twice(kind: str) -> None:
    decoder = Decoder(kind)
    half = decoder.tokenizer("\U0001f422", add_special_tokens=False).input_ids[-1]  # its last byte
    pieces = built(decoder, [half] * 100)
    assert decoder.most <= 16 and all(any(pieces[i : i + 8]) for i in range(90))
