"""A swarm through the engine: nothing is lost, doubled or piles up, and thoughts are those of a Stream alone."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import make_profile
from tests.engine.conftest import prism as babbling  # noqa: F401
from warpcortex_cli.cli import app
from warpcortex_cli.engine.session import Session
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.swarm.plans import Plans
from warpcortex_cli.swarm.swarm import Swarm, inject, run
from warpcortex_cli.swarm.thoughts import Answered, Thoughts, thoughts_in

NOTES = "Mara keeps ropes: 47, brown, in the old mill. The lamps of Otto: 12, red, at the barn."


def _tasks(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"id": f"t{i}", "task": text}) + "\n" for i, text in enumerate(texts)))
    return path


def _sums(path: Path, n: int) -> Path:
    return _tasks(path, [f"{i} + 1" if i % 7 else "no sum" for i in range(n)])


def _session(prism: Prism, **role: Any) -> Session:
    return Session(prism, make_profile(role={"name": "helper", **role}))


def _run(
    session: Session, tasks: Path, log: Thoughts, plans: Plans, until: Callable[[], bool] = lambda: False
) -> Swarm:
    swarm = Swarm(session, tasks, plans, log.answered)
    run(session, swarm, log.append, until)
    return swarm


def test_each_task_is_answered_once_wherever_the_run_was_left(prism: Prism, tmp_path: Path) -> None:
    tasks, path = _sums(tmp_path / "tasks.jsonl", 40), tmp_path / "thoughts.jsonl"
    session = _session(prism, work="calculator")
    for left in (1, 3, None):
        with Thoughts(path, "0a1b2c3d", 2, resume=True) as log:
            steps = iter(range(left or 1000))
            _run(
                session, tasks, log, Plans("helper", awake=5, samples=2), lambda steps=steps: next(steps, None) is None
            )
    lines = list(thoughts_in(path))
    assert sorted((d["line"], d["sample"]) for d in lines) == [(n, s) for n in range(1, 41) for s in range(2)]
    for line in lines:
        i = line["line"] - 1
        said, state = (f"{i} + 1 = {i + 1}", "injected") if i % 7 else ("", "failed")
        assert (line["id"], line["thought"], line["state"]) == (f"t{i}", said, state)
        assert line["score"] is None and line["certainty"] == (1.0 if said else None) and line["why"]


def test_what_is_held_does_not_depend_on_how_many_have_ended(prism: Prism, tmp_path: Path) -> None:
    """Counts the living objects after 1,500 and after 3,000 Streams."""
    tasks = _sums(tmp_path / "tasks.jsonl", 3000)
    session, held = _session(prism, work="calculator"), dict[int, int]()
    with Thoughts(tmp_path / "thoughts.jsonl", "0a1b2c3d", 1, resume=False) as log:

        def until() -> bool:
            if log.answered.count in (1500, 3000):
                gc.collect()
                held[log.answered.count] = len(gc.get_objects())
            return False

        swarm = _run(session, tasks, log, Plans("helper", awake=50), until)
    assert sum(swarm.states.values()) == 3000 and held.keys() == {1500, 3000}
    assert held[3000] - held[1500] < 200


def test_thoughts_are_those_of_a_stream_alone(babbling: Prism, tmp_path: Path) -> None:  # noqa: F811
    """Neither the others that are awake nor a run that was left change what a Stream draws."""
    tasks = _tasks(tmp_path / "tasks.jsonl", ["how many ropes", "where are the lamps", "what colour", "how many lamps"])
    written: list[dict[tuple[int, int], tuple[str, float]]] = []
    for awake, parts in ((1, 1), (8, 1), (3, 3)):
        path = tmp_path / f"{awake}.jsonl"
        for part in range(parts):
            session = _session(babbling, prompt="{task}")
            session.load_notes(NOTES)
            with Thoughts(path, "0a1b2c3d", 2, resume=True) as log:
                steps = iter(range(9 if part + 1 < parts else 1000))
                plans = Plans("helper", awake, samples=2, temperature=1.0)
                _run(session, tasks, log, plans, lambda steps=steps: next(steps, None) is None)
        written.append({(d["line"], d["sample"]): (d["thought"], d["certainty"]) for d in thoughts_in(path)})
    assert len(written[0]) == 8 and len({thought for thought, _ in written[0].values()}) > 4
    for other in written[1:]:
        assert {at: said for at, (said, _) in other.items()} == {at: said for at, (said, _) in written[0].items()}
        assert all(abs(other[at][1] - sure) < 1e-4 for at, (_, sure) in written[0].items())


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_the_gate_judges_and_nothing_enters_the_river(babbling: Prism, tmp_path: Path, threshold: float) -> None:  # noqa: F811
    tasks = _tasks(tmp_path / "tasks.jsonl", ["how many ropes", "where are the lamps"])
    profile = make_profile(gate={"mode": "calibrated", "threshold": threshold}, role={"prompt": "{task}"})
    session = Session(babbling, profile)
    session.load_notes(NOTES)
    before = session.river.length
    with Thoughts(tmp_path / "thoughts.jsonl", "0a1b2c3d", 1, resume=False) as log:
        _run(session, tasks, log, Plans("helper", awake=2, judge=True))
    lines = list(thoughts_in(tmp_path / "thoughts.jsonl"))
    assert {d["state"] for d in lines} <= {"injected" if threshold == 0 else "rejected", "rejected", "expired"}
    assert any(isinstance(d["score"], float) for d in lines)
    assert session.river.length == before and not session.river.asides and session.river.idle


def test_the_best_thoughts_that_have_room_stand_beside_the_river(babbling: Prism, tmp_path: Path) -> None:  # noqa: F811
    session = Session(babbling, make_profile(r"\[HELP: (?P<task>[a-z]{1,9})\]"))  # which it never writes
    lines = [{"task": f"{i}", "thought": f"ropes {i} of Mara"} for i in range(400)]
    given = inject(session, session.profile.roles[0], lines)
    assert 1 < len(given) < 400 and given[-1] == "ropes 0 of Mara"
    assert [s.role.name for s in session.streams] == ["helper"] * len(given)
    list(session.send("How many ropes?"))
    assert [a.text for a in session.river.asides] == given


_COMMAND = ("swarm", "{tasks}", "--role", "math", "-m", "pocket", "--out", "{out}", "--awake", "4", "--resume")


def test_a_killed_command_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """kill -9 in the middle; the same command finishes, and votes."""
    tasks, out = _tasks(tmp_path / "t.jsonl", [f"{i} + {i + 3}" for i in range(40, 64)]), tmp_path / "thoughts.jsonl"
    command = [word.format(tasks=tasks, out=out) for word in _COMMAND]
    process = subprocess.Popen([sys.executable, "-m", "warpcortex_cli", *command], stderr=subprocess.DEVNULL)
    while process.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") >= 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = out.read_bytes()
    whole = before[: before.rfind(b"\n") + 1]
    with pytest.raises(SystemExit) as left:
        app.main([*command, "--vote", "id"])
    said, err = capsys.readouterr()
    lines = list(thoughts_in(out))
    assert left.value.code == 0 and "are there already" in err and out.read_bytes().startswith(whole)
    assert sorted(d["line"] for d in lines) == list(range(1, 25))
    assert [json.loads(vote)["group"] for vote in said.splitlines()] == [f"t{i}" for i in range(24)]
    assert sum(d["thought"] == f"{d['task']} = {eval(d['task'])}" for d in lines) >= 20


@pytest.mark.parametrize(
    ("args", "tasks", "said"),
    [
        ([], None, "cannot read the tasks"),
        ([], "", "has no tasks"),
        ([], '{"task": "1 + 2"}\n{"task": 3}\n', "line 2 has no `task`"),
        (["--role", "cook"], '{"task": "1 + 2"}\n', "has no role 'cook'"),
        (["--judge"], '{"task": "1 + 2"}\n', "there are none"),
        (["--notes", "/no/such"], '{"task": "1 + 2"}\n', "no notes file"),
        (["--vote", "answer"], '{"task": "1 + 2"}\n', "has no 'answer' to vote by"),
        (["--out", "/no/such/file"], '{"task": "1 + 2"}\n', "cannot write /no/such/file"),
        (["--samples", "0"], '{"task": "1 + 2"}\n', "--samples"),
    ],
)
def test_wrong_usage_is_one_sentence_and_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], tasks: str | None, said: str
) -> None:
    path, out = tmp_path / "t.jsonl", tmp_path / "thoughts.jsonl"
    if tasks is not None:
        path.write_text(tasks)
    with pytest.raises(SystemExit) as left:
        app.main(["swarm", str(path), "--role", "math", "-m", "pocket", "--out", str(out), *args])
    printed, err = capsys.readouterr()
    assert left.value.code == 2 and said in err and "Traceback" not in err and not printed
    assert not out.exists()


def test_answers_to_other_tasks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from warpcortex_cli.cli.swarm import _check
    from warpcortex_cli.errors import UsageError
    from warpcortex_cli.profile import Role

    role = Role(name="helper", trigger=r"\[(?P<task>[a-z]{1,9})\]")
    tasks, path = _sums(tmp_path / "t.jsonl", 5), tmp_path / "thoughts.jsonl"
    with Thoughts(path, "0a1b2c3d", 1, resume=False) as log:
        log.append([{"line": 3, "sample": 0, "id": "t2", "task": "2 + 1"}])
    with Thoughts(path, "0a1b2c3d", 1, resume=True) as log:
        _check(log, tasks, role)
        for others, said in ((["a", "b", "c"], "another task"), (["a"], "which has only 1")):
            _tasks(tasks, others)
            with pytest.raises(UsageError, match=said):
                _check(log, tasks, role)
    assert Answered(1).last == -1
