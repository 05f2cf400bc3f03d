"""RESULTS.md: what a command printed, in a section that only that command replaces."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from warpcortex_cli import results
from warpcortex_cli.errors import UsageError


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one commit and the rooms `bench` and `lab`, which results are written into."""
    for room in ("bench", "lab"):
        (tmp_path / room).mkdir()
    (tmp_path / "code.py").write_text("x = 1\n")
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "Add code"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr(results, "_PACKAGE", tmp_path)
    return tmp_path


def _written(checkout: Path, room: str = "bench") -> str:
    return (checkout / room / "RESULTS.md").read_text()


def test_a_section_holds_command_commit_machine_and_what_was_printed(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with results.Recorded("bench", "warpcortex bench --agents 1"):
        print("100 agents: 5 tokens per second")
    ask = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(ask, capture_output=True, text=True, check=True)
    text = _written(checkout)
    assert capsys.readouterr().out == "100 agents: 5 tokens per second\n"
    assert "## `warpcortex bench --agents 1`\n" in text
    assert f"commit {commit.stdout.strip()}, 20" in text and results.machine() in text
    assert "```text\n100 agents: 5 tokens per second\n```" in text


def test_running_again_replaces_its_own_section_alone(checkout: Path) -> None:
    for command, figure in (("a", "one"), ("b", "two"), ("a", "three")):
        with results.Recorded("bench", command):
            print(figure)
    text = _written(checkout)
    assert re.findall(r"(?m)^## `(.)`", text) == ["a", "b"]
    assert "one" not in text and "two" in text and "three" in text


def test_tables_stay_markdown(checkout: Path) -> None:
    with results.Recorded("bench", "a"):
        print("| agents |\n|---|\n| 1 |")
    assert "\n\n| agents |\n|---|\n| 1 |\n" in _written(checkout) and "```" not in _written(checkout)


def test_what_failed_is_not_written(checkout: Path) -> None:
    with pytest.raises(ZeroDivisionError), results.Recorded("bench", "a"):
        print("half of it")
        raise ZeroDivisionError
    assert not (checkout / "bench" / "RESULTS.md").exists()


def test_changes_beyond_the_commit_are_said_but_not_those_of_results(checkout: Path) -> None:
    for command in ("a", "b"):  # the file that the first one wrote changes nothing
        with results.Recorded("bench", command):
            print(command)
    assert "not committed" not in _written(checkout)
    (checkout / "code.py").write_text("x = 2\n")
    with results.Recorded("bench", "c"):
        print("c")
    assert _written(checkout).count("and changes that are not committed") == 1


def test_without_a_checkout_it_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_PACKAGE", tmp_path)
    with pytest.raises(UsageError, match="no git checkout"), results.Recorded("bench", "a"):
        raise AssertionError("it ran")


def test_the_command_is_what_was_typed_without_the_flag() -> None:
    typed = ["eval", "gate", "--write-results", "-m", "my model"]
    assert results.command_line("warpcortex", typed) == "warpcortex eval gate -m 'my model'"


def test_a_module_of_a_room_is_run_with_its_section_written(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["results", "lab.selection", "--tokens", "300", "--k", "16", "--grow", "8"])
    results.main()
    assert "## `python -m warpcortex_cli.lab.selection --tokens 300 --k 16 --grow 8`" in _written(checkout, "lab")


@pytest.mark.parametrize("typed", [["results"], ["results", "cli.app"]])
def test_what_has_no_results_is_refused_in_a_sentence(typed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", typed)
    with pytest.raises(SystemExit) as left:
        results.main()
    assert isinstance(left.value.code, str)
