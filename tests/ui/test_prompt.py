from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from warpcortex_cli.ui import prompt as module
from warpcortex_cli.ui.commands import COMMANDS
from warpcortex_cli.ui.prompt import CommandCompleter, Prompt, open_history


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PipeInput]:
    monkeypatch.setattr(module, "user_state_path", lambda *a, **k: tmp_path / "state")
    monkeypatch.setattr(module, "create_output", lambda **k: DummyOutput())
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


def complete(text: str) -> list[str]:
    completer = CommandCompleter(COMMANDS, lambda: ["council", "pocket"])
    return [c.text for c in completer.get_completions(Document(text), CompleteEvent())]


def test_completion(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert complete("/") == [f"/{c.name}" for c in COMMANDS]
    assert complete("/th") == ["/thoughts"]
    assert complete("/inject o") == ["on", "off"]
    assert complete("/profile p") == ["pocket"]
    assert complete(f"/load {tmp_path}/no") == ["tes.txt"]
    assert complete("How /th") == complete("/exit ") == complete("/nosuch x") == []


def test_enter_sends_and_a_paste_keeps_its_lines(keys: PipeInput) -> None:
    prompt = Prompt(list)
    keys.send_text("hello\r")
    assert prompt.read() == "hello"
    keys.send_text("\x1b[200~one\ntwo\nthree\x1b[201~\r")
    assert prompt.read() == "one\ntwo\nthree"
    keys.send_text("a\x1b\rb\r")
    assert prompt.read() == "a\nb"


def test_history_is_kept_for_the_next_time_and_private(keys: PipeInput, tmp_path: Path) -> None:
    keys.send_text("first question\r")
    Prompt(list).read()
    assert (tmp_path / "state" / "history").stat().st_mode & 0o077 == 0
    assert list(open_history().load_history_strings()) == ["first question"]


def test_ctrl_c_clears_then_raises_and_ctrl_d_leaves(keys: PipeInput) -> None:
    prompt = Prompt(list)
    keys.send_text("typed wrong\x03right\r")
    assert prompt.read() == "right"
    keys.send_text("\x03")
    with pytest.raises(KeyboardInterrupt):
        prompt.read()
    keys.send_text("\x04")
    with pytest.raises(EOFError):
        prompt.read()


def test_no_place_for_a_history(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "user_state_path", lambda *a, **k: tmp_path / "file" / "state")
    assert isinstance(open_history(), InMemoryHistory)


def test_a_history_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "user_state_path", lambda *a, **k: tmp_path)
    history = open_history()
    (tmp_path / "history").unlink()
    (tmp_path / "history").mkdir()
    history.append_string("x")
    assert list(history.load_history_strings()) == []
