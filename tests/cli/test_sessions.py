"""`warpcortex sessions` on files that no model wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from warpcortex_cli.cli.sessions import app
from warpcortex_cli.engine.contents import MODEL, PAST, STATE, TOKENS, TURN, Said, State
from warpcortex_cli.memory.bases import links_of
from warpcortex_cli.memory.log import RecordLog

ROOT = Path(__file__).parents[2]
BLOCK = bytes(100_000)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("warpcortex_cli.cli.sessions.user_data_path", lambda *a, **k: tmp_path)
    return tmp_path / "sessions"


def sessions(*args: str) -> Result:
    return CliRunner().invoke(app, args)


def refused(*args: str) -> str:
    result = sessions(*args)
    assert result.exception is not None and result.exit_code != 0
    return str(result.exception)


def say(log: RecordLog, *texts: str) -> None:
    """Goes on with a conversation as the archive does; each text is a turn, with a block of KV."""
    before = [r for r in log.records if r.kind == TURN]
    if not log.records:
        log.append(MODEL, 0, json.dumps({"model": "pocket", "fingerprint": "f"}).encode())
    for number, text in enumerate(texts, len(before)):
        log.append(TOKENS, number, json.dumps({"ids": [number], "own": [0]}).encode())
        log.append(PAST, number, BLOCK)
        log.append(TURN, number, json.dumps(asdict(Said("user", text))).encode())
        state = State(number + 1, number + 1, [], [], 0)
        log.append(STATE, 0, json.dumps(asdict(state)).encode())
    log.commit()


def go_on(folder: Path, name: str, *texts: str) -> None:
    with RecordLog(folder / f"{name}.wcx") as log:
        say(log, *texts)


def said(name: str) -> list[str]:
    return [t["text"] for t in json.loads(sessions("export", name).stdout)["turns"]]


def listed() -> dict[str, tuple[int, int, int]]:
    """Turns, bytes and shared bytes of each."""
    rows = json.loads(sessions("list", "--json").stdout)["sessions"]
    return {r["name"]: (r["turns"], r["bytes"], r["shared"]) for r in rows}


def test_both_sides_of_a_fork_go_on(folder: Path) -> None:
    go_on(folder, "a", "one", "two")
    size = (folder / "a.wcx").stat().st_size
    assert "b goes on from where a is" in sessions("fork", "a", "b").stdout
    assert (folder / "b.wcx").stat().st_size < 500 and listed() == {
        "a": (2, size, size),
        "b": (2, listed()["b"][1], size),
    }
    assert listed()["b"][1] < size + 500
    go_on(folder, "a", "three of a")
    go_on(folder, "b", "three of b", "four of b")
    assert said("a") == ["one", "two", "three of a"] and said("b") == ["one", "two", "three of b", "four of b"]
    assert listed()["b"] == (4, size + (folder / "b.wcx").stat().st_size, size)
    assert listed()["a"] == (3, (folder / "a.wcx").stat().st_size, size)


@pytest.mark.parametrize("gone", ["a", "b"])
def test_either_can_be_deleted(folder: Path, gone: str) -> None:
    go_on(folder, "a", "one", "two")
    sessions("fork", "a", "b")
    go_on(folder, "b", "three")
    assert sessions("rm", gone).stdout == f"deleted {gone}\n"
    [left] = listed()
    assert left != gone and said(left)[:2] == ["one", "two"] and listed()[left][2] == 0
    kept = sum(path.stat().st_size for path in folder.iterdir())
    assert kept == listed()[left][1] and len([*folder.iterdir()]) == (2 if gone == "a" else 1)
    assert "no session named" in refused("show", gone)
    sessions("rm", left)
    assert not [*folder.iterdir()]


def test_a_chain_of_forks(folder: Path) -> None:
    go_on(folder, "a", "one")
    for old, new in (("a", "b"), ("b", "c"), ("c", "d")):
        assert sessions("fork", old, new).exit_code == 0
        if new != "c":
            go_on(folder, new, f"of {new}")
    assert said("c") == ["one", "of b"] and said("d") == ["one", "of b", "of d"]
    assert len(links_of(folder / "d.wcx")) == 2 and (folder / "d.wcx").stat().st_size < 1.1 * len(BLOCK)
    for name in "abc":
        sessions("rm", name)
    assert said("d") == ["one", "of b", "of d"] and [*listed()] == ["d"]


def test_what_is_not_a_whole_turn_yet_is_not_shared(folder: Path) -> None:
    """The other may be in the middle of a turn, in a chat of its own."""
    go_on(folder, "a", "one")
    with RecordLog(folder / "a.wcx") as log:
        log.append(TURN, 1, json.dumps(asdict(Said("user", "half"))).encode())
        assert sessions("fork", "a", "b").exit_code == 0
        say(log, "two")
    go_on(folder, "b", "another")
    assert said("b") == ["one", "another"]


def test_names_that_are_taken_or_busy(folder: Path) -> None:
    go_on(folder, "a", "one")
    go_on(folder, "b", "other")
    assert "there is a session named b already" in refused("fork", "a", "b") and said("b") == ["other"]
    assert "already" in refused("fork", "a", "a") and said("a") == ["one"]
    assert "no session named gone" in refused("fork", "gone", "c") and "no session" in refused("rm", "gone")
    with RecordLog(folder / "c.wcx") as log:
        assert "open in another chat" in refused("fork", "a", "c")
        say(log, "busy")
        assert "open in another chat" in refused("rm", "c")
    assert said("c") == ["busy"] and sorted(p.name for p in folder.iterdir()) == ["a.wcx", "b.wcx", "c.wcx"]


KILLED = """
import os, sys
from pathlib import Path
from warpcortex_cli.cli import sessions
from warpcortex_cli.memory import bases, log
sessions.user_data_path = lambda *a, **k: Path(sys.argv[1])
left = int(sys.argv[2])
def step(real):
    def counted(*args, **kwargs):
        global left
        if not left:
            os._exit(9)
        left -= 1
        return real(*args, **kwargs)
    return counted
