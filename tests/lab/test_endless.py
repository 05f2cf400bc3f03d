"""The bench of a long past fills what the product then recalls from."""

from __future__ import annotations

from warpcortex_cli.events import RiverText
from warpcortex_cli.lab.endless import filled
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import load_profile


def test_the_first_note_is_found_behind_synthetic_blocks() -> None:
    prism = Prism.load(resolve_model("pocket", "auto"))
    session = filled(prism, load_profile("pocket"), 20_000, seed=1)
    river = session.river
    assert 20_000 - 32 <= river.past.tokens <= 20_000 and river.length == len(river.sentences.ids)
    assert len(river.past.store) == len(river.past.fingerprints) == river.past.tokens // 32
    text = "".join(e.text for e in session.send("How many lanterns does Zoltan have?") if isinstance(e, RiverText))
    assert "31" in text
    assert len(river.past.recalled) <= river.past.budget and river.tail.length < 1024
