"""`eval tasks`: what is read, how it is scored, what conditions change, and that a stopped run goes on."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from tests.cli.test_app import leave
from tests.engine.conftest import prism as prism  # the random model
from tests.engine.test_tools import INLINE, TURN, profile_of
from warpcortex_cli.cli import evaluate
from warpcortex_cli.errors import UsageError
from warpcortex_cli.eval import asking, squad, tasks
from warpcortex_cli.eval.ordinary import Ordinary, is_right, questions
from warpcortex_cli.eval.questions import questions as questions_of


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "sums.jsonl").write_text(
        '{"input": "Tom has 2 pens and buys 3. How many?", "target": 5.0}\n'
        '{"question": "Half of 9?", "answer": "9/2 = <<9/2=4.5>>4.5\\n#### 4.5"}\n',
        encoding="utf-8",
    )
    paragraphs = [
        {
            "context": f"The {name} lies in the {place}. It is old.",
            "qas": [{"question": f"Where is the {name}?", "answers": [{"text": f"the {place}", "answer_start": 0}]}],
        }
        for name, place in (("rope", "mill"), ("lamp", "barn"), ("boat", "tower"))
    ]
    articles = {"data": [{"title": p["context"], "paragraphs": [p]} for p in paragraphs]}
    (tmp_path / "pages.json").write_text(json.dumps(articles), encoding="utf-8")
    return tmp_path


def words(text: str) -> int:
    return len(text.split())


def test_problems_of_both_forms_are_read_and_scored_by_their_last_number(data: Path) -> None:
    items = tasks.read_tasks(data, ["sums"], [], 9, 1, words)["sums"]
    assert [i.question for i in items] == ["Tom has 2 pens and buys 3. How many?", "Half of 9?"]
    assert items[0].scores("2 + 3 = 5.") == {"accuracy": 1.0} and items[0].scores("5 of 6")["accuracy"] == 0.0
    assert items[1].scores("It is 4.50")["accuracy"] == 1.0 and items[1].hint == "The answer is 4.5."


def test_documents_hold_as_many_tokens_as_asked_for_and_their_answers(data: Path) -> None:
    asked = questions_of(data / "pages.json")
    for tokens, paragraphs in ((13, 1), (25, 2), (100, 3)):
        found = squad.documents(asked, tokens, 6, 3, words)
        assert sum(len(some) for _, some in found) == 6
        for text, some in found:
            assert text.count("old") == paragraphs
            assert all(q.notes in text and q.answers[0] in text for q in some)
    with pytest.raises(UsageError, match="no paragraph fits"):
        squad.documents(asked, 5, 1, 3, words)


@pytest.mark.parametrize(
    ("reply", "exact", "f1", "holds"),
    [
        ("The mill.", 1.0, 1.0, 1.0),
        ("It lies in the old mill", 0.0, 0.4, 0.0),
        ("in the mill, I think", 0.0, 0.4, 1.0),
        ("barn", 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_squads_scores(reply: str, exact: float, f1: float, holds: float) -> None:
    answers = ["the mill"] if holds or not f1 else ["a mill house"]
    assert squad.exact_match(reply, answers) == exact
    assert squad.holds(reply, answers) == holds
    if answers == ["the mill"]:
        assert squad.f1(reply, answers) == pytest.approx(f1 if f1 != 0.4 else 2 * (1 / 4) / (1 / 4 + 1))


def test_there_are_a_hundred_ordinary_questions_each_once() -> None:
    found = questions(1000, 1)
    assert len(found) == len({q.question for q in found}) == 100
    assert is_right(Ordinary("?", ("paris",)), "It is Paris.") and not is_right(Ordinary("?", ("paris",)), "Rome")
    assert is_right(Ordinary("?", ()), "Hello!") and not is_right(Ordinary("?", ()), " = 4.")


@pytest.mark.parametrize("name", ["nothing", "../sums"])
def test_an_unknown_task_is_refused_with_those_there_are(data: Path, name: str) -> None:
    with pytest.raises(UsageError) as error:
        tasks.read_tasks(data / "sub" if "/" not in name else data, [name], [100], 3, 1, words)
    assert "no task" in str(error.value)


def test_a_line_that_is_no_problem_is_named(data: Path) -> None:
    (data / "bad.jsonl").write_text('{"input": "x", "target": "many"}\n', encoding="utf-8")
    with pytest.raises(UsageError, match=r"bad: 'many' is not a number"):
        tasks.read_tasks(data, ["bad"], [], 3, 1, words)


def test_each_condition_changes_what_it_says() -> None:
    model = {"name": "think", "trigger": "<(?P<task>x)>"}
    profile = profile_of(INLINE, TURN, model, river={"prompt": "Hi", "examples": [{"user": "a", "assistant": "b"}]})
    found = {c: tasks.under(c, profile) for c in tasks.CONDITIONS}
    assert {c: [r.name for r in p.roles] for c, p in found.items()} == {
        "river": [], "fewshot": [], "model-streams": ["think"], "tools": ["sum", "asked"],
        "tools-inline": ["sum", "asked"], "pasted": [], "full": [], "oracle": [],
        "profile": ["sum", "asked", "think"], "gate-off": ["sum", "asked", "think"],
        "gate-all": ["sum", "asked", "think"],
    }  # fmt: skip
    assert found["profile"] == profile and found["gate-off"].gate.mode == "off"
    assert all(role.judged for role in found["gate-all"].roles)
    assert {r.arrives for r in found["tools"].roles} == {"aside"}
    assert {r.arrives for r in found["tools-inline"].roles} == {"inline"}
    assert found["river"].river.prompt == "" and not found["river"].river.examples
    assert found["full"].river.max_tokens < profile.river.max_tokens or profile.river.max_tokens <= 64
    assert all(p.river == profile.river for c, p in found.items() if c not in ("river", "full"))


def test_a_run_counts_what_tools_did_and_compares_on_the_same_questions(prism) -> None:
    profile = profile_of(TURN, river={"max_tokens": 4})
    asked = tasks.Item("How much is 15% of 80?", lambda reply: {"accuracy": float("= 12." in reply), "long": 1.0})
    idle = tasks.Item("Who is there?", lambda reply: {"accuracy": 1.0}, idle=True)
    found = list(tasks.run(prism, profile, {"mine": [asked, idle]}, ["fewshot", "tools-inline", "pasted"], 1))
    fewshot, inline, pasted = found
    assert [r.condition for r in found] == ["fewshot", "tools-inline", "pasted"]
    assert (fewshot.accuracy, inline.accuracy, pasted.n) == (0.5, 1.0, 2)
    assert (inline.started, inline.injected, inline.used, inline.needless) == (1, 1, 1, 0)
    assert fewshot.difference is None and inline.difference is not None and inline.difference["to"] == "fewshot"
    assert inline.difference["value"] == 0.5 and inline.difference["ci95"] == [0.0, 1.0]
    assert inline.scores == {"long": 1.0} and pasted.started == 0
    assert json.dumps(tasks.as_json(found, "m", "p", 1)) and tasks.grids(found)[0].markdown()


def test_questions_on_one_document_share_one_reading_of_it(prism, monkeypatch) -> None:
    loads = []
    load = asking.Session.load_notes
    monkeypatch.setattr(asking.Session, "load_notes", lambda self, text: loads.append(text) or load(self, text))
    asker = tasks.Asker(prism, 1)
    profile = profile_of(river={"max_tokens": 4})
    first = asker.ask(profile, "The ropes are red.", "What is red?")
    second = asker.ask(profile, "The ropes are red.", "Who is there?")
    assert loads == ["The ropes are red."]
    alone = tasks.Asker(prism, 1)
    assert alone.ask(profile, "The ropes are red.", "Who is there?").text == second.text and first.tokens


def test_conditions_share_one_reading_of_a_document(prism, monkeypatch) -> None:
    loads = []
    load = asking.Session.load_notes
    monkeypatch.setattr(asking.Session, "load_notes", lambda self, text: loads.append(len(text)) or load(self, text))
    long = "The ropes are red. " * 220
    items = [
        tasks.Item(question, lambda reply: {"accuracy": 1.0}, notes, "The ropes are red.", answers=("red",))
        for notes in (long, f"{long}The lamps are old.")
        for question in ("What is red?", "How much is 15% of 80?")
    ]
    profile = profile_of(TURN, river={"max_tokens": 4})
    found = list(tasks.run(prism, profile, {"pages": items}, ["fewshot", "oracle", "tools", "tools-inline"], 1))
    assert [r.condition for r in found] == ["fewshot", "oracle", "tools", "tools-inline"]
    assert sorted(loads)[-2:] == [len(long), len(items[2].notes)] and sorted(loads)[-3] < 100
    assert [r.started for r in found] == [0, 0, 2, 2] and found[3].scores["in thoughts"] == 0.0


def test_examples_are_read_once_and_nothing_else_is_shared(prism, monkeypatch) -> None:
    rows: list[int] = []
    forward = prism.forward
    monkeypatch.setattr(prism, "forward", lambda r: rows.extend(len(x.tokens) for x in r) or forward(r))
    example = {"user": "Is the old rope in the mill or in the barn?", "assistant": "It is in the old mill."}
    profile = profile_of(INLINE, TURN, river={"max_tokens": 4, "examples": [example] * 3})
    asker = tasks.Asker(prism, 1)
    for question in ("How much is 15% of 80?", "Who is there?", "Where are lamps?"):
        rows.clear()
        shared = asker.ask(profile, "", question)
        again = list(rows)
        rows.clear()
        alone = tasks.Asker(prism, 1).ask(profile, "", question)
        assert (shared.text, shared.thoughts, shared.tokens) == (alone.text, alone.thoughts, alone.tokens)
    assert sum(again) < sum(rows) / 2


def test_kept_answers_are_not_asked_for_again(prism, tmp_path: Path, monkeypatch) -> None:
    keep, profile = tmp_path / "kept.jsonl", profile_of(TURN, river={"max_tokens": 4})
    before = tasks.Asker(prism, 1, keep).ask(profile, "", "How much is 15% of 80?")
    monkeypatch.setattr(tasks.Asker, "_asked", lambda *args: pytest.fail("it was asked again"))
    assert tasks.Asker(prism, 1, keep).ask(profile, "", "How much is 15% of 80?") == before
    keep.write_text("{}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="no answers of an earlier run"):
        tasks.Asker(prism, 1, keep)


def test_a_run_that_was_killed_within_a_line_goes_on(prism, tmp_path: Path) -> None:
    keep, profile = tmp_path / "kept.jsonl", profile_of(TURN, river={"max_tokens": 4})
    first, second = "How much is 15% of 80?", "How much is 2 + 3?"
    for question in (first, second):
        tasks.Asker(prism, 1, keep).ask(profile, "", question)
    whole = keep.read_text(encoding="utf-8")
    begin = whole.index("\n") + 1
    for end in (begin + 1, begin + 20, len(whole) - 1):
        keep.write_text(whole[:end], encoding="utf-8")
        asker = tasks.Asker(prism, 1, keep)
        assert keep.read_text(encoding="utf-8") == whole[:begin]
        asker.ask(profile, "", second)
        assert [json.loads(line)["question"] for line in keep.read_text("utf-8").splitlines()] == [first, second]


def test_a_file_of_something_else_is_left_as_it_is(prism, tmp_path: Path) -> None:
    keep = tmp_path / "notes.txt"
    for text in ("My notes", "My notes\nand more", "{}\n{"):
        keep.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match="no answers of an earlier run"):
            tasks.Asker(prism, 1, keep)
        assert keep.read_text(encoding="utf-8") == text


def test_numbers_are_compared_as_values() -> None:
    assert tasks._numeric(Fraction(5))("so 5.0 it is") == {"accuracy": 1.0}


def test_the_command_asks_and_prints(data: Path, prism, monkeypatch, capsys) -> None:
    profile = profile_of(TURN, river={"max_tokens": 4})
    monkeypatch.setattr(evaluate, "open_prism", lambda **asked: (prism, profile))
    options = ["--data", str(data), "--tasks", "sums,calculations", "--n", "2", "--conditions", "fewshot,tools-inline"]
    assert leave("eval", "tasks", *options, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(r["task"], r["condition"], r["n"]) for r in found["results"]] == [
        (task, condition, 2) for task in ("sums", "calculations") for condition in ("fewshot", "tools-inline")
    ]
    assert leave("eval", "tasks", "--data", str(data), "--tasks", " , ") == 2
