"""`warpcortex doctor`: versions, devices, memory, caches, what is missing and how to get it. No network."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from warpcortex_cli import __version__
from warpcortex_cli.cli.output import print_json, stdout_console
from warpcortex_cli.errors import WarpError
from warpcortex_cli.ui.panels import size

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "google-re2")
_STYLES = {"ok": "", "note": "yellow", "missing": "bold red"}
_CUDA_WHEELS = "https://download.pytorch.org/whl/cu130"
_QUESTION = "What is the capital of France?"  # of --startup
_LAYER = ((960, 576), (576, 576), (3072, 576), (576, 1536))  # outputs and inputs of SmolLM2's products
_LITTLE = 2**30  # bytes of free memory below which pocket gets into trouble


@dataclass(frozen=True)
class Finding:
    """One line. `state`: "ok", "note" (works, could be better) or "missing"; `fix`: what to do, or ""."""

    name: str
    value: str
    state: str = "ok"
    fix: str = ""


def doctor(
    startup: Annotated[
        str | None,
        typer.Option(
            "--startup",
            metavar="MODEL",
            help="Show where the time goes until MODEL has answered a short question, as `ask` would.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what is installed and what is missing. Exit code 1 if warpcortex cannot run."""
    if startup is not None:
        _show_startup(startup, as_json)
        return
    sections = {name: _examined(look) for name, look in _SECTIONS.items()}
    broken = any(f.state == "missing" for findings in sections.values() for f in findings)
    if as_json:
        listed = [{"section": name, **asdict(f)} for name, findings in sections.items() for f in findings]
        print_json({"schema_version": 1, "ok": not broken, "findings": listed})
    else:
        _print(sections)
        verdict = ("Something is missing.", "bold red") if broken else ("All is well.", "green")
        stdout_console().print(Text(*verdict))
    raise typer.Exit(int(broken))


def _show_startup(model: str, as_json: bool) -> None:
    """Answers a question in this process, by what `ask` does, and prints what each phase of it took."""
    from warpcortex_cli.cli.ask import answered
    from warpcortex_cli.phases import phase

    prism, tokens = answered(model, _QUESTION)
    before, found = _seconds_before(), phase.seconds()
    phases = [("Python", before), *found.items()]
    total, memory = sum(seconds for _, seconds in phases), _peak_bytes()
    if as_json:
        rows = [{"name": name, "seconds": round(seconds, 4)} for name, seconds in phases]
        print_json({
            "schema_version": 1, "model": prism.name, "phases": rows, "seconds": round(total, 4), "tokens": tokens,
            "peak_bytes": memory, "weights_bytes": prism.parameter_bytes,
        })  # fmt: skip
        return
    console, width = stdout_console(), max(len(name) for name, _ in phases)
    for name, seconds in phases:
        bar = "#" * round(40 * seconds / total)
        console.print(Text(f"{name.ljust(width)}  {seconds:6.2f} s  {bar}".rstrip()), soft_wrap=True)
    peak = f", {size(memory)} of memory at the peak" if memory else ""
    words = f"{total:6.2f} s until {tokens} tokens were written{peak}; {size(prism.parameter_bytes)} of weights"
    console.print(Text(f"{'all'.ljust(width)}  {words}", style="bold"), soft_wrap=True)


def _seconds_before() -> float:
    """Of this process, until its first phase began, where the system tells it to the hundredth."""
    from warpcortex_cli.phases import phase

    try:
        words = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began = int(words[19]) / os.sysconf("SC_CLK_TCK")  # since the machine was started
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, ValueError, AttributeError, IndexError):
        return 0.0
    return max(0.0, now - began - (time.perf_counter() - phase.began))


