"""Asks pocket the same questions on the CPU and elsewhere, in many ways; prints what both answered as JSON.

A program of its own: a made-up device is there for a whole process, and only once models are loaded.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from warpcortex_cli.engine.archive import Archive
from warpcortex_cli.engine.session import Session
from warpcortex_cli.eval.pocket import make_case
from warpcortex_cli.events import RiverText
from warpcortex_cli.memory.log import RecordLog
from warpcortex_cli.prism.load import load_prism_parts
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import Profile, load_profile

SMALL = {"window": 256, "recall": 128}
WAYS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {  # type of the model, and settings of the profile
    "plain": ("fp32", {}),
    "bf16": ("bf16", {}),
    "a past": ("fp32", {"memory": {**SMALL, "stored": "8"}}),
    "a cold past": ("fp32", {"memory": {**SMALL, "stored": "exact", "hot_mb": 0, "warm_mb": 0}}),
    "tokens only": ("fp32", {"memory": {**SMALL, "stored": "4/4", "hot_mb": 0, "warm_mb": 0, "cold_mb": 0}}),
    "one seat, int8": ("bf16", {"limits": {"stream_tail_stored": "int8", "streams": 1}}),
}
KINDS = {"plain": ("who-else", "total")}  # of questions; the others have the last one


def told(prism: Prism, profile: Profile, kind: str, folder: Path) -> list[Any]:
    """Answers to a question and another one behind it, between which the session is kept; and how it all is kept."""
    case = make_case(kind, 20, random.Random(kind), 0.3)
    session = Session(prism, profile)
    session.load_notes(case.notes)
    first = answer(session, case.question)
    stored = session.snapshot().memory.formats
    place = folder / f"{prism.device.type}-{kind}"
    with closing(RecordLog(place)) as log:
        archive = Archive(log)
        archive.restore(session)
        archive.save(session)
    session = Session(prism, profile)
    with closing(RecordLog(place)) as log:
        Archive(log).restore(session)
        return [first, answer(session, "Where is it?"), {**kept(session), "stored": stored}]


def kept(session: Session) -> dict[str, Any]:
    """What shows which way was gone: types, tokens in the past, and where its blocks are."""
    memory = session.snapshot().memory
    return {
        "dtype": str(session.prism.dtype),
        "past": session.river.past.tokens,
        "tiers": {name: tier.blocks for name, tier in memory.tiers.items()},
        "bare": memory.bare,
    }


def answer(session: Session, question: str) -> list[Any]:
    text = "".join(event.text for event in session.send(question) if isinstance(event, RiverText))
    streams = session.snapshot().streams
    return [text, [[s.role, s.task, s.state, s.thought, s.landmarks, s.focus, s.kv_bytes] for s in streams]]


def main() -> None:
    source = resolve_model("pocket")
    loaded = {kind: [load_prism_parts(source, LoadOptions("cpu", kind)) for _ in range(2)] for kind in ("fp32", "bf16")}
    with torch.inference_mode():  # outside of it, views are made below what a device made of Python sees
        from tests.elsewhere.device import move

        prisms = {}
        for kind, ((here, tokenizer), (there, _)) in loaded.items():
            move(there)
            prisms[kind] = Prism(here, tokenizer, "pocket"), Prism(there, tokenizer, "pocket")
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for number, (way, (kind, settings)) in enumerate(WAYS.items()):
                given = load_profile("pocket").model_dump(by_alias=True)
                for part, changed in settings.items():
                    given[part] = {**given[part], **changed}
                given["river"]["wait_seconds"] = 3600.0  # a busy machine changes no answer
                given["roles"] = [{**role, "deadline_seconds": 3600.0} for role in given["roles"]]
                profile = Profile.model_validate(given)
                place = Path(folder) / str(number)
                place.mkdir()
                found[way] = [[told(p, profile, k, place) for k in KINDS.get(way, ("total",))] for p in prisms[kind]]
    json.dump({"device": str(prisms["fp32"][1].device), "ways": found}, sys.stdout)


if __name__ == "__main__":
    main()
