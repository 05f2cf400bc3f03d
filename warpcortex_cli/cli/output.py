"""Shared by all commands: answers on stdout, the rest on stderr, JSON, exit codes, options, loading a model."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, TextIO, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from warpcortex_cli.errors import ProfileError, UsageError, WarpError
from warpcortex_cli.phases import phase
from warpcortex_cli.prism.opening import AUTO, choose, loaded
from warpcortex_cli.prism.options import USUAL, LoadOptions
from warpcortex_cli.results import FLAG, HELP, recorded
from warpcortex_cli.ui.safe import SafeConsole, clean
from warpcortex_cli.ui.terminal import Forgiving

if TYPE_CHECKING:
    from warpcortex_cli.prism.prism import Prism
    from warpcortex_cli.profile import Profile

Report = Callable[[str, int, int], None]  # (what, how much is done, of how much)
INTERRUPTED = 130
_stopped = ContextVar("stopped", default=False)  # whether Ctrl-C has cut the work short
QUANTIZERS = (AUTO, "none", "bf16", "int8", "int4", "file")
DTYPES = ("auto", "fp32", "bf16", "fp16")
_FOR_INSTRUCTION_MODELS = ("assistant", "council", "math", "reviewer")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


def stderr_console() -> Console:
    """A console for everything but the answer. Rich honours NO_COLOR and TERM=dumb; markup is off."""
    return SafeConsole(file=cast(TextIO, Forgiving(sys.stderr)), markup=False, highlight=False, emoji=False)


def stdout_console() -> Console:
    """A console for tables that were asked for."""
    return SafeConsole(markup=False, highlight=False, emoji=False)


def put(text: str, end: str = "\n") -> None:
    """Prints text on stdout without terminal control characters."""
    print(clean(text), end=end)


def stopped(words: str) -> None:
    """Says that Ctrl-C has cut the work short. The exit code will say so too."""
    stderr_console().print(f"stopped; {words}")
    _stopped.set(True)


def was_stopped() -> bool:
    """Whether `stopped` was called since the last call of this."""
    found = _stopped.get()
    _stopped.set(False)
    return found


def note(text: str) -> None:
    """Prints one dim line on stderr without terminal control characters."""
    stderr_console().print(Text(clean(text), style="dim"), soft_wrap=True)


@contextmanager
def progress_bar(console: Console) -> Iterator[Report]:
    """A transient bar on a terminal; nothing elsewhere."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None)


def print_json(value: Any) -> None:
    """One JSON document on stdout; ASCII, so that no terminal or locale can break it."""
    print(json.dumps(value, indent=2, allow_nan=False))


def report(error: WarpError) -> None:
    """Says on stderr what went wrong and what to do. A profile's mistakes are listed line by line, as compilers do."""
    console = stderr_console()
    if isinstance(error, ProfileError):
        count = len(error.problems)
        console.print("warpcortex: the profile has " + (f"{count} mistakes:" if count != 1 else "a mistake:"))
    lines = error.problems if isinstance(error, ProfileError) else [f"warpcortex: {error.message}"]
    for line in lines:
        console.print(Text(clean(line).replace("\n", " ")), soft_wrap=True)  # a file's name may have line breaks
    if error.hint:
        console.print(Text(clean(error.hint), style="dim"), soft_wrap=True)


# -- options of ask and chat ---------------------------------------------------------------------------------


def _check_device(value: str) -> str:
    if not _DEVICE.fullmatch(value):
        raise typer.BadParameter(f"{clean(value)!r} is not one of auto, cpu, cuda, cuda:0, cuda:1, ..., mps.")
    return value


