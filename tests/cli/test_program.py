"""The installed program with pocket's own weights, as a user meets it: in a terminal, in a pipe, from any folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-c", "from warpcortex_cli.cli.app import main; main()"]
NOTES = "Mara keeps ropes: 47, brown, in the old mill.\nThe lamps of Otto: 12, red, at the barn.\n"
QUESTION = "How many ropes of Mara and lamps of Otto in total?"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment of its own: no settings, no cache, no network."""
    return {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
        "TERM": "xterm-256color",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture
def chat(home: dict[str, str], tmp_path: Path) -> Iterator[object]:
    pexpect = pytest.importorskip("pexpect")
    (tmp_path / "notes.txt").write_text(NOTES)
    child = pexpect.spawn(
        PROGRAM[0],
        [*PROGRAM[1:], "chat", "-m", "pocket"],
        env=home,
        cwd=str(tmp_path),
        dimensions=(30, 80),
        timeout=120,
        encoding="utf-8",
    )
    yield child
    child.close(force=True)


def test_type_look_undo_interrupt_leave(chat) -> None:  # type: ignore[no-untyped-def]
    pexpect = pytest.importorskip("pexpect")
    chat.expect("you>")
    chat.send("/load notes.txt\r")
    chat.expect(r"notes.txt: \d+ characters")
    chat.expect("you>")
    chat.send(QUESTION + "\r")
    chat.expect("1 Stream: 1 injected")  # the line under the finished answer
    chat.expect("you>")
    chat.send("/thoughts\r")
    chat.expect("math")
    chat.expect("you>")
    chat.send("/undo\r")
    chat.expect("ithdrew the thought")
    chat.expect("you>")
    chat.send("Tell me about the ropes of Mara.\r")
    chat.expect(["The", "tokens in"])
    chat.sendintr()  # stops the reply, or finds it done; either way the chat goes on
    chat.expect(["stopped", "tokens in", "Ctrl-D or /exit leaves"])
    chat.expect("you>")
    chat.sendeof()
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0


def ask(home: dict[str, str], folder: Path, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "ask", "-m", "pocket", *args],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        env=home,
        cwd=folder,
        timeout=120,
        check=False,
    )


def test_ask_in_a_pipe_from_another_folder(home: dict[str, str], tmp_path: Path) -> None:
    done = ask(home, tmp_path, QUESTION, "--json", stdin=NOTES)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema_version"] == 1
    assert [s["role"] for s in found["streams"]] == ["math"]
    assert "In total:" in found["answer"]


def test_ask_explain_shows_that_the_thought_mattered(home: dict[str, str], tmp_path: Path) -> None:
    done = ask(home, tmp_path, QUESTION, "--explain", stdin=NOTES)
    assert done.returncode == 0 and done.stdout.strip().endswith("In total: 59."), done.stderr
    ledger = COLOUR.sub("", done.stderr)
    assert "thought 1: 47 + 12 = 59" in ledger and "asked     math: ropes of Mara: 47 + lamps of Otto: 12" in ledger
    assert re.search(r"gate +score", ledger)
    found = json.loads(ask(home, tmp_path, QUESTION, "--explain", "--json", stdin=NOTES).stdout)["explain"]
    assert [e["thought"] for e in found] == ["47 + 12 = 59"] and "without" in found[0] and "changed" in found[0]


