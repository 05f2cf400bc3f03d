"""The files of tasks and of thoughts: what is refused, and that no cut loses or doubles an answer."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from warpcortex_cli.errors import RunError, UsageError
from warpcortex_cli.profile import Role
from warpcortex_cli.swarm.plans import Plans
from warpcortex_cli.swarm.reduce import best, votes
from warpcortex_cli.swarm.tasks import checksum, read
from warpcortex_cli.swarm.thoughts import Answered, Thoughts, thoughts_in

RUN = "0a1b2c3d"
ROLE = Role(name="helper", trigger=r"\[HELP: (?P<task>[a-z]{1,9})(?P<where>[a-z]?)\]")


def _line(line: int, sample: int = 0, **more: object) -> dict[str, object]:
    said = {"id": line, "task": f"task {line}\u00e9", "state": "injected", "thought": f"{line}", "score": None}
    return {"line": line, "sample": sample, **said, "certainty": 0.5, **more}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"47 + 86", "no JSON object"),
        (b"[1]", "no JSON object"),
        (b'{"task": "a", "id": NaN}', "no JSON object"),
        (b"\xff\xfe", "no JSON object"),
        (b"[" * 100_000, "no JSON object"),
        (b'{"id": 1}', "has no `task`"),
        (b'{"task": "  "}', "has no `task`"),
        (b'{"task": 7}', "has no `task`"),
        (b'{"task": "' + b"a" * (1 << 20) + b'"}', "more than 1,048,576 bytes"),
    ],
)
def test_a_line_that_is_no_task_is_named(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"task": "first"}\n\n' + line + b"\n")
    with pytest.raises(UsageError, match=r"line 3") as found:
        list(read(path, ROLE))
    assert said in found.value.message


def test_a_prompt_gets_its_fields_from_the_task(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"task": "a", "where": "here", "id": "x"}\n{"task": "b"}\n')
    role = ROLE.model_copy(update={"prompt": "{task} {where} {focus}"})
    tasks = read(path, role)
    assert next(tasks).groups == {"where": "here"}
    with pytest.raises(UsageError, match="has no text 'where'"):
        next(tasks)


def test_a_file_cut_anywhere_goes_on_without_losing_or_doubling_an_answer(tmp_path: Path) -> None:
    """Every position at which a killed process can have stopped to write."""
    path = tmp_path / "thoughts.jsonl"
    places = [(1, 0), (1, 1), (5, 1)]
    with Thoughts(path, RUN, 2, resume=False) as log:
        log.append(_line(*place) for place in places)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with Thoughts(path, RUN, 2, resume=True) as log:
            assert log.answered.count == whole[:cut].count(b"\n")
            log.append(_line(*place) for place in places if place not in log.answered)
        assert sorted((d["line"], d["sample"]) for d in thoughts_in(path)) == places, cut


@pytest.mark.parametrize(
    "foreign",
    [b"my diary", b"my diary\n", b'{"run": "ffffffff", "line": 1', b'{"line": 1}\n', b'{"run": "0a1b2c3d"}\n'],
)
def test_a_file_of_something_else_stays_as_it_is(tmp_path: Path, foreign: bytes) -> None:
    path = tmp_path / "diary.txt"
    path.write_bytes(foreign)
    with pytest.raises(UsageError, match="no thought of a swarm"):
        Thoughts(path, RUN, 1, resume=True)
    assert path.read_bytes() == foreign


def test_a_file_of_another_run_or_in_use_or_present_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "thoughts.jsonl"
    with Thoughts(path, RUN, 1, resume=False) as log:
        log.append([_line(1)])
        with pytest.raises(UsageError, match="another swarm is writing"):
            Thoughts(path, RUN, 1, resume=True)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="another model, role, notes or settings"):
        Thoughts(path, "ffffffff", 1, resume=True)
    with pytest.raises(UsageError, match="exists already"):
        Thoughts(path, RUN, 1, resume=False)
    with pytest.raises(UsageError, match="cannot write"):
        Thoughts(tmp_path / "no" / "such", RUN, 1, resume=False)
    assert path.read_bytes() == before


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "thoughts.jsonl"
    write = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) < 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[: len(data) - 20])

    with Thoughts(path, RUN, 1, resume=False) as log:
        log.append([_line(1)])
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(RunError, match="No space left on device") as found:
                log.append([_line(2), _line(3)])
        assert path.read_bytes() == before and found.value.hint and "--resume" in found.value.hint
        log.append([_line(2)])
    assert [d["line"] for d in thoughts_in(path)] == [1, 2]


def test_what_is_answered_takes_a_bit_and_a_checksum() -> None:
    answered = Answered(4)
    for line in range(1, 10_001):
        answered.add(line, line % 4, checksum(line, "x"))
        answered.add(line, line % 4, checksum(line, "x"))
    assert answered.count == 10_000 and answered.last == 10_000
    assert (7, 3) in answered and (7, 2) not in answered and (20_000, 0) not in answered
    assert answered._bits.__sizeof__() + answered._sums.__sizeof__() < 10_000 * 6


@pytest.fixture
def voted(tmp_path: Path) -> tuple[Path, Path]:
    """Two groups that are mixed in the file, and one of which nobody has a thought that stands."""
    tasks, thoughts = tmp_path / "tasks.jsonl", tmp_path / "thoughts.jsonl"
    groups = ["b", "a", "b", "b", "b", "c"]
    tasks.write_text("".join(json.dumps({"task": "t", "group": g, "id": {"q": g}}) + "\n" for g in groups))
    said = {1: "Yes", 2: "7", 3: "no", 4: "yes ", 5: "maybe", 6: "no"}
    states = {5: "rejected", 6: "expired"}
    with Thoughts(thoughts, RUN, 1, resume=False) as log:
        log.append(
            _line(line, thought=said[line], state=states.get(line, "injected"), certainty=line / 10)
            for line in (6, 4, 3, 1, 5, 2)
        )
    return tasks, thoughts


def test_votes_are_counted_within_groups(voted: tuple[Path, Path]) -> None:
    assert [v.to_json() for v in votes(*voted, ROLE, "group")] == [
        {"group": "b", "thought": "Yes", "votes": 2, "of": 4, "counts": {"Yes": 2, "no": 1}},
        {"group": "a", "thought": "7", "votes": 1, "of": 1, "counts": {"7": 1}},
        {"group": "c", "thought": None, "votes": 0, "of": 1, "counts": {}},
    ]
    assert [v.group for v in votes(*voted, ROLE, "id")] == [{"q": "b"}, {"q": "a"}, {"q": "c"}]
    with pytest.raises(UsageError, match="'answer' to vote by"):
        list(votes(*voted, ROLE, "answer"))


def test_the_best_thoughts_are_those_that_stand(voted: tuple[Path, Path]) -> None:
    assert [line["thought"] for line in best(voted[1], 3)] == ["yes ", "no", "7"]
    assert [line["thought"] for line in best(voted[1], 1)] == ["yes "]


def test_a_run_is_known_by_all_that_decides_what_is_written() -> None:
    from warpcortex_cli.profile import load_profile

    profile = load_profile("pocket")
    plans = Plans("math", awake=8)
    assert plans.run(profile, "pocket", 1) == Plans("math", awake=99).run(profile, "pocket", 1)
    others = [
        Plans("check", 8),
        Plans("math", 8, samples=2),
        Plans("math", 8, judge=True),
        Plans("math", 8, 1, False, 1.0),
    ]
    runs = {other.run(profile, "pocket", 1) for other in (plans, *others)}
    assert len({*runs, plans.run(profile, "smollm2", 1), plans.run(profile, "pocket", 2)}) == 7
