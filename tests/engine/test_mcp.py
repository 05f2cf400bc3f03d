"""`work: mcp`: a tool of a server that speaks over its pipes, and what becomes of one that fails, hangs or floods."""

from __future__ import annotations

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
from warpcortex_cli.engine.workers.base import WorkError
from warpcortex_cli.engine.workers.mcp import arguments
from warpcortex_cli.errors import ProfileError
from warpcortex_cli.profile import parse_profile
from warpcortex_cli.profile_yaml import read_text

# A server without the package: JSON-RPC, one message a line. Its first argument says how it behaves.
SERVER = r"""
import json, sys, time
how = sys.argv[1]
if how == "dies":
    raise SystemExit(3)
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    method, params = asked["method"], asked.get("params") or {}
    if how == "hangs" and method == "tools/call":
        open(sys.argv[2], "w").write("called")
        time.sleep(600)
    if how == "floods" and method == "tools/call":
        while True:
            sys.stdout.write("x" * 100_000)
    if how == "chatters" and method == "tools/call":
        while True:
            print(json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info"}}))
    if method == "initialize":
        result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                  "serverInfo": {"name": "fake", "version": "1"}}
    elif method == "tools/list":
        schema = {"type": "object", "properties": {"word": {"type": "string"}, "times": {"type": "integer"}}}
        result = {"tools": [{"name": "repeat", "inputSchema": schema}]}
    elif method == "tools/call":
        given = params["arguments"]
        text = given["word"] * given["times"]
        result = {"content": [{"type": "text", "text": text}], "isError": how == "errs"}
    else:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32601, "message": "no"}}), flush=True)
        continue
    print("not a message" if how == "babbles" else "", flush=True)
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""
ASK = {
    **INLINE,
    "trigger": r"<(?P<task>[^>\n]{1,60}?) (?P<n>\w+)>",
    "thought": None,
    "work": "mcp",
    "tool": "repeat",
    "arguments": {"word": "{task}!", "times": "{n}"},
    "deadline_seconds": 60,
}


def session_of(prism, how: str = "", *more: str, wrote: str = "so <ropes 2> it is", **role: Any) -> Session:
    command = [sys.executable, "-c", SERVER, how, *more]
    return tool_session(prism, profile_of({**ASK, "command": command, **role}), wrote, programs=(sys.executable,))


def end_of(events: list[ev.Event]) -> tuple[str, str]:
    (end,) = [e for e in events if isinstance(e, ev.StreamEnded)]
    return end.state, end.reason


@pytest.mark.parametrize("how", ["", "babbles"])
def test_what_the_tool_answers_is_the_thought(prism, how: str) -> None:
    pytest.importorskip("mcp")
    assert river_text(run(session_of(prism, how))) == "so <ropes 2> ropes!ropes! it is"


@pytest.mark.parametrize(
    ("how", "role", "said"),
    [
        ("dies", {}, "gave no answer"),
        ("errs", {}, "repeat: ropes!ropes!"),
        ("floods", {}, "wrote more than 1,048,576 bytes or 1,000 lines"),
        ("chatters", {}, "wrote more than 1,048,576 bytes or 1,000 lines"),
        ("", {"tool": "other"}, "the server has no tool other; its tools are repeat"),
        ("", {"arguments": {"word": "a", "times": "{task}"}}, "its argument times is to be a number, not 'ropes'"),
    ],
)
def test_one_that_fails_or_floods_ends_alone(prism, how: str, role: dict[str, Any], said: str) -> None:
    pytest.importorskip("mcp")
    events = run(session_of(prism, how, **role))
    state, why = end_of(events)
    assert state == "failed" and said in why
    assert river_text(events) == "so <ropes 2> it is"


def test_one_that_hangs_expires_and_its_server_is_end_of(prism, tmp_path: Path) -> None:
    pytest.importorskip("mcp")
    note = tmp_path / "called"
    session = session_of(prism, "hangs", str(note))
    for event in session.send("ropes?"):
        if isinstance(event, ev.StreamStarted):
            while not note.exists():
                time.sleep(0.01)
            work = session.conversation.crew.streams[1].work
            session.conversation.crew.streams[1].role = session.profile.roles[0].model_copy(
                update={"deadline_seconds": 0.001}
            )
    assert session.stream(1).state == "expired"
    for _ in range(3000):
        if work._process.poll() is not None:
            return
        time.sleep(0.01)
    pytest.fail("the server still runs")


def test_without_the_package_it_says_what_to_install(prism, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    events = run(session_of(prism))
    assert end_of(events) == ("failed", 'it takes the package mcp; pip install "warpcortex[mcp]" has it')
    assert river_text(events) == "so <ropes 2> it is"


def test_a_profile_alone_starts_no_server(prism) -> None:
    session = tool_session(prism, profile_of({**ASK, "command": [sys.executable, "-c", SERVER]}), "so <ropes 2> it is")
    assert "--allow-program" in end_of(run(session))[1]


def test_texts_are_filled_in_and_become_numbers_where_the_tool_wants_them(prism) -> None:
    session = session_of(prism)
    given = {"word": "a {task}", "times": "{n}", "much": "{n}", "on": True}
    role = session.profile.roles[0].model_copy(update={"arguments": given})
    brief = session.conversation.crew.briefing.task(1, role, "rope", {"n": "3"})
    schema = {"properties": {"times": {"type": "integer"}, "much": {"type": "number"}, "word": {"type": "string"}}}
    assert arguments(brief, schema) == {"word": "a rope", "times": 3, "much": 3.0, "on": True}
    with pytest.raises(WorkError, match="to be a number"):
        arguments(session.conversation.crew.briefing.task(1, role, "rope", {"n": "some"}), schema)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("work: mcp\n    tool: t", "`work: mcp` names no program"),
        ("work: mcp\n    command: [x]", "`work: mcp` names no tool"),
        ("tool: t", "only `work: mcp` has a tool"),
        ("arguments: {a: b}", "only `work: mcp` has arguments"),
        ("work: mcp\n    command: [x]\n    tool: t\n    arguments: {a: '{other}'}", "unknown field {other}"),
    ],
)
def test_mistakes_have_a_sentence(lines: str, expected: str) -> None:
    with pytest.raises(ProfileError) as error:
        parse_profile(read_text(f"name: x\nroles:\n  - name: r\n    starts: turn\n    {lines}\n", "my.yaml"))
    assert expected in "\n".join(error.value.problems)
