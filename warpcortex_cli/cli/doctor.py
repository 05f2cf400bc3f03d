"""`warpcortex doctor`: versions, devices, memory, caches, what is missing and how to get it. No network."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.text import Text

from warpcortex_cli import __version__
from warpcortex_cli.cli.output import print_json
from warpcortex_cli.errors import WarpError
from warpcortex_cli.ui.panels import size
from warpcortex_cli.ui.safe import clean

_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "google-re2",
    "nvidia-ml-py",
)
_STYLES = {"ok": "green", "note": "yellow", "missing": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line. `state`: "ok", "note" (works, could be better) or "missing"; `fix`: what to do, or ""."""

    section: str
    name: str
    value: str
    state: str = "ok"
    fix: str = ""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Show what is installed and what is missing. Exit code 1 if warpcortex cannot run."""
    findings = [*_versions(), *_devices(), *_memory(), *_models(), *_settings()]
    broken = any(f.state == "missing" for f in findings)
    if as_json:
        print_json({"schema_version": 1, "ok": not broken, "findings": [asdict(f) for f in findings]})
        raise typer.Exit(int(broken))
    console = Console(highlight=False, markup=False, emoji=False)
    width = max(len(f.name) for f in findings)
    section = ""
    for finding in findings:
        if finding.section != section:
            section = finding.section
            console.print(Text(section, style="bold"))
        line = Text.assemble(
            "  ",
            finding.name.ljust(width + 2),
            (clean(finding.value), _STYLES[finding.state] if finding.state != "ok" else ""),
        )
        console.print(line, soft_wrap=True)
        if finding.fix:
            console.print(Text(f"  {'':{width}}  {clean(finding.fix)}", style="dim"), soft_wrap=True)
    console.print(
        Text("Something is missing." if broken else "All is well.", style="bold" if broken else "green")
    )
    raise typer.Exit(int(broken))


def _versions() -> list[Finding]:
    found = [
        Finding("Versions", "warpcortex", __version__),
        Finding("Versions", "python", f"{platform.python_version()} ({sys.executable})"),
    ]
    for name in _PACKAGES:
        try:
            found.append(Finding("Versions", name, version(name)))
        except PackageNotFoundError:
            found.append(Finding("Versions", name, "not installed", "missing", f"pip install {name}"))
    return found


def _devices() -> list[Finding]:
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    found = [Finding("Devices", "cpu", f"{platform.machine()}, {cores} cores, {os.cpu_count()} threads")]
    try:
        import torch
    except (ImportError, OSError) as error:
        return [
            *found,
            Finding(
                "Devices",
                "torch",
                f"cannot be imported: {error}",
                "missing",
                "pip install --force-reinstall torch",
            ),
        ]
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(i)
        value = f"{torch.cuda.get_device_name(i)}, {size(free)} of {size(total)} free"
        found.append(Finding("Devices", f"cuda:{i}", value))
    if torch.backends.mps.is_available():
        found.append(Finding("Devices", "mps", "available"))
    if len(found) == 1:
        card = _nvidia_card()
        if card and torch.version.cuda is None:
            fix = "This torch is the CPU build. pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130"
            found.append(Finding("Devices", "cuda", f"{card} is there, but not for this torch", "note", fix))
        else:
            found.append(Finding("Devices", "gpu", "none; warpcortex runs on the CPU"))
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


def _memory() -> list[Finding]:
    from warpcortex_cli.prism.load import available_memory
    from warpcortex_cli.probes.memory import MemoryProbe

    total, free = int(psutil.virtual_memory().total), available_memory()
    low = free < 2**30
    now = MemoryProbe("cpu").read()
    return [
        Finding(
            "Memory",
            "free",
            f"{size(free)} of {size(total)}",
            *(("note", "pocket needs about 1 GB.") if low else ()),
        ),
        Finding("Memory", "this process", f"{size(now.bytes)} ({now.source})"),
    ]


def _models() -> list[Finding]:
    from warpcortex_cli.prism.source import LARGER_MODEL, resolve_model

    found: list[Finding] = []
    try:
        pocket = resolve_model("pocket")
        found.append(Finding("Models", "pocket", f"embedded, {size(_folder_size(pocket.path))}"))
    except WarpError as error:
        found.append(Finding("Models", "pocket", error.message, "missing", error.hint or ""))
    cached = _cached_models()
    for name, held in cached:
        try:
            resolve_model(name)
            found.append(Finding("Models", name, f"in the cache, {size(held)}"))
        except WarpError as error:
            found.append(Finding("Models", name, error.message, "note", error.hint or ""))
    if LARGER_MODEL not in [name for name, _ in cached]:
        found.append(
            Finding(
                "Models",
                LARGER_MODEL,
                "not in the cache",
                "note",
                f"warpcortex pull {LARGER_MODEL} fetches it (1 GB).",
            )
        )
    return found


def _cached_models() -> list[tuple[str, int]]:
    """Names and bytes of the models in the Hugging Face cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except (CacheNotFound, OSError, ValueError):
        return []
    return sorted((repo.repo_id, int(repo.size_on_disk)) for repo in repos if repo.repo_type == "model")


def _settings() -> list[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    offline = "yes (HF_HUB_OFFLINE)" if HF_HUB_OFFLINE else "no"
    return [
        Finding("Hugging Face", "cache", HF_HUB_CACHE),
        Finding(
            "Hugging Face",
            "offline",
            offline,
            *(("note", "pull needs HF_HUB_OFFLINE=0.") if HF_HUB_OFFLINE else ()),
        ),
        Finding(
            "Hugging Face",
            "HF_TOKEN",
            "set" if os.environ.get("HF_TOKEN") else "not set (only gated models need it)",
        ),
    ]


def _folder_size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
