"""A chat that is killed with -9 is taken up by the next one, which says so where something had to be computed anew."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from warpcortex_cli.engine.contents import BLOCK_OF_TAIL
from warpcortex_cli.errors import RunError
from warpcortex_cli.lab import killed
from warpcortex_cli.lab.killed import FIRST_PAGE, QUESTIONS, Life, live, notes_of, session_bytes
from warpcortex_cli.memory.log import RecordLog
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.probes.memory import peak_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pocket() -> Prism:
    return Prism.load(resolve_model("pocket", "auto"), device="cpu")


def test_notes_are_long_enough_and_begin_with_the_facts(pocket: Prism) -> None:
    text = notes_of(pocket, 3000, seed=1)
    assert text.startswith(FIRST_PAGE) and 3000 <= len(pocket.encode(text)) < 6000
    rest = text.removeprefix(FIRST_PAGE)
    assert not any(name in rest for name in ("Mara", "Otto", "Tilda")) and text == notes_of(pocket, 3000, seed=1)


def test_it_is_taken_up_and_damage_is_seen(pocket: Prism, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notes = tmp_path / "notes.txt"
    notes.write_text(notes_of(pocket, 1500, seed=2))
    first = live(tmp_path, notes)
    assert first.right == len(QUESTIONS) and first.loaded < first.seconds and not first.taken_up
    assert any("notes.txt:" in line and "tokens" in line for line in first.said)
    assert session_bytes(tmp_path) > 1500 * 512
    again = live(tmp_path)
    assert again.taken_up.startswith("session killed: 9 turns") and again.anew == []
    assert again.right == len(QUESTIONS) and again.loaded == 0 and again.peak > 100 << 20
    [path] = tmp_path.rglob("killed.wcx")
    with RecordLog(path, readonly=True) as log:
        offset = next(r.offset + r.length // 2 for r in reversed(log.records) if r.kind == BLOCK_OF_TAIL)
    data = bytearray(path.read_bytes())
    data[offset] ^= 255
    path.write_bytes(data)
    assert any("computed anew" in line for line in live(tmp_path).anew)
    path.write_text("Dear Mara, the ropes are in the old mill, and so am I.")
    with pytest.raises(RunError, match="nothing in this file is a record"):
        live(tmp_path)


def test_what_is_right() -> None:
    values = list(QUESTIONS.values())
    assert Life(0, 0, [f"So: {v}." for v in values], [], 0).right == len(QUESTIONS)
    assert Life(0, 0, [f"So: {v}0." for v in values], [], 0).right == Life(0, 0, [""] * 4, [], 0).right == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is what the process holds now")
def test_the_peak_of_a_process_is_not_what_it_holds_now() -> None:
    before, now = peak_of(os.getpid()), psutil.Process().memory_info().rss
    held = bytearray(before)  # other tests of this process may have left their own mark, far above what it holds now
    held[::4096] = bytes([1]) * len(held[::4096])
    del held
    assert peak_of(os.getpid()) > 0.9 * (now + before)


def test_the_command_reports(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answers = list(QUESTIONS.values())
    lives = [
        Life(2.0, 3.0, answers, ["notes.txt: 9 characters, 4 tokens"], 5 << 20),
        Life(
            0.0, 1.5, [*answers[:-1], "134"], ["session killed: 9 turns, 50 tokens", "3 tokens computed anew"], 4 << 20
        ),
    ]
    monkeypatch.setattr(killed, "live", lambda folder, notes=None: lives.pop(0))
    monkeypatch.setattr(sys, "argv", ["killed", "--tokens", "100"])
    killed.main()
    out = capsys.readouterr().out
    assert "read after 2.0 s" in out and "never more than 5 MiB; 4 of 4" in out
    assert "9 turns, 50 tokens" in out and "3 of 4" in out and "prefilled anew: 3 tokens computed anew" in out
