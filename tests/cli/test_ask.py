"""`ask` and piped `chat` through the command line, on a test double of the session."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.ui.fake_session import ESCAPES, FakeSession
from warpcortex_cli.cli import app
from warpcortex_cli.errors import ModelError, RunError
from warpcortex_cli.events import RiverFinished, RiverText

KEYS = {"schema_version", "model", "device", "answer", "seconds", "river_tokens", "streams"}
STREAM_KEYS = {"id", "role", "task", "state", "thought", "gate_score", "landmarks", "tokens"}
ANSWER = "Let me see. They have [bold]133[/bold] ropes."


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    fake = FakeSession()

    def make(
        prism: Any,
        profile: Any,
        *,
        seed: int,
        streams: bool,
        listeners: list[Any],
        calibration: Any,
        programs: Any,
        watched: bool,
    ) -> FakeSession:
        assert not watched  # nothing here is a terminal
        fake.seed, fake.listeners = seed, listeners
        fake.streams = streams  # type: ignore[attr-defined]
        return fake

    for command in ("ask", "chat"):
        monkeypatch.setattr(
            sys.modules[f"warpcortex_cli.cli.{command}"], "open_prism", lambda **k: (fake.prism, fake.profile)
        )
        monkeypatch.setattr(sys.modules[f"warpcortex_cli.cli.{command}"], "stored_calibration", lambda prism: None)
    monkeypatch.setattr("warpcortex_cli.engine.session.Session", make)
    return fake


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*args: str, stdin: bytes | None = b"") -> tuple[int, str, str]:
        source = None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", source)
        with pytest.raises(SystemExit) as left:
            app.main(list(args))
        out, err = capsys.readouterr()
        code = left.value.code
        assert isinstance(code, int)
        return code, out, err

    return call


def test_answer_on_stdout_alone(session: FakeSession, run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("ask", "How many?") == (0, ANSWER + "\n", "")
    assert run("ask", "How many?", stdin=None)[0] == 0


def test_json_is_one_object_with_the_keys(session: FakeSession, run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = run("ask", "How many?", "--json", "--seed", "7")
    report = json.loads(out)
    assert code == 0 and report.keys() >= KEYS and report["schema_version"] == 1
    assert (report["answer"], report["river_tokens"], report["seed"]) == (ANSWER, 17, 7)
    assert report["streams"][0].keys() >= STREAM_KEYS and report["streams"][0]["gate_score"] == 0.83
    assert "[MATH: 47 + 86]" in report["text"] and "\x1b" not in out and "\x9b" not in out


def test_notes_from_file_and_pipe(
    session: FakeSession, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("Mara keeps ropes: 47." + ESCAPES)
    assert run("ask", "How many?", "--notes", str(notes), stdin=b"Otto keeps lamps: 12.\r\n")[0] == 0
    assert session.notes == ["Mara keeps ropes: 47.", "Otto keeps lamps: 12.\n"]


@pytest.mark.parametrize(
    ("args", "stdin", "message"),
    [
        (["  "], b"", "the question is empty"),
        (["\x1b[2J"], b"", "the question is empty"),
        (["q", "--notes", "/no/such"], b"", "there is no notes file /no/such"),
        (["q", "--notes", "/"], b"", "folder"),
        (["q"], b"\x7fELF\0", "standard input is a binary file"),
        (["q"], b"caf\xe9", "standard input is not text"),
        (["q", "--trace", "/no/such/t"], b"", "cannot write the trace"),
        ([], b"", "question"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_sentence(
    session: FakeSession,
    run: Callable[..., tuple[int, str, str]],
    args: list[str],
    stdin: bytes,
    message: str,
) -> None:
    code, out, err = run("ask", *args, stdin=stdin)
    assert (code, out) == (2, "") and message in err.lower().replace("elf", "ELF") and "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code"), [(RunError("it broke."), 1), (ModelError("no model."), 3), (KeyboardInterrupt(), 130)]
)
def test_exit_codes(
    session: FakeSession, run: Callable[..., tuple[int, str, str]], error: Exception, code: int
) -> None:
    session.failure = error
    got, out, _ = run("ask", "q")
    assert (got, out) == (code, "")


def test_an_answer_that_was_cut_is_said_to_be(session: FakeSession, run: Callable[..., tuple[int, str, str]]) -> None:
    assert "cut" not in run("ask", "q")[2]
    session.script = [replace(e, reason="length") if isinstance(e, RiverFinished) else e for e in session.script]
    code, out, err = run("ask", "q")
    assert (code, out) == (0, ANSWER + "\n") and "cut at the profile's 17 tokens" in err


def test_a_terminal_gets_the_answer_as_it_is_written(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    from warpcortex_cli.cli.ask import say

    out, seen = Terminal(), []
    session.on_event = lambda event: seen.append(out.getvalue())
    say(session, "q", out)  # type: ignore[arg-type]
    assert out.getvalue() == ANSWER + "\n"
    assert "Let me see." in seen[4] and ANSWER in seen[-1]
    late: list[str] = []
    pipe = io.StringIO()
    session.on_event = lambda event: late.append(pipe.getvalue())
    say(session, "q", pipe)  # type: ignore[arg-type]
    assert pipe.getvalue() == ANSWER + "\n" and set(late) == {""}


def test_trace_and_no_streams(session: FakeSession, run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    assert run("ask", "q", "--trace", str(trace), "--no-streams")[0] == 0
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [line["event"] for line in lines] == [event.name for event in session.script]
    assert session.streams is False  # type: ignore[attr-defined]


def test_an_empty_reply(session: FakeSession, run: Callable[..., tuple[int, str, str]]) -> None:
    session.script = [
        RiverText(text="[X: 1]", request=True),
        RiverFinished(reason="stop", tokens=3, seconds=0.1),
    ]
    assert run("ask", "q")[:2] == (0, "\n")