def test_a_calibrated_gate_is_used_and_a_damaged_one_reported(home: dict[str, str], tmp_path: Path) -> None:
    plain = json.loads(ask(home, tmp_path, QUESTION, "--json", stdin=NOTES).stdout)
    command = [*PROGRAM, "gate", "calibrate", "-m", "pocket", "--n", "14", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=home, cwd=tmp_path, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 0 < found["threshold"] < 1 and found["area"] > 0.8
    answer = json.loads(ask(home, tmp_path, QUESTION, "--json", stdin=NOTES).stdout)
    assert [s["state"] for s in answer["streams"]] == ["injected"] and answer["streams"][0]["gate_score"] != 0.5
    assert answer["streams"][0]["gate_score"] != plain["streams"][0]["gate_score"]
    Path(found["path"]).write_text("gone")
    done = ask(home, tmp_path, QUESTION, stdin=NOTES)
    assert done.returncode == 0 and "gate calibrate" in done.stderr and "Traceback" not in done.stderr


def test_a_session_survives_kill_9_and_goes_on(home: dict[str, str], tmp_path: Path) -> None:
    pexpect = pytest.importorskip("pexpect")
    (tmp_path / "notes.txt").write_text(NOTES)
    first = pexpect.spawn(
        PROGRAM[0],
        [*PROGRAM[1:], "chat", "-m", "pocket", "--session", "work", "--notes", "notes.txt"],
        env=home, cwd=str(tmp_path), dimensions=(30, 80), timeout=120, encoding="utf-8",
    )  # fmt: skip
    first.expect("you>")
    first.send("How many ropes does Mara have?\r")
    first.expect("tokens in")
    first.expect("you>")
    first.kill(9)
    first.wait()
    command = [*PROGRAM, "chat", "-m", "pocket", "--session", "work"]
    done = subprocess.run(
        command, input="Where are the lamps of Otto?\n", capture_output=True, text=True, env=home, cwd=tmp_path,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "at the barn" in done.stdout, done.stderr
    assert "session work: 3 turns" in done.stderr and "read anew" not in done.stderr

    def sessions(*args: str) -> subprocess.CompletedProcess[str]:
        full = [*PROGRAM, "sessions", *args]
        return subprocess.run(full, capture_output=True, text=True, env=home, timeout=60, check=False)

    listed = json.loads(sessions("list", "--json").stdout)["sessions"]
    assert [(s["name"], s["turns"]) for s in listed] == [("work", 5)]
    assert "Where are the lamps of Otto?" in sessions("show", "work").stdout
    assert [t["role"] for t in json.loads(sessions("export", "work").stdout)["turns"]] == [
        "notes", "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert sessions("fork", "work", "other").returncode == 0
    again = sessions("fork", "work", "other")
    assert again.returncode == 2 and "already" in again.stderr
    [folder] = {path.parent for path in tmp_path.rglob("work.wcx")}
    assert os.name == "nt" or {path.stat().st_mode & 0o777 for path in folder.glob("*.wcx")} == {0o600}
    said = sessions("show", "work").stdout
    assert sessions("rm", "work").returncode == 0
    done = subprocess.run(
        [*command[:-1], "other"], input="How many ropes does Mara have?\n", capture_output=True, text=True, env=home,
        cwd=tmp_path, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "47" in done.stdout and "read anew" not in done.stderr
    assert sessions("show", "other").stdout.startswith(said)
    assert sessions("rm", "other").returncode == 0 and "No sessions" in sessions("list").stdout
    silent = [*command[:-1], "silent"]
    done = subprocess.run(silent, input="/memory\n", capture_output=True, text=True, env=home, timeout=120, check=False)
    assert done.returncode == 0 and not [*folder.iterdir()]
    for wrong in ("../work", "gone"):
        done = sessions("show", wrong)
        assert done.returncode == 2 and "Traceback" not in done.stderr


def test_ask_with_markup_and_escapes_in_the_notes(home: dict[str, str], tmp_path: Path) -> None:
    """What notes hold is text: no colour, no cursor, no title of the window comes out of it."""
    notes = "Ma\x1b[31mra keeps ropes: 47, [bold]brown[/bold], in the \x1b]0;gone\x07old mill.\n"
    (tmp_path / "n.txt").write_text(notes)
    done = ask(home, tmp_path, "How many ropes does Mara have?", "--notes", "n.txt")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and "\x07" not in done.stdout + COLOUR.sub("", done.stderr)


def test_an_empty_question_and_a_missing_model(home: dict[str, str], tmp_path: Path) -> None:
    done = ask(home, tmp_path, "   ")
    assert done.returncode == 2 and "question" in done.stderr and "Traceback" not in done.stderr
    done = ask(home, tmp_path, "-m", "nobody/nothing-9B", "Hello")
    assert done.returncode == 3 and "nobody/nothing-9B" in done.stderr and "Traceback" not in done.stderr
