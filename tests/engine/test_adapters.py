"""A River and Streams with different LoRA adapters in the same steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.engine.conftest import make_profile, run
from tests.engine.test_invariants import river_text
from warpcortex_cli import events as ev
from warpcortex_cli.engine.session import Session
from warpcortex_cli.errors import ModelError


@pytest.fixture
def adapter(tmp_path: Path) -> str:
    """For the model of these tests; it changes what that writes."""
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    make = torch.Generator().manual_seed(5)
    sizes = {"A": (2, 96), "B": (48, 2)}
    base = "base_model.model.model.layers.1.mlp.down_proj.lora_"
    held = {f"{base}{part}.weight": torch.randn(size, generator=make) for part, size in sizes.items()}
    save_file(held, tmp_path / "adapter_model.safetensors")
    return str(tmp_path)


def texts_of_streams(events: list[ev.Event]) -> list[str]:
    return [e.text for e in events if isinstance(e, ev.StreamText)]


def test_a_roles_adapter_changes_its_streams_and_not_the_river(prism, adapter: str) -> None:
    apart = {"injection": {"enabled": False}}
    plain = run(Session(prism, make_profile(**apart)))
    adapted = run(Session(prism, make_profile(**apart, role={"adapter": adapter})))
    assert river_text(adapted) == river_text(plain)
    assert texts_of_streams(adapted) != texts_of_streams(plain) and texts_of_streams(adapted)


def test_the_rivers_adapter_changes_the_river(prism, adapter: str) -> None:
    plain = run(Session(prism, make_profile()))
    river = {"max_tokens": 40, "adapter": adapter}
    assert river_text(run(Session(prism, make_profile(river=river)))) != river_text(plain)


def test_rows_carry_the_adapter_of_whose_they_are(prism, adapter: str, monkeypatch) -> None:
    seen: dict[str | None, int] = {}
    forward = prism.forward

    def noting(rows):
        for row in rows:
            seen[row.adapter] = seen.get(row.adapter, 0) + 1
        return forward(rows)

    monkeypatch.setattr(prism, "forward", noting)
    run(Session(prism, make_profile(role={"adapter": adapter})))
    assert seen[None] > 40 and seen[adapter] > 8  # the River's tokens, thoughts on their way in; and the Streams'


def test_an_adapter_that_left_memory_and_then_the_disk_ends_its_streams_alone(prism, adapter: str, monkeypatch) -> None:
    """It is looked for before a step, which therefore never fails for the others' rows."""
    apart = {"injection": {"enabled": False}}
    plain = river_text(run(Session(prism, make_profile(**apart))))
    forward, steps = prism.forward, 0

    def forgetting(rows):
        nonlocal steps
        results = forward(rows)  # an error in here would have ended everybody's step
        steps += any(row.adapter for row in rows)
        if steps == 3:
            prism.adapters._held.clear()
            (Path(adapter) / "adapter_model.safetensors").unlink(missing_ok=True)
        return results

    monkeypatch.setattr(prism, "forward", forgetting)
    events = run(Session(prism, make_profile(**apart, role={"adapter": adapter})))
    ended = [e for e in events if isinstance(e, ev.StreamEnded)]
    assert river_text(events) == plain and steps == 3
    assert ended and all(e.state == "failed" and "is incomplete" in e.reason for e in ended)


def test_a_profile_with_an_adapter_that_is_not_there_changes_nothing(prism, tmp_path: Path) -> None:
    session = Session(prism, make_profile())
    before = session.profile
    with pytest.raises(ModelError, match="there is no adapter"):
        session.set_profile(make_profile(role={"adapter": str(tmp_path / "nowhere")}))
    assert session.profile is before and run(session)
