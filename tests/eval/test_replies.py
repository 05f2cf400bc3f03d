"""`eval replies`: what counts as a loop, the same prompts for both engines, and resuming a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from warpcortex_cli.cli.evaluate import app
from warpcortex_cli.errors import UsageError
from warpcortex_cli.eval import replies
from warpcortex_cli.eval.kept import Kept
from warpcortex_cli.eval.questions import mixed, questions
from warpcortex_cli.eval.replies import loops

PROBLEMS = '{"input": "Jo has 3 ropes. How many?", "target": 3}\n\n{"question": "And lamps?", "answer": "#### 4"}\n'
ASKED = {"question": "Where are the ropes?", "answers": [{"text": "the mill", "answer_start": 4}]}
DOCUMENTS = {"data": [{"paragraphs": [{"context": "In the mill.", "qas": [ASKED]}]}]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "problems.jsonl").write_text(PROBLEMS)
    (folder / "texts.json").write_text(json.dumps(DOCUMENTS))
    (folder / "README.md").write_text("not a question")
    return folder


def test_questions_of_both_formats(data: Path) -> None:
    one, two = questions(data / "problems.jsonl")
    assert (one.task, one.text, one.answers) == ("problems", "Jo has 3 ropes. How many?", ("3",))
    assert (two.text, two.answers) == ("And lamps?", ("#### 4",))
    (text,) = questions(data / "texts.json")
    assert (text.notes, text.text, text.answers) == ("In the mill.", "Where are the ropes?", ("the mill",))
    found = mixed(data, 9, 1)
    assert len(found) == 3 and found == mixed(data, 9, 1) and {q.task for q in found[:2]} == {"problems", "texts"}
    assert mixed(data, 2, 1) == found[:2]


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', '"x"'])
def test_a_file_without_questions_is_refused(tmp_path: Path, text: str) -> None:
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_text(text)
        with pytest.raises(UsageError, match="holds no questions"):
            questions(tmp_path / name)
    with pytest.raises(UsageError, match="cannot be read"):
        questions(tmp_path / "gone.jsonl")


def test_eight_tokens_four_times_among_the_last_128_are_a_loop() -> None:
    span = list(range(8))
    assert loops([*span, 91, *span, 92, *span, 93, *span])
    assert not loops([*span, 91, *span, 92, *span])
    assert not loops([*span, *range(100, 221), *span, *span, *span])  # the first one is too long ago
    assert loops([7] * 11) and not loops([7] * 10)  # they may overlap
    assert not loops([]) and not loops([1, 2, 3])


def test_a_run_goes_on_and_both_engines_read_the_same(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "replies.jsonl"
    command = ["replies", "-m", "pocket", "-p", "pocket", "--data", str(data), "--n", "3", "--max-tokens", "12"]
    command += ["--keep", str(out), "--json"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    found = json.loads(done.stdout)
    assert (found["profile"], found["max_tokens"]) == ("pocket", 12)
    assert [(r["engine"], r["n"]) for r in found["results"]] == [("warpcortex", 3), ("transformers", 3)]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    prompts = {(line["engine"], line["number"]): line["prompt"] for line in lines}
    for number in range(3):
        assert prompts["warpcortex", number] == prompts["transformers", number]
    whole = out.read_text().splitlines()
    out.write_text("\n".join([*whole[:2], whole[2][:40]]))  # killed while it wrote
    again = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    assert [r["n"] for r in again["results"]] == [3, 3]
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert kept[:2] == lines[:2] and [line["ids"] for line in kept] == [line["ids"] for line in lines]
    other = mixed(data / "texts.json", 1, 1)
    with pytest.raises(UsageError, match="replies to other questions"):
        replies.earlier(Kept(out, replies.FIRST), other)


def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "notes.txt"
    for text in ("My notes", "My notes\nand more", "{}\n{", "[1]\n", '{"engine": "warpcortex"}\n'):
        out.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match="no answers of an earlier run"):
            replies.earlier(Kept(out, replies.FIRST), [])
        assert out.read_text(encoding="utf-8") == text
