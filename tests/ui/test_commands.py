from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from tests.ui.fake_session import ESCAPES, FakeSession, stream, view
from warpcortex_cli.engine.session import UndoResult
from warpcortex_cli.engine.view import MemoryView
from warpcortex_cli.errors import UsageError
from warpcortex_cli.memory.store import Tier
from warpcortex_cli.ui.commands import COMMANDS, Desk, is_command, is_known, run_command


@pytest.fixture
def desk() -> Desk:
    return Desk(FakeSession(), Console(file=StringIO(), width=80, highlight=False, markup=False), True)  # type: ignore[arg-type]


def said(desk: Desk, line: str) -> str:
    run_command(desk, line)
    out: str = desk.console.file.getvalue()  # type: ignore[attr-defined]
    desk.console.file = StringIO()
    return out


def test_help_names_every_command(desk: Desk) -> None:
    text = said(desk, "/help")
    assert all(f"/{c.name} {c.argument}".strip() in text for c in COMMANDS)
    assert [c.name for c in COMMANDS] == [
        "help",
        "agents",
        "thoughts",
        "memory",
        "inject",
        "undo",
        "gate",
        "load",
        "profile",
        "clear",
        "save",
        "exit",
    ]


@pytest.mark.parametrize(
    ("line", "command"), [("/help", True), ("/x y", True), ("/usr/bin", False), ("/", False), ("1/2", False)]
)
def test_what_is_a_command(line: str, command: bool) -> None:
    assert is_command(line) is command
    assert is_known("/HELP") and not is_known("/x y")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/thougths", "there is no command /thougths; did you mean /thoughts?"),
        ("/zzzz", "there is no command /zzzz."),
        ("/inject maybe", "on or off"),
        ("/gate high", "from -1 to 1"),
        ("/gate nan", "from -1 to 1"),
        ("/gate 7", "from -1 to 1"),
        ("/load", "needs a file name"),
        ("/load /no/such", "there is no notes file"),
        ("/save", "needs a file name"),
        ("/save /no/such/dir/x", "cannot write"),
        ("/save ~nosuchuser/x", "home folder"),
        ("/save " + "x" * 5000, "cannot write"),
        ("/load " + "x" * 5000, "cannot read"),
        ("/load ''", "needs a file name"),
        ("/clear now", "takes no argument"),
    ],
)
def test_wrong_use_is_one_sentence(desk: Desk, line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        run_command(desk, line)
    assert message in caught.value.message and "\n" not in caught.value.message


def test_settings(desk: Desk) -> None:
    session: FakeSession = desk.session  # type: ignore[assignment]
    assert "off" in said(desk, "/inject off") and session.injecting is False and not desk.injecting
    assert "are injected" in said(desk, "/inject on") and session.injecting is True
    assert "threshold 0.25" in said(desk, "/gate 0.25") and "threshold 0.25" in said(desk, "/gate")
    said(desk, "/clear")
    assert session.cleared
    said(desk, "/exit")
    assert desk.leaving


def test_undo(desk: Desk) -> None:
    session: FakeSession = desk.session  # type: ignore[assignment]
    assert "nothing" in said(desk, "/undo")
    list(session.send("How many?"))
    session.turns.pop()
    assert said(desk, "/undo") == "Took back the turn: How many?\n"
    session.undo = lambda: UndoResult("thought", "[b]47" + ESCAPES)  # type: ignore[method-assign]
    assert said(desk, "/undo") == "Withdrew the thought: [b]47\n"


def test_thoughts_and_agents(desk: Desk) -> None:
    text = said(desk, "/thoughts")
    assert "#1 injected  math: 47 + 86  score 0.83" in text and "133" in text and "above" in text
    session: FakeSession = desk.session  # type: ignore[assignment]
    session.view = view([stream(n, task="[x]" + ESCAPES) for n in range(1, 101)])
    text = said(desk, "/agents")
    assert "+60 earlier" in text and "Synapse v3: 64 of 1,204 tokens" in text and "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    session.view = view([stream(n, "injected", thought=f"t{n}") for n in range(1, 101)])
    text = said(desk, "/thoughts")
    assert "+60 earlier: 60 injected" in text and "t61" in text and "t60" not in text
    session.view = view([])
    assert "No Streams yet." in said(desk, "/agents") and "No Stream has finished" in said(desk, "/thoughts")
    session.earlier = [(7, f"[b]47{ESCAPES}")]
    text = said(desk, "/thoughts")
    assert "still holds 1 from earlier" in text and "#7 [b]47" in text and "\x1b" not in text


def test_memory_says_what_came_back_and_why(desk: Desk) -> None:
    assert "Everything is in the tail" in said(desk, "/memory")
    session: FakeSession = desk.session  # type: ignore[assignment]
    tiers = {"hot": Tier(2, 4096), "warm": Tier(30, 60 << 10), "cold": Tier(6_000, 12 << 20)}
    session.view = view(
        [], memory=MemoryView(700, 193_024, 41, 1_540, tiers, 17, "8", 1, "older context cannot be written to disk.")
    )
    text = said(desk, "/memory")
    for words in (
        "193,024",
        "6,000",
        "12.0 MiB",
        "at most 1,540 tokens",
        "stored as 8",
        "1 damaged",
        "cannot be written",
    ):
        assert words in text
    assert "Mara keeps [b]ropes[/b]" in text and "shares ropes, Mara" in text and "fingerprint is near" in text
    assert "\x1b" not in text and max(map(len, text.splitlines())) <= 80
    assert "tokens only 17" in " ".join(text.split())
    assert "2 hot 30 warm 6,000 cold 17 tokens only" in " ".join(said(desk, "/agents").split())
    session.view = view([], memory=replace(session.view.memory, bare=0))
    assert "tokens only" not in said(desk, "/memory") + said(desk, "/agents")


def test_each_warning_is_printed_once(desk: Desk) -> None:
    desk.warn()
    assert desk.console.file.getvalue() == ""  # type: ignore[attr-defined]
    session: FakeSession = desk.session  # type: ignore[assignment]
    session.view = view([], memory=replace(session.view.memory, failure="the disk is full", anew=2))
    desk.warn()
    desk.warn()
    text = desk.console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("the disk is full") == 1 and text.count("2 damaged blocks") == 1


def test_load_and_save(desk: Desk, tmp_path: Path) -> None:
    session: FakeSession = desk.session  # type: ignore[assignment]
    notes, target = tmp_path / "my notes.txt", tmp_path / "talk.md"
    notes.write_text("Mara keeps ropes: 47." + ESCAPES + "\n```\n")
    for written in (f'"{notes}"', str(notes).replace(" ", "\\ "), notes.as_uri()):
        assert "my notes.txt: 26 characters, 3 tokens" in said(desk, f"/load {written}")
    list(session.send("How many?"))
    assert "Saved" in said(desk, f"/save {target}")
    text = target.read_text()
    for part in [
        "## Notes",
        "````text\nMara keeps ropes: 47.",
        "## You\n\nHow many?",
        "## River\n\nLet me see. [MATH: 47 + 86]",
        "- injected, math: 47 + 86 -> 133 (score 0.83: above)",
    ]:
        assert part in text
    assert "\x1b" not in text and "\x9b" not in text
    said(desk, f"/save {target}")  # its own file may be written again
    (tmp_path / "other.md").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        run_command(desk, f"/save {tmp_path / 'other.md'}")


def test_profile(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    import warpcortex_cli.profile as profile

    wanted = SimpleNamespace(name="math", roles=[1, 2], injection=SimpleNamespace(enabled=False))
    monkeypatch.setattr(profile, "shipped_profiles", lambda: ["math", "pocket"])
    monkeypatch.setattr(profile, "load_profile", lambda name: wanted)
    assert "shipped are math, pocket" in said(desk, "/profile")
    assert "Profile math with 2 roles" in said(desk, "/profile math")
    assert desk.session.profile is wanted and desk.injecting is False
