"""`warpcortex`: registers the commands. Only here does an error become words and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, NoReturn

import typer

from warpcortex_cli import __version__
from warpcortex_cli.cli import adapters, doctor, evaluate, gate, models, profiles, pull, sessions
from warpcortex_cli.cli.adapt import adapt
from warpcortex_cli.cli.ask import ask
from warpcortex_cli.cli.bench import bench
from warpcortex_cli.cli.chat import chat
from warpcortex_cli.cli.help import help_
from warpcortex_cli.cli.output import INTERRUPTED, put, report, was_stopped
from warpcortex_cli.cli.profile_vram import profile_vram
from warpcortex_cli.cli.serve import serve
from warpcortex_cli.cli.swarm import swarm
from warpcortex_cli.errors import MemoryLimitError, RunError, UsageError, WarpError
from warpcortex_cli.process import prepare
from warpcortex_cli.ui.terminal import give_up, prepare_streams

_UNWRITTEN = {  # names of streams, which have no file name
    errno.EBADF: "standard output is closed",
    errno.EIO: "the terminal or the disk fails",
    errno.EFBIG: "the file would be too large",
    errno.EDQUOT: "the quota of the disk is used up",
}

app = typer.Typer(
    name="warpcortex",
    help="Many agents on one shared model: a River that talks, and Streams that think beside it.",
    epilog="Begin with: warpcortex chat. No download is needed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("chat")(chat)
app.command("ask")(ask)
app.command("swarm")(swarm)
app.add_typer(profiles.app, name="profiles")
app.command("serve")(serve)
app.command("pull")(pull.pull)
app.command("models")(models.models)
app.command("adapt")(adapt)
app.add_typer(adapters.app, name="adapters")
app.command("doctor")(doctor.doctor)
app.command("bench")(bench)
app.command("profile-vram")(profile_vram)
app.add_typer(evaluate.app, name="eval")
app.add_typer(gate.app, name="gate")
app.add_typer(sessions.app, name="sessions")
app.command("help")(help_)


def _version(wanted: bool) -> None:
    if wanted:
        put(f"warpcortex {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits with a code.

    0 done, 1 failed while running, 2 wrong usage or a bad profile, 3 the model, 4 out of memory, 130 Ctrl-C.
    """
    prepare()
    prepare_streams()
    out = sys.stdout
    code = _code_of(lambda: app(args, prog_name="warpcortex", standalone_mode=False))
    written = _code_of(out.flush)
    if written:
        give_up(out)
    interrupted = INTERRUPTED if was_stopped() else 0
    sys.exit(code or written or interrupted)


def _code_of(do: Callable[[], object]) -> int:
    """Runs something, reports its error, and returns the exit code.

    Typer runs without its standalone mode, which knows neither our errors nor our exit codes.
    """
    try:
        result = do()
    except WarpError as error:
        report(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # `warpcortex ask ... | head`: the reader is gone
        return 1
    except SystemExit as left:  # typer exits so, having seen the error first
        return left.code if isinstance(left.code, int) else 1
    except Exception as error:
        if getattr(error, "format_message", None) and not error.format_message():  # type: ignore[attr-defined]
            return 2  # called without arguments, and typer has printed the help
        found = _as_warp_error(error)
        report(found)
        return found.exit_code
    return result if isinstance(result, int) else 0


def _as_warp_error(error: Exception) -> WarpError:
    """An unexpected error in one sentence. WARPCORTEX_TRACEBACK=1 shows the traceback."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's wrong usage
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "warpcortex"
        return UsageError(error.format_message(), f"See `{command} --help`.")
    if os.environ.get("WARPCORTEX_TRACEBACK"):
        raise error
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return MemoryLimitError(
            "there is not enough memory.", "Choose a smaller model, shorter notes, or --dtype bf16."
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return RunError("nothing more can be written: the disk is full.", "Make room on it, or write elsewhere.")
    if isinstance(error, OSError) and error.filename is None and error.errno in _UNWRITTEN:
        return RunError(f"nothing more can be written: {_UNWRITTEN[error.errno]}.", "Give it somewhere to print to.")
    reason = (str(error).strip().splitlines() or [""])[0]
    return RunError(
        f"internal error ({type(error).__name__}{': ' + reason if reason else ''}).",
        "Please report it, with what WARPCORTEX_TRACEBACK=1 prints.",
    )
