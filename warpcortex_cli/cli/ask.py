"""`warpcortex ask`: one question, the answer on stdout, everything else on stderr."""

from __future__ import annotations

import math
import select
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.text import Text

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
    note,
    open_prism,
    print_json,
    stderr_console,
    stopped,
    with_adapters,
    with_sampling,
)
from warpcortex_cli.errors import UsageError
from warpcortex_cli.events import Listener, RiverFinished, RiverText
from warpcortex_cli.phases import phase
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.process import importing
from warpcortex_cli.ui.answer import Answer
from warpcortex_cli.ui.notes import decode_notes, load_with_progress, read_notes
from warpcortex_cli.ui.safe import clean, readable
from warpcortex_cli.ui.terminal import interrupts
from warpcortex_cli.ui.trace import TraceWriter

if TYPE_CHECKING:
    from warpcortex_cli.engine.ledger import Entry
    from warpcortex_cli.engine.session import Session
    from warpcortex_cli.prism.prism import Prism

SCHEMA_VERSION = 1
_PIPE_PATIENCE = 3.0  # seconds of a silent pipe before we say what we wait for

NotesOption = Annotated[
    Path | None,
    typer.Option("--notes", metavar="FILE", help="A text file for the model to read first.", show_default=False),
]
TraceOption = Annotated[
    Path | None,
    typer.Option("--trace", metavar="FILE", help="Write every event to FILE as JSON lines.", show_default=False),
]


def ask(
    question: Annotated[str, typer.Argument(help="What to ask.", show_default=False)],
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
    explain: Annotated[
        bool, typer.Option("--explain", help="Print what each thought was, where it came from and what it changed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the answer.")] = False,
) -> None:
    """Ask one question. Piped text is read as notes: cat notes.txt | warpcortex ask "..." """
    question = readable(question).strip()
    if not question:
        raise UsageError(
            "the question is empty.", 'Write it in quotes: warpcortex ask "How many ropes does Mara have?"'
        )
    errors = stderr_console()
    texts = [(notes.name, read_notes(notes))] if notes is not None else []
    piped = read_pipe(sys.stdin, errors)
    if piped.strip():
        texts.append(("standard input", piped))
    with ExitStack() as stack:
        writer = stack.enter_context(TraceWriter(trace)) if trace is not None else None
        options = LoadOptions(device, dtype, quantize, compiled)
        prism, settings = open_prism(model=model, profile=profile, options=options)
        settings = with_adapters(settings, adapter)
        settings = with_sampling(settings, stop, temperature, top_p, top_k, min_p, repetition_penalty)
        with importing(), phase("importing the engine"):
            from warpcortex_cli.engine.ledger import Ledger
            from warpcortex_cli.engine.session import Session

        calibration = stored_calibration(prism)

        def started(*listeners: Listener) -> Session:
            session = Session(
                prism,
                settings,
                seed=seed,
                streams=not no_streams,
                listeners=listeners,
                calibration=calibration,
                programs=allow_program or (),
                # Explaining runs the question again, the same way.
                watched=not (as_json or explain) and sys.stdout is not None and sys.stdout.isatty(),
            )
            for name, text in texts:
                load_with_progress(session, text, name, errors)
            return session

        with phase("the session"):
            session = started(*([writer] if writer else []))
        ledger = Ledger(session, started) if explain else None
        answer, finished = say(session, question, None if as_json else sys.stdout)
        entries: list[Entry] | None = None
        if finished.reason == "interrupted":
            stopped("the answer ends there")
        elif ledger:
            try:
                entries = ledger.entries(question, answer.raw)
            except KeyboardInterrupt:
                stopped("the answer is not explained")
        if as_json:
            explained = {"explain": [vars(e) for e in entries]} if entries is not None else {}
            print_json({**report(session, answer, finished), **explained})
        elif entries is not None:
            print_ledger(entries, errors)
    if finished.reason == "length" and not as_json:
        note(f"the answer was cut at the profile's {finished.tokens} tokens")
    if finished.reason == "loop" and not as_json:
        note("the answer was stopped, because it repeated itself; --repetition-penalty 1.2 may help")
    if writer is not None and writer.failure:
        errors.print(Text(writer.failure))


def answered(model: str, question: str) -> tuple[Prism, int]:
    """Runs `ask QUESTION -m MODEL` without printing. Returns the model and the number of tokens it wrote."""
    prism, settings = open_prism(model=model, profile=None, options=LoadOptions(quantize=AUTO))
    with importing(), phase("importing the engine"):
        from warpcortex_cli.engine.session import Session

    with phase("the session"):
        session = Session(prism, settings, calibration=stored_calibration(prism))
    _, finished = say(session, question, None)
    return prism, finished.tokens