os.link, os.fsync, os.unlink = step(os.link), step(os.fsync), step(os.unlink)
log.RecordLog._write, Path.unlink = step(log.RecordLog._write), step(Path.unlink)
sessions.app(sys.argv[3:], standalone_mode=False)
"""


@pytest.mark.parametrize("command", [["fork", "b", "c"], ["rm", "b"]])
def test_killed_at_any_moment(folder: Path, command: list[str]) -> None:
    go_on(folder, "a", "one")
    sessions("fork", "a", "b")
    go_on(folder, "b", "two")
    for steps in range(20):
        args = [sys.executable, "-c", KILLED, str(folder.parent), str(steps), *command]
        done = subprocess.run(args, cwd=ROOT, capture_output=True, timeout=60, check=False)
        assert done.returncode in (0, 9), done.stderr.decode()
        assert said("a") == ["one"]
        if command[0] == "fork":
            assert said("b") == ["one", "two"]
            assert "c" not in listed() or said("c") == ["one", "two"]
            if "c" not in listed():
                assert "no session named c" in refused("show", "c")
                assert sessions("fork", "b", "c").exit_code == 0 and said("c") == ["one", "two"]
            sessions("rm", "c")
            assert not [*folder.glob("c.*")]
        else:
            assert "b" not in listed() or said("b") == ["one", "two"]
            if [*folder.glob("b.*")]:
                assert sessions("rm", "b").exit_code == 0
            assert [p.name for p in folder.iterdir()] == ["a.wcx"]
            sessions("fork", "a", "b")
            go_on(folder, "b", "two")
        if done.returncode == 0:
            break
    else:
        pytest.fail("it never came to its end")
    assert steps >= 3
