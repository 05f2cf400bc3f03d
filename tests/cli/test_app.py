"""The command line as a whole: help, exit codes, and errors said once on stderr."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time

import pytest

from warpcortex_cli import __version__
from warpcortex_cli.cli import app as app_module
from warpcortex_cli.cli.app import main
from warpcortex_cli.errors import MemoryLimitError, ModelError, ProfileError, RunError, UsageError


def leave(*args: str) -> int:
    """Runs a command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "warpcortex_cli", *args],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, env={**os.environ, **env},
    )  # fmt: skip


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("--help") == 0
    text = capsys.readouterr().out
    for command in ("chat", "ask", "profiles", "pull", "doctor", "--install-completion", "--version"):
        assert command in text


@pytest.mark.parametrize("command", ["chat", "ask", "profiles", "pull", "doctor"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        assert leave(command, flag) == 0
        assert "Usage: warpcortex" in capsys.readouterr().out


def test_help_is_fast_because_it_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from warpcortex_cli.cli.app import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'pydantic', 're2'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)\n"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr.strip() == "[]"
    assert time.perf_counter() - begin < 20  # well under one second on an idle machine


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("--version") == 0
    assert capsys.readouterr().out == f"warpcortex {__version__}\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--nonsense",), "No such option: --nonsense"),
        (("nonsense",), "No such command 'nonsense'"),
        (("ask",), "Missing argument"),
        (("ask", "x", "--device", "gpu"), "'gpu' is not one of auto, cpu"),
        (("ask", "x", "--device", "cuda:"), "is not one of"),
        (("ask", "x", "--dtype", "int8"), "'int8' is not one of auto, fp32, bf16, fp16"),
        (("ask", "x", "--seed", "-1"), "--seed"),
        (("ask", "x", "--seed", "one"), "--seed"),
        (("profiles", "show"), "Missing argument"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(
    args: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(*args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("warpcortex: ")
    assert message in err
    assert "--help`" in err


def test_without_arguments_it_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave() == 2
    out, err = capsys.readouterr()
    assert "Usage: warpcortex" in out + err
    assert "warpcortex: " not in err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RunError("it broke.", "Mend it."), 1, "warpcortex: it broke.\nMend it.\n"),
        (UsageError("not so."), 2, "warpcortex: not so.\n"),
        (
            ProfileError(["a.yaml:1: x; expected y"]),
            2,
            "warpcortex: the profile has a mistake:\na.yaml:1: x; expected y\n",
        ),
        (ProfileError(["a:1: x", "a:2: y"]), 2, "warpcortex: the profile has 2 mistakes:\na:1: x\na:2: y\n"),
        (ModelError("gone."), 3, "warpcortex: gone.\n"),
        (MemoryLimitError("full."), 4, "warpcortex: full.\n"),
        (MemoryError(), 4, "warpcortex: there is not enough memory.\nChoose "),
        (
            KeyError("x"),
            1,
            "warpcortex: internal error (KeyError: 'x').\nPlease report it, with what WARPCORTEX_TRACEBACK=1",
        ),
        (
            RuntimeError("[red]a[/red]\x1b[31m\nmore"),
            1,
            "warpcortex: internal error (RuntimeError: [red]a[/red]).\n",
        ),
        (OSError(errno.ENOSPC, "No space left"), 1, "warpcortex: nothing more can be written: the disk is full.\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_error_has_its_exit_code(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(app_module, "app", fails)
    assert leave() == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert "Traceback" not in err


def test_the_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(app_module, "app", fails)
    monkeypatch.setenv("WARPCORTEX_TRACEBACK", "1")
    with pytest.raises(KeyError):
        main([])


def test_a_model_that_is_missing_ends_with_3_and_the_fix() -> None:
    done = run("ask", "Is anybody there?", "-m", "org/not-in-any-cache", HF_HUB_OFFLINE="1")
    assert done.returncode == 3
    assert done.stdout == ""
    assert "`warpcortex pull org/not-in-any-cache`" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_prints_no_message() -> None:
    command = f"{sys.executable} -m warpcortex_cli profiles schema | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.stdout == "{"
    assert done.stderr == ""


def test_colours_stay_out_of_pipes_and_with_no_color() -> None:
    for env in ({}, {"NO_COLOR": "1"}):
        done = run("profiles", "list", **env)
        assert done.returncode == 0
        assert "\x1b" not in done.stdout + done.stderr