def _peak_bytes() -> int | None:
    """The most memory that this process has had, where the system tells it."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _examined(look: Callable[[], list[Finding]]) -> list[Finding]:
    """A section, also of a broken installation: that is when it is needed most."""
    try:
        return look()
    except (ImportError, OSError) as error:
        package = (getattr(error, "name", None) or "warpcortex").partition(".")[0]
        fix = f"pip install --force-reinstall {package}"
        return [Finding(package, f"cannot be imported: {error}", "missing", fix)]


def _print(sections: dict[str, list[Finding]]) -> None:
    console = stdout_console()
    width = max(len(f.name) for findings in sections.values() for f in findings)
    for name, findings in sections.items():
        console.print(Text(name, style="bold"))
        for finding in findings:
            value = Text(finding.value, style=_STYLES[finding.state])
            console.print(Text(f"  {finding.name.ljust(width)}  ") + value, soft_wrap=True)
            if finding.fix:
                console.print(Text(f"  {'':{width}}  {finding.fix}", style="dim"), soft_wrap=True)


def _versions() -> list[Finding]:
    python = f"{platform.python_version()} ({sys.executable})"
    found = [Finding("warpcortex", __version__), Finding("python", python)]
    for name in _PACKAGES:
        try:
            found.append(Finding(name, version(name)))
        except PackageNotFoundError:
            found.append(Finding(name, "not installed", "missing", f"pip install {name}"))
    return found


def _devices() -> list[Finding]:
    import torch

    from warpcortex_cli.prism.library import command, compiler

    found = [Finding("cpu", f"{platform.machine()}, {os.cpu_count()} threads, {torch.get_num_threads()} in use")]
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(i)
        value = f"{torch.cuda.get_device_name(i)}, {size(free)} of {size(total)} free"
        found.append(Finding(f"cuda:{i}", value))
    if torch.backends.mps.is_available():
        found.append(Finding("mps", "available"))
    gpu = len(found) > 1
    there = shutil.which(command()[0]) and (shutil.which(compiler()) or compiler())
    found.append(Finding("compiler", there or f"{compiler()} is not there; --compile, bf16 and int4 take one"))
    if not gpu:
        card = _nvidia_card()
        if card and torch.version.cuda is None:
            fix = f"This torch is the CPU build: pip install --force-reinstall torch --index-url {_CUDA_WHEELS}"
            found.append(Finding("cuda", f"{card} is there, but not for this torch", "note", fix))
        else:
            found.append(Finding("gpu", "none; warpcortex runs on the CPU"))
    return found


def _nvidia_card() -> str | None:
    """The first NVIDIA card that the driver knows, also when torch does not."""
    try:
        import pynvml

        pynvml.nvmlInit()
        name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
        pynvml.nvmlShutdown()
    except Exception:  # no driver, no library, no card: each version says it in another way
        return None
    return name if isinstance(name, str) else str(name, "utf-8", "replace")


def _products() -> list[Finding]:
    """How fast a layer of SmolLM2's size is multiplied at each width, packed and as torch's fp32."""
    from warpcortex_cli.prism import native, rates
    from warpcortex_cli.results import machine

    if not native.usable():
        return [Finding("kernels", "they cannot be compiled here; torch multiplies, and int8 is slow", "note")]
    formats = {"bf16": native.BF16, "int8": native.INT8, "int4": native.INT4}
    measured = rates.measured(_LAYER, list(formats.values()), rates.WIDTHS)
    found = [Finding("kernels for", machine()), Finding("rows of a step", _cells(rates.WIDTHS))]
    for name, format in formats.items():
        slower = [r.width for r in measured[format] if r.ours < r.torch]
        fix = ""
        if slower:
            rest = "" if rates.pays(measured[format]) else "; over a usual turn, too: --quantize none takes torch's"
            fix = f"slower than torch's fp32 at {', '.join(map(str, slower))} rows{rest}"
        found.append(Finding(name, _cells(r.ours for r in measured[format]), "note" if slower else "ok", fix))
    found.append(Finding("torch's fp32", _cells(r.torch for r in measured[native.BF16])))
    return found


def _cells(numbers: Iterable[float]) -> str:
    return "".join(f"{n:8.1f}" if isinstance(n, float) else f"{n:8}" for n in numbers)


def _memory() -> list[Finding]:
    from warpcortex_cli.probes.memory import MemoryProbe, available_memory, total_memory

    free, now = available_memory(), MemoryProbe("cpu").read()
    value = f"{size(free)} of {size(total_memory())}"
    low = Finding("free", value, "note", "pocket needs about 1 GB.") if free < _LITTLE else None
    return [low or Finding("free", value), Finding("this process", f"{size(now.bytes)} ({now.source})")]


def _models() -> list[Finding]:
    from warpcortex_cli.prism.source import LARGER_MODEL, resolve_model

    found: list[Finding] = []
    try:
        pocket = resolve_model("pocket")
        found.append(Finding("pocket", f"embedded, {size(_folder_size(pocket.path))}"))
    except WarpError as error:
        found.append(Finding("pocket", error.message, "missing", error.hint or ""))
    cached = _cached_models()
    for name, held in cached:
        try:
            resolve_model(name)
            found.append(Finding(name, f"in the cache, {size(held)}"))
        except WarpError as error:
            found.append(Finding(name, error.message, "note", error.hint or ""))
    found += _others()
    if LARGER_MODEL not in [name for name, _ in cached]:
        fix = f"`warpcortex pull {LARGER_MODEL}` fetches it (1 GB)."
        found.append(Finding(LARGER_MODEL, "not in the cache", "note", fix))
    return found


def _others() -> list[Finding]:
    """What is installed or was fetched by other programs."""
    from warpcortex_cli.prism.catalogue import models
    from warpcortex_cli.prism.source import INSTALL_SMOLLM2, SMOLLM2

    found = []
    for entry in models([]):
        if entry.source in ("package", "ollama", "lmstudio"):
            value = f"{entry.source}, {entry.format}, {size(entry.bytes)}" + (f"; {entry.note}" if entry.note else "")
            state = "ok" if entry.served else "note"
            found.append(Finding(entry.name, value if entry.served else entry.reason or value, state))
    if not any(f.name == SMOLLM2 for f in found):
        found.append(Finding(SMOLLM2, "not installed", "note", f"`{INSTALL_SMOLLM2}` brings it (93 MB)."))
    return found


def _cached_models() -> list[tuple[str, int]]:
    """Names and bytes of the models in the Hugging Face cache."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):
        return []
    return sorted((repo.repo_id, int(repo.size_on_disk)) for repo in repos if repo.repo_type == "model")


def _hugging_face() -> list[Finding]:
    from huggingface_hub import constants

    token = "set" if os.environ.get("HF_TOKEN") else "not set; only gated models need it"
    offline = Finding("offline", "yes", "note", "`warpcortex pull` needs HF_HUB_OFFLINE=0.")
    return [
        Finding("cache", constants.HF_HUB_CACHE),
        offline if constants.HF_HUB_OFFLINE else Finding("offline", "no"),
        Finding("HF_TOKEN", token),
    ]


def _folder_size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())


_SECTIONS = {
    "Versions": _versions,
    "Devices": _devices,
    "Billions of multiplications a second, one core": _products,
    "Memory": _memory,
    "Models": _models,
    "Hugging Face": _hugging_face,
}
