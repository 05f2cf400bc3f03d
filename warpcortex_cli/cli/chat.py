"""`warpcortex chat`: talk with the River; Streams think beside it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from warpcortex_cli.cli.ask import NotesOption, TraceOption, say
from warpcortex_cli.cli.gate import stored_calibration
from warpcortex_cli.cli.output import (
    AUTO,
    AdapterOption,
    AllowProgramOption,
    CompileOption,
    DeviceOption,
    DtypeOption,
    MinPOption,
    ModelOption,
    NoStreamsOption,
    ProfileOption,
    QuantizeOption,
    RepetitionPenaltyOption,
    SeedOption,
    StopOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    open_prism,
    report,
    stderr_console,
    stdout_console,
    stopped,
    with_adapters,
    with_sampling,
)
from warpcortex_cli.cli.sessions import Keeper, session_file
from warpcortex_cli.errors import WarpError
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.probes.memory import MemoryProbe
from warpcortex_cli.ui.commands import Desk, is_command, is_known, run_command, unknown_command
from warpcortex_cli.ui.notes import decode_notes, load_with_progress, notes_line, read_notes
from warpcortex_cli.ui.panels import Usage
from warpcortex_cli.ui.reply import Probe, show_reply
from warpcortex_cli.ui.safe import clean, one_line, readable
from warpcortex_cli.ui.terminal import interrupts, interrupts_ignored
from warpcortex_cli.ui.trace import TraceWriter

if TYPE_CHECKING:
    from warpcortex_cli.engine.session import Session


def chat(
    notes: NotesOption = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    device: DeviceOption = AUTO,
    dtype: DtypeOption = AUTO,
    quantize: QuantizeOption = AUTO,
    compiled: CompileOption = False,
    adapter: AdapterOption = None,
    seed: SeedOption = 0,
    no_streams: NoStreamsOption = False,
    allow_program: AllowProgramOption = None,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    top_k: TopKOption = None,
    min_p: MinPOption = None,
    repetition_penalty: RepetitionPenaltyOption = None,
    stop: StopOption = None,
    trace: TraceOption = None,
    kept: Annotated[
        str | None,
        typer.Option(
            "--session", metavar="NAME", help="Keep the conversation under this name, or resume it.", show_default=False
        ),
    ] = None,
) -> None:
    """Talk with the River while its Streams think. With piped input: one message a line, one answer each."""
    errors = stderr_console()
    text = read_notes(notes) if notes is not None else ""
    with ExitStack() as stack:
        log = stack.enter_context(session_file(kept)) if kept is not None else None  # before seconds of loading
        writer = stack.enter_context(TraceWriter(trace)) if trace is not None else None
        options = LoadOptions(device, dtype, quantize, compiled)
        prism, settings = open_prism(model=model, profile=profile, options=options)
        settings = with_adapters(settings, adapter)
        settings = with_sampling(settings, stop, temperature, top_p, top_k, min_p, repetition_penalty)
        from warpcortex_cli.engine.session import Session

        session = Session(
            prism,
            settings,
            seed=seed,
            streams=not no_streams,
            listeners=[writer] if writer else [],
            calibration=stored_calibration(prism),
            programs=allow_program or (),
            watched=sys.stdout is not None and sys.stdout.isatty(),
        )
        keep: Callable[[], None] = _keep_nothing
        if kept is not None and log is not None:
            keeper = Keeper(kept, log, session, errors)
            stack.callback(keeper.finish)
            keep = keeper
        if notes is not None and read_first(session, text, notes.name, errors):
            keep()
        if sys.stdin is not None and sys.stdin.isatty():
            talk(session, errors, keep)
        else:
            read_lines(session, errors, keep)
    if writer is not None and writer.failure:
        errors.print(Text(writer.failure))


def _keep_nothing() -> None:
    pass


def read_first(session: Session, text: str, name: str, errors: Console) -> bool:
    """Reads the notes of --notes. Ctrl-C stops only the reading if a conversation follows, else the program."""
    pressed = threading.Event()
    with interrupts(pressed.set) if sys.stdin is not None and sys.stdin.isatty() else nullcontext():
        tokens = load_with_progress(session, text, name, errors, pressed.is_set)
    if tokens is None:
        errors.print(Text("Stopped; the notes were not loaded.", style="dim"))
        return False
    errors.print(notes_line(tokens, text, name))
    return True


def read_lines(session: Session, errors: Console, keep: Callable[[], None]) -> None:
    """Answers one message a line from standard input, as `ask` does, in one conversation. Commands work too.

    An unknown command is not a message: it is reported on stderr and in the exit code, and the next line follows.
    Ctrl-C ends the reply and the conversation.

    Raises:
        WarpError: the first message or command that failed.
    """
    if sys.stdin is None:
        return
    wrong = 0
    desk = Desk(session, errors, session.profile.injection.enabled)
    for number, data in enumerate(sys.stdin.buffer, 1):
        line = decode_notes(data, f"line {number} of standard input").strip()
        if is_known(line):
            run_command(desk, line)
        elif is_command(line):
            error = unknown_command(line)
            report(error)
            wrong = error.exit_code
        elif line and say(session, line, sys.stdout)[1].reason == "interrupted":
            stopped("the answer ends there")
            return
        desk.warn()
        keep()
        if desk.leaving:
            break
    if wrong:
        raise typer.Exit(wrong)


@interrupts_ignored()  # else one that comes just after a reply would end the chat
def talk(session: Session, errors: Console, keep: Callable[[], None]) -> None:
    """Runs the interactive conversation until Ctrl-D or /exit. `keep` is called after each turn."""
    from warpcortex_cli.profile import shipped_profiles
    from warpcortex_cli.ui.prompt import Prompt

    if sys.stdout.isatty():  # another terminal's size would misplace what is redrawn
        for name in ("COLUMNS", "LINES"):
            os.environ.pop(name, None)
    screen = stdout_console()
    notices = screen if screen.is_terminal else errors
    desk = Desk(session, notices, session.profile.injection.enabled)
    prompt = Prompt(shipped_profiles)
    notices.print(
        Text(
            f"profile {one_line(session.profile.name)} \u00b7 /help lists commands \u00b7 Ctrl-D leaves",
            style="dim",
        )
    )
    while not desk.leaving:
        try:
            line = readable(prompt.read()).strip()
        except KeyboardInterrupt:
            notices.print(Text("Ctrl-D or /exit leaves.", style="dim"))
            continue
        except EOFError:
            return
        if not line:
            continue
        try:
            if is_command(line):
                run_command(desk, line)
            elif screen.is_terminal:
                show_reply(session, line, screen, memory_probe(session), desk.injecting)
            elif say(session, line, sys.stdout)[1].reason == "interrupted":
                notices.print(Text("stopped; the answer ends there", style="dim"))
        except WarpError as error:
            notices.print(Text(clean(str(error)), style="red"))
        desk.warn()
        keep()


def memory_probe(session: Session) -> Probe:
    """Measures this process now, and says later how much it has grown."""
    probe = MemoryProbe(str(session.prism.device))
    before = probe.read()

    def read() -> Usage:
        now = probe.read()
        return Usage(now.source, now.bytes, now.bytes - before.bytes)

    return read
