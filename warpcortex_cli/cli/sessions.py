"""`warpcortex sessions`: conversations kept with `chat --session NAME`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from platformdirs import user_data_path
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warpcortex_cli.cli.output import note, print_json, progress_bar, put, stdout_console
from warpcortex_cli.engine.contents import Contents, read_contents
from warpcortex_cli.errors import RunError, UsageError
from warpcortex_cli.memory.bases import links_of
from warpcortex_cli.memory.log import RecordLog
from warpcortex_cli.ui.safe import one_line, safe_json

if TYPE_CHECKING:
    from warpcortex_cli.engine.session import Session

app = typer.Typer(help="Conversations kept with `chat --session NAME`.", no_args_is_help=True)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SUFFIX = ".wcx"
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the session.")]


def session_path(name: str) -> Path:
    """The file of a session.

    Raises:
        UsageError: that is no name for one.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{one_line(name, 80)!r} is not a valid session name.",
            "Use at most 64 letters, digits, dots, dashes and underscores.",
        )
    return user_data_path("warpcortex", appauthor=False) / "sessions" / f"{name}{_SUFFIX}"


@contextmanager
def session_file(name: str) -> Iterator[RecordLog]:
    """Opens the file of a session, creating it if needed; an empty one is removed again. Loads no model.

    Raises:
        UsageError: that is no name for one, or another chat has it open.
        RunError: the file cannot be opened, or is not a session.
    """
    log = _open(name)
    try:
        yield log
    finally:
        if not log.nbytes:
            with suppress(OSError):  # Windows does not delete open files
                log.path.unlink()
        log.close()


def _open(name: str) -> RecordLog:
    path = session_path(name)
    try:
        return RecordLog(path)
    except BlockingIOError as error:
        raise UsageError(
            f"the session {name} is open in another chat.", "Leave that one, or choose another name."
        ) from error
    except OSError as error:
        raise RunError(
            f"the session {name} cannot be opened: {error.strerror or error} ({path}).", "Choose another name."
        ) from error


class Keeper:
    """Saves a chat's session: restores what was stored, then appends what is new at each call.

    Args:
        name: the session's.
        log: its file.
        session: an empty session.
        errors: the console for messages to the user.
    """

    def __init__(self, name: str, log: RecordLog, session: Session, errors: Console) -> None:
        from warpcortex_cli.engine.archive import Archive

        self._session, self._errors = session, errors
        self._archive = Archive(log)
        with progress_bar(errors) as show:
            notices = self._archive.restore(session, lambda done, total: show(f"taking up {name}", done, total))
        river, turns = session.river, len(session.turns)
        if turns:
            self._say(f"session {name}: {turns} turns, {river.length:,} tokens")
        for line in notices:
            self._say(line)
        self._reported_failure = False

    def __call__(self) -> None:
        if not self._session.turns and not self._archive.log.nbytes:
            return  # nothing was said, so no empty session is left behind
        self._archive.save(self._session)
        if self._archive.failure and not self._reported_failure:
            self._reported_failure = True
            self._errors.print(Text(self._archive.failure, style="red"))

    def finish(self) -> None:
        """Saves what an interrupted turn left. The file stays open."""
        self()
        self._archive.compact(self._session)

    def _say(self, line: str) -> None:
        self._errors.print(Text(one_line(line, 400), style="dim"), soft_wrap=True)


@contextmanager
def _reading(name: str) -> Iterator[tuple[RecordLog, Contents]]:
    """A session as it is on disk, even while a chat has it open.

    Raises:
        UsageError: there is no such session.
        RunError: it cannot be read.
    """
    path = session_path(name)
    if not path.is_file():
        raise _none(name)
    try:
        log = RecordLog(path, readonly=True)
    except OSError as error:
        raise RunError(
            f"the session {name} cannot be read: {error.strerror or error}.", "Check who owns the file."
        ) from error
    with log:
        if not log.nbytes:  # a chat in which nothing was said yet
            raise _none(name)
        yield log, read_contents(log)


def _none(name: str) -> UsageError:
    return UsageError(f"there is no session named {name}.", "`warpcortex sessions list` shows what there is.")


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """List all sessions, the newest first."""
    folder = session_path("x").parent
    paths = sorted(folder.glob(f"*{_SUFFIX}"), key=lambda p: p.stat().st_mtime, reverse=True)
    rows = []
    for path in paths:
        name = path.name.removesuffix(_SUFFIX)
        try:
            with _reading(name) as (log, found):
                alone, shared = log.disk_bytes()
        except UsageError:
            continue
        except RunError as error:
            note(str(error))
            continue
        rows.append(
            {
                "name": name,
                "model": found.model.get("model", ""),
                "turns": found.state.turns if found.state else 0,
                "tokens": found.state.tokens if found.state else 0,
                "bytes": alone + shared,
                "shared": shared,  # of these, bytes shared with other sessions
                "changed": datetime.fromtimestamp(path.stat().st_mtime).isoformat(" ", "minutes"),
            }
        )
    if as_json:
        print_json({"schema_version": 1, "sessions": rows})
        return
    if not rows:
        put("No sessions yet. `warpcortex chat --session NAME` keeps one.")
        return
    table = Table(box=None, pad_edge=False)
    for head in rows[0]:
        table.add_column(head, justify="right" if head in ("turns", "tokens", "bytes", "shared") else "left")
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else one_line(str(v), 60) for v in row.values()))
    stdout_console().print(table)


@app.command("show")
def show(name: NameArgument) -> None:
    """Print what was said."""
    with _reading(name) as (_, found):
        pass
    for turn in found.turns:
        put(f"{turn.role}> {turn.text}")
    for line in found.damaged:
        note(line)


@app.command("export")
def export(
    name: NameArgument,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write to FILE instead of printing.")
    ] = None,
) -> None:
    """Print or save what was said, as JSON."""
    with _reading(name) as (_, found):
        pass
    document = {
        "schema_version": 1,
        "name": name,
        "model": found.model.get("model"),
        "tokens": found.state.tokens if found.state else 0,
        "turns": [asdict(t) for t in found.turns],
    }
    if out is None:
        print_json(document)
        return
    try:
        out.write_text(safe_json(json.dumps(document, indent=1, ensure_ascii=False)) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"{out} could not be written: {error.strerror or error}.", "Name a file that can be written."
        ) from error


@app.command("fork")
def fork(
    name: NameArgument, new: Annotated[str, typer.Argument(metavar="NEW", help="Name of the new session.")]
) -> None:
    """Fork a conversation. What was said so far is shared, not copied."""
    with _reading(name) as (log, found), session_file(new) as other:
        if other.nbytes:
            raise UsageError(
                f"there is a session named {new} already.", "Choose another name, or `sessions rm` it first."
            )
        try:
            other.begin_with(log, found.used)
        except OSError as error:
            raise RunError(
                f"the session {new} cannot be written: {error.strerror or error}.", "Free some space on the disk."
            ) from error
    put(f"{new} goes on from where {name} is")


@app.command("rm")
def rm(name: NameArgument) -> None:
    """Delete a session. Forks that share its contents keep them."""
    path = session_path(name)
    left = [path.with_suffix(".tmp"), *links_of(path)]  # files that a killed process may have left
    if not any(file.exists() for file in (path, *left)):
        raise _none(name)
    if path.exists():
        _open(name).close()  # fails while a chat has it open
    for file in (path, *left):
        file.unlink(missing_ok=True)
    put(f"deleted {name}")
