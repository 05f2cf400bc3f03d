"""What becomes of what was printed: a closed stdout, a full disk, a reader that leaves, Ctrl-C."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_ask import ANSWER, run, session  # noqa: F401
from tests.ui.fake_session import FakeSession
from warpcortex_cli.cli import app
from warpcortex_cli.errors import RunError
from warpcortex_cli.events import RiverText
from warpcortex_cli.ui.terminal import Forgiving, give_up

ROOT = Path(__file__).parents[2]
PRINTING = [
    ["--version"],
    ["--help"],
    ["profiles", "list"],
    ["profiles", "list", "--json"],
    ["profiles", "show", "pocket"],
    ["profiles", "validate", "pocket", "math"],
    ["profiles", "schema"],
    ["sessions", "list"],
    ["sessions", "list", "--json"],
    ["doctor"],
    ["doctor", "--json"],
    ["ask", "q"],
    ["ask", "q", "--json"],
]
linux = pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")


@pytest.fixture
def leave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[list[str], object], int]:
    monkeypatch.setattr("warpcortex_cli.cli.sessions.user_data_path", lambda *a, **k: tmp_path)
    monkeypatch.setattr("warpcortex_cli.cli.doctor._SECTIONS", {"Nothing": list})
    monkeypatch.setattr("warpcortex_cli.cli.doctor._print", lambda sections: None)

    def call(args: list[str], stdout: object) -> int:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as left:
            app.main(args)
        assert isinstance(left.value.code, int)
        return left.value.code

    return call


@pytest.mark.parametrize("args", PRINTING, ids=" ".join)
def test_a_closed_stdout_is_an_error(session: FakeSession, leave, args: list[str], capsys) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    assert leave(args, None) == 1
    assert "standard output is closed" in capsys.readouterr().err


@linux
@pytest.mark.parametrize("args", PRINTING, ids=" ".join)
def test_a_full_disk_is_an_error(session: FakeSession, leave, args: list[str], capsys) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    with open("/dev/full", "w") as full:
        assert leave(args, full) == 1
    assert "the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize("args", PRINTING, ids=" ".join)
def test_a_closed_pipe_is_reported_by_the_exit_code_alone(session: FakeSession, leave, args, capsys) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as pipe:
        assert leave(args, pipe) == 1
        pipe.flush()  # nothing is left that could fail later
    assert capsys.readouterr().err == ""


@linux
def test_nothing_is_said_when_the_program_ends() -> None:
    for target in ("/dev/full", "&-"):
        command = f"{sys.executable} -m warpcortex_cli --version >{target}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, cwd=ROOT)
        assert done.returncode == 1 and done.stderr.startswith("warpcortex: nothing more can be written: ")
        assert "Exception" not in done.stderr


@linux
def test_a_stderr_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    for target in ("/dev/full", "&-"):
        command = f"{sys.executable} -m warpcortex_cli profiles validate gone pocket 2>{target}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, cwd=ROOT)
        assert done.returncode == 2 and "pocket: valid" in done.stdout
    with open("/dev/full", "w") as full:
        stream = Forgiving(full)
        stream.write("lost")
        stream.flush()
        give_up(full)
    Forgiving(None).write("lost")
    assert not Forgiving(None).isatty()


def test_other_errors_of_the_system_are_told_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    def fails(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor", "weights.bin")

    monkeypatch.setattr(app, "app", fails)
    with pytest.raises(SystemExit):
        app.main([])
    assert "internal error (OSError" in capsys.readouterr().err


def test_a_turn_that_fails_leaves_what_was_written(session: FakeSession, run) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    def fail(event: object) -> None:
        session.failure = RunError("it broke.") if event is session.script[-1] else None

    session.on_event = fail
    code, out, err = run("ask", "q")
    assert (code, out) == (1, ANSWER + "\n") and "it broke." in err
    assert run("ask", "q", "--json")[:2] == (1, "")


@pytest.mark.parametrize("args", [["ask", "q"], ["ask", "q", "--json"], ["chat"]], ids=" ".join)
def test_ctrl_c_keeps_what_was_written(session: FakeSession, run, args: list[str]) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    more = [RiverText(text=" And"), RiverText(text=" so on")]
    session.script = [*session.script[:-1], *more, *[RiverText(text=" for ever")] * 9, session.script[-1]]
    session.on_event = lambda event: signal.raise_signal(signal.SIGINT) if event is more[1] else None
    handler = signal.getsignal(signal.SIGINT)
    code, out, err = run(*args, stdin=b"one?\ntwo?\n" if args == ["chat"] else b"")
    assert code == 130 and "stopped; the answer ends there" in err and signal.getsignal(signal.SIGINT) is handler
    if "--json" in args:
        report = json.loads(out)
        assert (report["finish_reason"], report["answer"]) == ("interrupted", f"{ANSWER} And")
    else:
        assert out == f"{ANSWER} And\n"
    assert [t.text for t in session.turns if t.role == "user"] == ["one?" if args == ["chat"] else "q"]


def test_ctrl_c_while_an_answer_is_explained_keeps_the_answer(session: FakeSession, run, monkeypatch) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("warpcortex_cli.engine.ledger.Ledger.__init__", lambda self, *a: None)
    monkeypatch.setattr("warpcortex_cli.engine.ledger.Ledger.entries", interrupted)
    code, out, err = run("ask", "q", "--explain", "--json")
    report = json.loads(out)
    assert (code, report["answer"], report["finish_reason"]) == (130, ANSWER, "stop") and "explain" not in report
    assert "the answer is not explained" in err
    assert run("ask", "q")[0] == 0