def say(session: Session, text: str, out: TextIO | None) -> tuple[Answer, RiverFinished]:
    """Runs one turn. A terminal gets the answer as it is written, a file or pipe gets it at the end, None nothing.

    Ctrl-C ends the reply. What was written so far is its answer, also if the turn fails.

    Raises:
        WarpError: the turn was refused, or it failed while running.
    """
    answer = Answer()
    streaming = out is not None and out.isatty()
    finished = RiverFinished(reason="stop", tokens=0, seconds=0.0)
    try:
        with interrupts(session.interrupt), phase("the reply"):
            for event in session.send(text):
                if isinstance(event, RiverText):
                    piece = answer.feed(event)
                    if streaming and piece and out is not None:
                        _write(out, piece)
                elif isinstance(event, RiverFinished):
                    finished = event
    except OSError:
        raise  # most likely `out` failed
    except BaseException:
        answer.finish()
        if answer.text and out is not None:
            _write(out, "\n" if streaming else answer.text + "\n")  # so that stderr continues on its own line
        raise
    last = answer.finish()
    if out is not None:
        _write(out, (last if streaming else answer.text) + "\n")
    return answer, finished


def report(session: Session, answer: Answer, finished: RiverFinished) -> dict[str, Any]:
    """The object that `--json` prints. Its keys are a contract: keys may be added, none renamed.

    "text" is River text as written, requests included; "answer" is without them.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "model": session.prism.name,
        "device": str(session.prism.device),
        "answer": answer.text,
        "seconds": finished.seconds,
        "river_tokens": finished.tokens,
        "streams": [
            {
                "id": s.id,
                "role": s.role,
                "task": s.task,
                "state": s.state,
                "thought": s.thought,
                "gate_score": s.gate_score if s.gate_score is not None and math.isfinite(s.gate_score) else None,
                "gate_reason": s.gate_reason,
                "landmarks": s.landmarks,
                "focus": s.focus,
                "tokens": s.tokens,
                "seconds": s.seconds,
            }
            for s in session.snapshot().streams
        ],
        "text": answer.raw,
        "finish_reason": finished.reason,
        "profile": session.profile.name,
        "seed": session.seed,
    }


def print_ledger(entries: list[Entry], errors: Console) -> None:
    """Prints what each injected thought was, where it came from and what it changed."""
    if not entries:
        errors.print(Text("no thought was injected", style="dim"))
    for e in entries:
        errors.print(Text(f"thought {e.stream}: {clean(e.thought)}", style="bold"))
        errors.print(Text(f"  asked     {e.role}: {clean(e.task)}"), soft_wrap=True)
        errors.print(Text(f"  gate      {e.gate_reason}"), soft_wrap=True)
        if e.arrived == "inline":
            errors.print(Text(f"  inserted  {clean(e.inserted).strip()}, as text of the answer"), soft_wrap=True)
        if e.arrived == "prompt":
            errors.print(Text("  inserted  before the question, as text of the prompt"), soft_wrap=True)
        for name, text in (("focus", e.focus), ("landmarks", e.landmarks)):
            for i, line in enumerate(clean(text).splitlines()):
                errors.print(Text(f"  {name if i == 0 else '':9} {line}", style="dim"), soft_wrap=True)
        errors.print(Text(f"  changed   {clean(' '.join(e.changed)) or 'nothing'}"), soft_wrap=True)
        errors.print(Text(f"  without   {' '.join(clean(e.without).split())}", style="dim"), soft_wrap=True)


def read_pipe(source: TextIO | None, errors: Console) -> str:
    """All of standard input as notes; "" if it is a terminal, closed or empty.

    Raises:
        UsageError: it is not text.
    """
    if source is None or source.closed or source.isatty():
        return ""
    try:
        _announce_wait(source, errors)
        data = source.buffer.read()
    except OSError:  # closed by the caller: `warpcortex ask ... <&-`
        return ""
    return decode_notes(data, "standard input")


def _announce_wait(source: TextIO, errors: Console) -> None:
    """Says that we wait for a pipe: if nobody writes to it, the program would seem to hang."""
    try:
        ready, _, _ = select.select([source], [], [], _PIPE_PATIENCE)
    except (OSError, ValueError):  # Windows pipes and in-memory files cannot be waited for
        return
    if not ready:
        errors.print(Text("reading notes from standard input until it ends (give </dev/null for none)", style="dim"))


def _write(out: TextIO, text: str) -> None:
    out.write(text)
    out.flush()
