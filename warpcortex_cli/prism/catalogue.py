"""The models on this machine, and whether each can be served. It imports no torch and loads nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from warpcortex_cli.errors import ModelError
from warpcortex_cli.gguf.header import read_header
from warpcortex_cli.gguf.served import check_served, context, unpacked_types
from warpcortex_cli.prism import ollama
from warpcortex_cli.prism import source as sources
from warpcortex_cli.prism.source import SMOLLM2, check_folder, resolve_model, weight_files

Source = Literal["pocket", "package", "huggingface", "ollama", "lmstudio", "folder"]
_LAYERS = ("full_attention", "sliding_attention")
_LARGEST = 10 * 2**20  # bytes of a config.json
_DEEP, _MANY = 4, 2000  # how deep LM Studio's folder is searched, and for how many files


@dataclass(frozen=True)
class Entry:
    """A model on this machine.

    Attributes:
        name: as -m takes it.
        path: its folder or file.
        source: where it was found.
        bytes: of its weights.
        context: the context length that its files give, or None.
        architecture: as its files name it, or "".
        reason: why it cannot be served, or None.
        note: what the user should know about a model that can.
    """

    name: str
    path: Path
    source: Source
    format: Literal["safetensors", "gguf"]
    bytes: int
    context: int | None
    architecture: str
    reason: str | None = None
    note: str | None = None

    @property
    def served(self) -> bool:
        return self.reason is None


def models(folders: list[Path]) -> list[Entry]:
    """All models found: pocket, packages, the Hugging Face cache, Ollama's and LM Studio's folders, and `folders`."""
    found = [*_own(), *_hugging_face(), *_ollama(), *_lm_studio()]
    known = {entry.path.resolve() for entry in found}
    inside: dict[Path, Entry] = {}  # folders may lie in each other
    for entry in (entry for folder in folders for entry in _folder(folder)):
        inside.setdefault(entry.path.resolve(), entry)
    return [*found, *(entry for path, entry in inside.items() if path not in known)]


# -- places --------------------------------------------------------------------------------------------------


def _own() -> Iterator[Entry]:
    with suppress(ModelError):  # a broken installation, which doctor reports
        yield _safetensors("pocket", resolve_model("pocket").path, "pocket")
    file = sources.package_file()
    if file is not None:
        yield _gguf(SMOLLM2, file, "package")


def _hugging_face() -> Iterator[Entry]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):
        return
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        if repo.repo_type != "model":
            continue
        for revision in sorted(repo.revisions, key=lambda r: r.last_modified, reverse=True):
            names = sorted(revision.refs) or [revision.commit_hash]
            name = repo.repo_id if "main" in names else f"{repo.repo_id}@{names[0]}"
            folder = Path(revision.snapshot_path)
            files = _first_shards(folder, _DEEP)
            for file in files:
                yield _gguf(f"{name}:{file.relative_to(folder).as_posix()}", file, "huggingface")
            if not files or (folder / "config.json").is_file():
                yield _safetensors(name, folder, "huggingface")


def _ollama() -> Iterator[Entry]:
    for name, found in ollama.listed():
        if isinstance(found, ModelError):
            yield Entry(f"ollama:{name}", Path(), "ollama", "gguf", 0, None, "", found.message)
        else:
            yield _gguf(f"ollama:{name}", found, "ollama")


def _lm_studio() -> Iterator[Entry]:
    homes = [Path.home() / ".lmstudio", Path.home() / ".cache" / "lm-studio"]
    moved = Path.home() / ".lmstudio-home-pointer"
    with suppress(OSError, ValueError):
        homes.insert(0, Path(moved.read_text(encoding="utf-8").strip()))
    for folder in dict.fromkeys(home / "models" for home in homes):
        for file in _first_shards(folder, _DEEP):
            yield _gguf(str(file), file, "lmstudio")


def _folder(folder: Path) -> Iterator[Entry]:
    """The models in a folder, or the folder itself if it is one."""
    for inner in [folder, *_inner(folder)]:
        if (inner / "config.json").is_file():
            yield _safetensors(str(inner), inner, "folder")
        for file in _first_shards(inner, 1):
            yield _gguf(str(file), file, "folder")


def _inner(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return []


def _first_shards(folder: Path, depth: int) -> list[Path]:
    """GGUF files in a folder, down to a depth; of a split model only the first. Image projectors are skipped."""
    found = []
    for place, inner, files in os.walk(folder):
        if len(Path(place).relative_to(folder).parts) >= depth - 1:
            inner.clear()
        for name in files:
            later = "-of-" in name and not name.rpartition("-of-")[0].endswith("-00001")
            if name.endswith(".gguf") and not later and not name.startswith("mmproj"):
                found.append(Path(place) / name)
        if len(found) > _MANY:
            break
    return sorted(found)


# -- what they are -------------------------------------------------------------------------------------------


def _gguf(name: str, path: Path, source: Source) -> Entry:
    reason = note = None
    size, length, kind = _size([path]), None, ""
    try:
        header = read_header(path, name)
        size, length, kind = header.nbytes, context(header), header.text("general.architecture")
        check_served(header)
        others = unpacked_types(header)
        if others:
            note = f"{' and '.join(others)} are unpacked, which takes more memory than the file"
    except ModelError as error:
        reason = error.message
    return Entry(name, path, source, "gguf", size, length, kind, reason, note)


def _safetensors(name: str, folder: Path, source: Source) -> Entry:
    try:
        with (folder / "config.json").open("rb") as file:
            config = json.loads(file.read(_LARGEST))
        config = config if isinstance(config, dict) else {}
    except (OSError, ValueError, RecursionError):
        config = {}
    inner = config.get("text_config")
    text: dict[str, Any] = {**config, **inner} if isinstance(inner, dict) else config
    length, kind = text.get("max_position_embeddings"), text.get("model_type")
    try:
        check_folder(folder, name)
        size = _size(weight_files(folder, name))
        reason = _not_served(config, text)
    except ModelError as error:
        size, reason = _size(list(folder.glob("*.safetensors"))), error.message
    return Entry(
        *(name, folder, source, "safetensors", size),
        length if type(length) is int and length > 0 else None,
        kind if isinstance(kind, str) else "",
        reason,
    )


def _not_served(config: dict[str, Any], text: dict[str, Any]) -> str | None:
    """Why a model cannot be served, from its configuration alone. Loading it may find more."""
    if text.get("is_encoder_decoder"):
        return "It is an encoder-decoder; only decoder-only models are supported."
    if config.get("quantization_config"):
        return "It holds quantized weights, which are supported as GGUF only."
    made = config.get("architectures")
    if isinstance(made, list) and made and not any("CausalLM" in str(m) or "ConditionalGen" in str(m) for m in made):
        return "It is not a language model that writes text."
    kinds = text.get("layer_types")
    strange = sorted({str(k) for k in kinds} - set(_LAYERS)) if isinstance(kinds, list) else []
    if strange:
        return f"It has layers of the kind {', '.join(strange)}, which keep no keys and values of all tokens."
    if not isinstance(text.get("model_type"), str):
        return "Its config.json names no model_type."
    return None


def _size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())
