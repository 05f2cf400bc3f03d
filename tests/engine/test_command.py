"""`work: command`: a program of the user's choice, its answer, and what becomes of one that fails, hangs or floods."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import run
from tests.engine.test_invariants import river_text
from tests.engine.test_tools import INLINE, profile_of, tool_session
from warpcortex_cli import events as ev
from warpcortex_cli.engine.session import Session
from warpcortex_cli.errors import ProfileError
from warpcortex_cli.profile import parse_profile
from warpcortex_cli.profile_yaml import read_text

ASK = {**INLINE, "trigger": r"<(?P<task>[^>\n]{1,60})>", "thought": None, "work": "command", "deadline_seconds": 60}


def session_of(prism, code: str, wrote: str, *more: str, programs: tuple[str, ...] = (sys.executable,), **role: Any):
    """The River writes `wrote`; the role runs Python code with `more` as arguments."""
    command = [sys.executable, "-c", code, *more]
    return tool_session(prism, profile_of({**ASK, "command": command, **role}), wrote, programs=programs)


def reason(session: Session, events: list[ev.Event]) -> tuple[str, str]:
    (end,) = [e for e in events if isinstance(e, ev.StreamEnded)]
    return end.state, end.reason


def test_what_it_prints_is_the_thought(prism) -> None:
    session = session_of(prism, "import sys; print(sys.argv[1].upper())", "so <ropes> it is", "{task}")
    assert river_text(run(session)) == "so <ropes> ROPES it is"


def test_no_shell_reads_the_task(prism) -> None:
    session = session_of(prism, "import sys; print(len(sys.argv[1]))", "so <$(id); `id` *> it is", "{task}")
    assert river_text(run(session)) == "so <$(id); `id` *> 13 it is"


def test_a_profile_alone_starts_no_program(prism, tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'ran')!r}, 'w')"
    session = session_of(prism, code, "so <ropes> it is", programs=("/bin/true",))
    events = run(session)
    state, why = reason(session, events)
    assert state == "failed" and "--allow-program" in why and not (tmp_path / "ran").exists()
    assert river_text(events) == "so <ropes> it is"


def test_a_task_is_no_option(prism) -> None:
    session = session_of(prism, "print(1)", "so <--help> it is", "{task}")
    assert "hyphen" in reason(session, run(session))[1]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit(3)", "exit code 3"),
        ("import sys; sys.stdout.write('x' * 10_000_000)", "more than 20,000 characters"),
        ("print('x' * 30_000)", "more than 20,000 characters"),
    ],
)
def test_one_that_fails_or_floods_ends_alone(prism, code: str, said: str) -> None:
    session = session_of(prism, code, "so <ropes> it is")
    events = run(session)
    assert reason(session, events)[0] == "failed" and said in reason(session, events)[1]
    assert river_text(events) == "so <ropes> it is"


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX's")
def test_one_that_hangs_expires_and_ends_with_all_that_it_started(prism, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"open({str(note)!r}, 'w').write(str(p.pid)); time.sleep(600)"
    )
    session = session_of(prism, code, "so <ropes> it is", deadline_seconds=30.0)
    for event in session.send("ropes?"):
        if isinstance(event, ev.StreamStarted):
            while not (note.exists() and note.read_text()):
                time.sleep(0.01)
            session.conversation.crew.streams[1].role = session.profile.roles[0].model_copy(
                update={"deadline_seconds": 0.001}
            )
    assert session.stream(1).state == "expired"
    pid = int(note.read_text())
    for _ in range(3000):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] in "ZX":
            return
        time.sleep(0.01)
    pytest.fail("what the program started still runs")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("work: command", "roles[0].command: `work: command` names no program"),
        ("command: [date]", "roles[0].command: only `work: command` and `mcp` run a program"),
        ("work: command\n    command: [date, '{other}']", "unknown field {other}"),
        ("work: command\n    command: ['{task}']", "unknown field {task}"),
    ],
)
def test_mistakes_have_a_sentence(lines: str, expected: str) -> None:
    text = f"name: x\nroles:\n  - name: r\n    starts: turn\n    {lines}\n"
    with pytest.raises(ProfileError) as error:
        parse_profile(read_text(text, "my.yaml"))
    assert expected in "\n".join(error.value.problems)