def _one_of(*words: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in words:
            raise typer.BadParameter(f"{clean(value)!r} is not one of {', '.join(words)}.")
        return value

    return check


def _complete(*words: str) -> Callable[[str], list[str]]:
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def _complete_profile(incomplete: str) -> list[str]:
    from warpcortex_cli.profile import shipped_profiles

    return [name for name in shipped_profiles() if name.startswith(incomplete)]


ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        metavar="NAME|FILE",
        help="A shipped profile or a YAML file. Default: pocket for the model pocket, else assistant.",
        show_default=False,
        autocompletion=_complete_profile,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="pocket, smollm2, a folder, FILE.gguf, ollama:NAME, or org/name@revision. Default: the profile's.",
        show_default=False,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:N or mps.",
        callback=_check_device,
        autocompletion=_complete("auto", "cpu", "cuda", "mps"),
    ),
]
DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="auto, fp32, bf16 or fp16.",
        callback=_one_of(*DTYPES),
        autocompletion=_complete(*DTYPES),
    ),
]
QuantizeOption = Annotated[
    str,
    typer.Option(
        "--quantize",
        metavar="KIND",
        help="Weights in bf16, int8 or int4: faster and smaller on a CPU; int8 gives almost the same output. On Linux "
        "with a C++ compiler, auto is bf16 for a model stored in it, and the file's own bits (file) for GGUF, unless "
        "--dtype is given.",
        callback=_one_of(*QUANTIZERS),
        autocompletion=_complete(*QUANTIZERS),
    ),
]
CompileOption = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the layers that --quantize does not replace: faster steps. Needs a C++ compiler and a minute.",
    ),
]
AdapterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="NAME=FOLDER",
        help="Compute the River (river), or a role, with a LoRA adapter as PEFT writes it. May be given several times.",
        show_default=False,
    ),
]
SeedOption = Annotated[
    int,
    typer.Option("--seed", min=0, max=2**63 - 1, metavar="N", help="The same seed gives the same run on a CPU."),
]
NoStreamsOption = Annotated[bool, typer.Option("--no-streams", help="Run the River alone; requests have no effect.")]
AllowProgramOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-program",
        metavar="PROGRAM",
        help="Let roles of the profile start this program; may be given again. Without it a profile starts none.",
        show_default=False,
    ),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        min=0.0,
        max=10.0,
        metavar="T",
        help="0 is greedy. Default: the profile's, then the model's own.",
    ),
]
TopPOption = Annotated[
    float | None, typer.Option("--top-p", min=1e-6, max=1.0, metavar="P", help="Nucleus sampling, as in profiles.")
]
TopKOption = Annotated[
    int | None,
    typer.Option("--top-k", min=0, metavar="K", help="Draw from this many of the most probable tokens; 0: all."),
]
MinPOption = Annotated[
    float | None,
    typer.Option("--min-p", min=0.0, max=1.0, metavar="P", help="Draw no token below this share of the best."),
]
RepetitionPenaltyOption = Annotated[
    float | None,
    typer.Option("--repetition-penalty", min=0.01, max=10.0, metavar="X", help="Above 1: fewer repetitions."),
]
StopOption = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="A text that ends the reply. May be repeated.", show_default=False),
]


def _record(room: str) -> Callable[[typer.Context, bool], bool]:
    """Records what the command prints, for RESULTS.md."""

    def begin(context: typer.Context, wanted: bool) -> bool:
        if not context.resilient_parsing:
            context.with_resource(recorded(wanted, room, "warpcortex"))
        return wanted

    return begin


BenchResultsOption = Annotated[bool, typer.Option(FLAG, help=HELP, callback=_record("bench"))]
EvalResultsOption = Annotated[bool, typer.Option(FLAG, help=HELP, callback=_record("eval"))]


# -- loading -------------------------------------------------------------------------------------------------


def open_prism(
    *,
    model: str | None,
    profile: str | None,
    options: LoadOptions = USUAL,
) -> tuple[Prism, Profile]:
    """Finds and loads model and profile, and names them in one dim line on stderr.

    Args:
        model: from -m; None takes the profile's.
        profile: a name, a path, or None (or "auto"): pocket for the model pocket, else assistant.
        options: how the model is loaded.

    Raises:
        UsageError: there is no such profile, or it has mistakes.
        ModelError: the model is not on this machine, or cannot be served.
        MemoryLimitError: it does not fit.
        RunError: nothing can be compiled here.
    """
    with phase("finding model and profile"):
        source, settings = choose(model, profile)
    console = stderr_console()
    doing = f"loading {clean(source.name)}" + (" and compiling its layers" if options.compiled else "")
    with console.status(Text(doing, style="dim")):
        prism = loaded(source, options)
    kind = kept_in(prism) + (", compiled" if options.compiled else "")
    line = f"model {source.name} on {prism.device} ({kind}), profile {settings.name}"
    if source.kind == "pocket" and settings.name in _FOR_INSTRUCTION_MODELS:
        line += ", which is written for instruction models and does little for pocket"
    note(f"{line}. {source.note}." if source.note else f"{line}.")
    if prism.chat.problem:
        lines = "turns are written as User: and Assistant: lines"
        note(f"no chat template of {source.name} can be used ({prism.chat.problem}): {lines}.")
    return prism, settings


def kept_in(prism: Prism) -> str:
    """A model's compute type and the format of its packed weights, as text for people."""
    from warpcortex_cli.prism.load import name_of

    words = {"none": "", "file": ", weights as in the file"}
    return name_of(prism.dtype) + words.get(prism.quantize, f", weights {prism.quantize}")


def with_adapters(settings: Profile, given: Sequence[str] | None) -> Profile:
    """A profile with the adapters of `AdapterOption`. UsageError: one is not NAME=FOLDER, or names nobody."""
    pairs = {}
    for text in given or ():
        name, sign, folder = text.partition("=")
        if not (name and sign and folder):
            raise UsageError(f"--adapter {text}: this is not NAME=FOLDER.", "Write --adapter river=FOLDER.")
        pairs[name] = folder
    return settings.adapted(pairs) if pairs else settings


def with_sampling(
    settings: Profile,
    stop: Sequence[str] | None,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    min_p: float | None,
    repetition_penalty: float | None,
) -> Profile:
    """A profile with its sampling settings replaced by the options `StopOption`, `TemperatureOption` and so on."""
    asked: dict[str, float | None] = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    return settings.sampled(given, stop or ()) if given or stop else settings
