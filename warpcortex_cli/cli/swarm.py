"""`warpcortex swarm`: a Stream for each line of a file of tasks, and a line of JSON for each thought."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warpcortex_cli.cli.ask import NotesOption, say
from warpcortex_cli.cli.gate import stored_calibration
from warpcortex_cli.cli.output import (
    AUTO,
    AdapterOption,
    AllowProgramOption,
    DeviceOption,
    DtypeOption,
    ModelOption,
    ProfileOption,
    QuantizeOption,
    SeedOption,
    choose,
    note,
    open_prism,
    put,
    stderr_console,
    stopped,
    with_adapters,
)
from warpcortex_cli.errors import UsageError
from warpcortex_cli.phases import phase
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.process import importing
from warpcortex_cli.swarm.plans import Plans
from warpcortex_cli.swarm.reduce import best, groups, votes
from warpcortex_cli.swarm.tasks import read
from warpcortex_cli.swarm.thoughts import Thoughts
from warpcortex_cli.ui.notes import load_with_progress, read_notes
from warpcortex_cli.ui.swarm import Pace, SwarmPanel
from warpcortex_cli.ui.terminal import interrupts

if TYPE_CHECKING:
    from warpcortex_cli.engine.session import Session
    from warpcortex_cli.profile import Role

AWAKE = 128  # Streams at once: more are no faster on a CPU, and a tail of KV is held for each
_WARM = 0.7  # the temperature of several samples of one task, which would all be the same without
_MOST_INJECTED = 64


def swarm(
    tasks: Annotated[
        Path, typer.Argument(metavar="TASKS.jsonl", show_default=False, help="A JSON object a line, with `task`.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", show_default=False, help="Where thoughts go, a JSON object a line.")
    ],
    role: Annotated[
        str | None,
        typer.Option("--role", metavar="ROLE", show_default=False, help="A role of the profile. Default: its first."),
    ] = None,
    notes: NotesOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with FILE, if it is there.")] = False,
    awake: Annotated[int, typer.Option("--awake", min=1, max=4096, metavar="N", help="Streams at once.")] = AWAKE,
    samples: Annotated[int, typer.Option("--samples", min=1, max=4096, metavar="K", help="Streams for each task.")] = 1,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature", min=0.0, max=10.0, metavar="T", help="Default: the profile's; 0.7 with --samples."
        ),
    ] = None,
    judge: Annotated[
        bool, typer.Option("--judge", help="Let the Gate judge each thought by the notes, which reads it twice more.")
    ] = False,
    vote: Annotated[
        str | None,
        typer.Option(
            "--vote",
            metavar="FIELD",
            show_default=False,
            help="Print what most thoughts say, with counts, of tasks that agree in FIELD, such as id.",
        ),
    ] = None,
    into_river: Annotated[
        str | None,
        typer.Option(
            "--into-river", metavar="QUESTION", show_default=False, help="Inject the best thoughts and ask the River."
        ),
    ] = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    device: DeviceOption = AUTO,
    dtype: DtypeOption = AUTO,
    quantize: QuantizeOption = AUTO,
    adapter: AdapterOption = None,
    allow_program: AllowProgramOption = None,
    seed: SeedOption = 0,
) -> None:
    """Any number of agents: one for each line of a file. Killed at any moment, the same command goes on (--resume)."""
    if judge and notes is None:
        raise UsageError("--judge compares each thought with the notes, and there are none.", "Add --notes FILE.")
    text = read_notes(notes) if notes is not None else ""
    source, settings = choose(model, profile)
    settings = with_adapters(settings, adapter)
    warm = _WARM if samples > 1 and temperature is None else temperature
    plans = Plans(role or next((r.name for r in settings.roles), "any"), awake, samples, judge, warm)
    found = plans.role_of(settings)
    run = plans.run(plans.applied(settings), source.name, device, dtype, quantize, seed, text)
    if not resume and out.exists():
        raise UsageError(f"{out} exists already.", "Add --resume to go on with it, or give --out another name.")
    # Read once before the file of thoughts is made, so that a mistake leaves nothing behind.
    total = samples * sum(1 for _ in (groups(tasks, found, vote) if vote is not None else read(tasks, found)))
    if not total:
        raise UsageError(f"{tasks} has no tasks.", 'Write one JSON object a line, such as {"task": "47 + 86"}.')
    with Thoughts(out, run, samples, resume) as log:
        _check(log, tasks, found)
        before = log.answered.count
        if before:
            note(f"{out}: {before:,} of {total:,} thoughts are there already.")
        if log.cut:
            note(f"{out}: the last line was not whole, and its task is done again.")
        session: Session | None = None
        if before < total or into_river:
            options = LoadOptions(device, dtype, quantize)
            session = _session(model, profile, adapter, options, seed, allow_program, notes, text)
        if session is not None and before < total:
            whole = _think(session, log, tasks, plans, total)
            if not whole:
                stopped(f"{log.answered.count:,} of {total:,} thoughts are in {out}; --resume goes on")
                return
    if vote is not None:
        for counted in votes(tasks, out, found, vote):
            put(json.dumps(counted.to_json()))
    if into_river and session is not None:
        _ask(session, found, out, into_river)


def _check(log: Thoughts, tasks: Path, role: Role) -> None:
    """Refuses a file of thoughts that answers other tasks than these."""
    last = 0
    for task in read(tasks, role) if log.answered.count else ():
        last = task.line
        if not log.answered.fits(task):
            raise UsageError(
                f"{log.path} answers another task than the one in {tasks}, line {last:,}.",
                "Put the tasks back as they were (more may follow them), or give --out another name.",
            )
    if log.answered.last > last and log.answered.count:
        raise UsageError(
            f"{log.path} answers line {log.answered.last:,} of {tasks}, which has only {last:,}.",
            "Put the tasks back as they were, or give --out another name.",
        )


def _session(
    model: str | None,
    profile: str | None,
    adapter: list[str] | None,
    options: LoadOptions,
    seed: int,
    programs: list[str] | None,
    notes: Path | None,
    text: str,
) -> Session:
    """A session whose River has read the notes."""
    prism, settings = open_prism(model=model, profile=profile, options=options)
    settings = with_adapters(settings, adapter)
    with importing(), phase("importing the engine"):
        from warpcortex_cli.engine.session import Session

    session = Session(prism, settings, seed=seed, calibration=stored_calibration(prism), programs=programs or ())
    if notes is not None:
        load_with_progress(session, text, notes.name, stderr_console())
    return session


def _think(session: Session, log: Thoughts, tasks: Path, plans: Plans, total: int) -> bool:
    """Runs the swarm. Returns whether it came to its end, or was stopped by Ctrl-C."""
    from warpcortex_cli.engine.view import stream_view
    from warpcortex_cli.swarm.swarm import Swarm, run

    swarm = Swarm(session, tasks, plans, log.answered)
    pressed = False

    def stop() -> None:
        nonlocal pressed
        pressed = True

    def awake() -> list[Any]:
        return [stream_view(stream, swarm.journal.now()) for stream in swarm.crew.alive]

    before = log.answered.count
    pace = Pace(total, before)
    with interrupts(stop), SwarmPanel(stderr_console(), pace, awake, swarm.states) as panel:

        def keep(lines: list[dict[str, Any]]) -> None:
            if lines:
                log.append(lines)
            panel.show(before + sum(swarm.states.values()))

        began = swarm.journal.now()
        run(session, swarm, keep, lambda: pressed)
    done = sum(swarm.states.values())
    if before + done < total:
        return False
    seconds = max(swarm.journal.now() - began, 1e-9)
    note(f"{done:,} thoughts in {seconds:,.1f} s, {done / seconds:,.1f} a second: {_counts(swarm.states)}.")
    return True


def _counts(states: Counter[str]) -> str:
    return ", ".join(f"{n:,} {state}" for state, n in states.most_common())


def _ask(session: Session, role: Role, out: Path, question: str) -> None:
    """Injects the best thoughts and prints the River's answer."""
    from warpcortex_cli.swarm.swarm import inject

    given = inject(session, role, best(out, _MOST_INJECTED))
    best_of = (
        f"the {len(given):,} best thoughts that have room beside it" if given else "no thought, because none stands"
    )
    note(f"the River reads {best_of}.")
    say(session, question, sys.stdout)
