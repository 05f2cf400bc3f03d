"""`chat`: piped, and typed into in a pseudo-terminal; on a test double of the session."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.cli.test_ask import ANSWER, run, session  # noqa: F401
from tests.ui.fake_session import FakeSession
from warpcortex_cli.cli.chat import read_first, talk
from warpcortex_cli.errors import ModelError
from warpcortex_cli.memory.log import RecordLog
from warpcortex_cli.ui.prompt import Prompt

ROOT = Path(__file__).parents[2]
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>]")


def test_a_message_a_line(session: FakeSession, run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    notes = tmp_path / "n.txt"
    notes.write_text("Mara keeps ropes: 47.")
    piped = f"/load {notes}\nHow many?\n\n/usr/bin is text\n/exit\nnever\n".encode()
    code, out, err = run("chat", stdin=piped)
    assert (code, out) == (0, f"{ANSWER}\n{ANSWER}\n")
    assert "n.txt: 21 characters, 3 tokens" in err
    assert [t.text for t in session.turns if t.role == "user"] == ["How many?", "/usr/bin is text"]


def test_a_command_that_does_not_exist_is_said_and_no_message(session: FakeSession, run) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    code, out, err = run("chat", stdin=b"/laod notes.txt\nHow many?\n")
    assert (code, out) == (2, ANSWER + "\n")
    assert "there is no command /laod; did you mean /load?" in err
    assert [t.text for t in session.turns if t.role == "user"] == ["How many?"]


def test_a_full_disk_is_said_and_the_chat_goes_on(session: FakeSession, run) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    session.view = replace(session.view, memory=replace(session.view.memory, failure="older context stays in memory."))
    code, out, err = run("chat", stdin=b"How many?\nAnd now?\n")
    assert (code, out) == (0, f"{ANSWER}\n{ANSWER}\n") and err.count("older context stays in memory.") == 1


def test_a_line_that_is_not_text(session: FakeSession, run) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    code, out, err = run("chat", stdin=b"fine\ncaf\xe9\n")
    assert (code, out) == (2, ANSWER + "\n") and "line 2 of standard input" in err


def test_ctrl_c_that_comes_as_a_reply_ends_does_not_end_the_chat(
    session: FakeSession,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed = iter(["How many?", "And now?"])

    def read(_: Prompt) -> str:
        line = next(typed, None)
        if line is None:
            raise EOFError
        return line

    monkeypatch.setattr(Prompt, "read", read)
    talk(session, Console(file=io.StringIO()), lambda: signal.raise_signal(signal.SIGINT))  # type: ignore[arg-type]
    assert [t.text for t in session.turns if t.role == "user"] == ["How many?", "And now?"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_session_that_cannot_be_is_refused_before_the_model_is_loaded(run, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    loaded: list[object] = []

    def load(**options: object) -> None:
        loaded.append(options)
        raise ModelError("there is no model.")

    def refused(name: str, code: int, said: str) -> bool:
        left, _, err = run("chat", "--session", name, stdin=b"How many?\n")
        return left == code and said in " ".join(err.split()) and "Traceback" not in err

    monkeypatch.setattr(sys.modules["warpcortex_cli.cli.chat"], "open_prism", load)
    monkeypatch.setattr("warpcortex_cli.cli.sessions.user_data_path", lambda *a, **k: tmp_path)
    folder = tmp_path / "sessions"
    folder.mkdir()
    (folder / "letter.wcx").write_text("Dear Mara, the ropes are in the old mill, and so am I.")
    assert refused("../work", 2, "not a valid session name") and refused(
        "letter", 1, "nothing in this file is a record"
    )
    with RecordLog(folder / "busy.wcx") as log:
        log.append(1, 0, b"{}")
        assert refused("busy", 2, "open in another chat")
    assert not loaded and (folder / "letter.wcx").read_text().startswith("Dear Mara")
    assert refused("new", 3, "there is no model") and loaded
    assert sorted(p.name for p in folder.iterdir()) == ["busy.wcx", "letter.wcx"]  # nothing was kept in new


DRIVER = """
import sys, time
from tests.ui.fake_session import FakeSession, REPLY
from warpcortex_cli.cli import chat as module, app
from warpcortex_cli.events import RiverText, RiverFinished
import warpcortex_cli.engine.session as engine
fake = FakeSession([*REPLY[:-1], *(RiverText(text=f" word{n}") for n in range(400)), REPLY[-1]])
fake.on_event = lambda event: time.sleep(0.02)
module.open_prism = lambda **k: (fake.prism, fake.profile)
module.stored_calibration = lambda prism: None
engine.Session = lambda *a, **k: fake
app.main(["chat"])
"""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[object]:
    pexpect = pytest.importorskip("pexpect")
    env = {
        **os.environ,
        "XDG_STATE_HOME": str(tmp_path),
        "TERM": "xterm-256color",
        "PYTHONPATH": str(ROOT),
        "NO_COLOR": "1",
        "COLUMNS": "40",  # of another terminal
        "LINES": "7",
    }
    child = pexpect.spawn(
        sys.executable,
        ["-c", DRIVER],
        env=env,
        dimensions=(24, 80),
        timeout=30,
        encoding="utf-8",
        cwd=str(ROOT),
    )
    yield child
    child.close(force=True)


def test_type_interrupt_undo_leave(terminal) -> None:  # type: ignore[no-untyped-def]
    terminal.expect("you>")
    terminal.send("How many?\r")
    terminal.expect("word5 ")
    terminal.expect("Synapse")
    terminal.sendintr()
    terminal.expect("stopped")
    terminal.expect("you>")
    terminal.send("/undo\r")
    terminal.expect("Took back the turn: ")
    terminal.expect("you>")
    terminal.send("/thougths\r")
    terminal.expect("did you mean /thoughts")
    terminal.expect("you>")
    terminal.send("half a line")
    terminal.sendintr()
    terminal.sendintr()
    terminal.expect("Ctrl-D or /exit leaves")
    terminal.expect("you>")
    terminal.sendeof()
    terminal.wait()
    assert terminal.exitstatus == 0


def test_the_screen_and_what_is_typed_ahead(terminal) -> None:  # type: ignore[no-untyped-def]
    pyte = pytest.importorskip("pyte")
    screen = pyte.HistoryScreen(80, 24, history=2000, ratio=0.5)
    stream = pyte.Stream(screen)
    terminal.expect("you>")
    seen = terminal.before + terminal.after
    terminal.send("How many?\r")
    terminal.expect("word50 ")
    seen += terminal.before + terminal.after
    terminal.send("/exit\r")
    terminal.expect("you>.*/exit")
    seen += terminal.before + terminal.after
    terminal.wait()
    assert terminal.exitstatus == 0
    assert "\x1b[?1049h" not in seen  # no alternate screen
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", seen)  # NO_COLOR
    stream.feed(seen)
    rows = ["".join(row[x].data for x in range(80)) for row in screen.history.top] + list(screen.display)
    text = "".join(rows)
    words = "".join(f" word{n}" for n in range(400))
    assert f"Let me see. [MATH: 47 + 86] They have [bold]133[/bold] ropes.{words}" in text
    assert "17 tokens in 0.5 s (34.0/s) · 1 Stream: 1 injected · Synapse 64 of 1,204" in text
    assert "╭" not in text and "Memory" not in text


@pytest.mark.parametrize("pressed", [False, True])
def test_notes_that_are_too_long_can_be_stopped(pressed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the chat goes on without them."""

    class Typed(io.StringIO):
        def isatty(self) -> bool:
            return True

    talk, out = FakeSession(), io.StringIO()
    load = talk.load_notes

    def slow(text, name, progress):  # type: ignore[no-untyped-def]
        if pressed:
            signal.raise_signal(signal.SIGINT)
        return load(text, name, progress)

    talk.load_notes = slow  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", Typed())
    assert read_first(talk, "text", "n.txt", Console(file=out)) is not pressed  # type: ignore[arg-type]
    assert talk.notes == ([] if pressed else ["text"])
    assert out.getvalue().startswith("Stopped; the notes were not loaded." if pressed else "n.txt: 4 characters")
