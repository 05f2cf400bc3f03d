"""Models that Ollama has pulled: manifests by name, blobs by digest, parameters. It needs neither torch nor Ollama."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warpcortex_cli.errors import ModelError

_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_PART = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MODEL, _ADAPTER = "application/vnd.ollama.image.model", "application/vnd.ollama.image.adapter"
_PARAMS = "application/vnd.ollama.image.params"
_LARGEST = 2**20  # bytes of a manifest, or of parameters
_SAMPLING = {  # Ollama's names of settings, and transformers'
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
}
_USUAL = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}  # Ollama's defaults


@dataclass(frozen=True)
class Files:
    """A model's GGUF file, and the JSON file of its parameters (PARAMETER in a Modelfile), if there is one."""

    model: Path
    params: Path | None = None


def folders() -> list[Path]:
    """Where Ollama keeps models: OLLAMA_MODELS, else the user's folder and the Linux service's."""
    own = os.environ.get("OLLAMA_MODELS")
    if own:
        return [Path(own).expanduser()]
    return [Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]


def find(name: str) -> Files:
    """The files of a model, `[[host/]namespace/]name[:tag]`.

    Raises:
        ModelError: it is missing, incomplete, or not one model in one file.
    """
    place = _place(name)
    for folder in folders():
        manifest = folder / "manifests" / place
        if _is_file(manifest):
            return _files(folder, manifest, f"ollama:{name}")
    looked = " and ".join(str(f) for f in folders())
    raise ModelError(
        f"Ollama has no model {name!r} in {looked}.",
        f"Run `ollama pull {name}`, set OLLAMA_MODELS, or see `warpcortex models`.",
    )


def listed() -> Iterator[tuple[str, Path | ModelError]]:
    """All models, by the names that `find` takes: the GGUF file, or the error."""
    for folder in folders():
        manifests = folder / "manifests"
        try:
            found = sorted(p for p in manifests.glob("*/*/*/*") if p.is_file())
        except OSError:  # another user's folder
            continue
        for manifest in found:
            host, namespace, name, tag = manifest.relative_to(manifests).parts
            short = name if (host, namespace) == (_HOST, _NAMESPACE) else f"{namespace}/{name}"
            full = f"{short if host == _HOST else f'{host}/{namespace}/{name}'}:{tag}"
            try:
                yield full, _files(folder, manifest, f"ollama:{full}").model
            except ModelError as error:
                yield full, error


def generation(params: Path, name: str) -> dict[str, Any]:
    """A model's parameters as settings of transformers' `GenerationConfig`.

    If they ask for sampling, unset ones get Ollama's defaults. Settings of the wrong type are ignored, and so are those
    that do not choose tokens (`num_ctx`, `seed`, `mirostat`, ...).

    Raises:
        ModelError: the file is damaged.
    """
    try:
        with params.open("rb") as file:
            said = json.loads(file.read(_LARGEST))
        if not isinstance(said, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{name} has broken parameters ({type(error).__name__}).", _again(name)) from None
    found: dict[str, Any] = {
        ours: said[theirs] for theirs, ours in _SAMPLING.items() if type(said.get(theirs)) in (int, float)
    }
    if found.keys() & _USUAL.keys() and found.get("temperature") != 0:
        found = {"do_sample": True, **_USUAL, **found}
    stops = said.get("stop")
    stops = [stops] if isinstance(stops, str) else stops
    if isinstance(stops, list) and (texts := [s for s in stops if isinstance(s, str) and s]):
        found["stop_strings"] = texts
    return found


def _place(name: str) -> Path:
    path, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", _TAG)
    parts = path.split("/")
    parts = [*(_HOST, _NAMESPACE)[: max(0, 3 - len(parts))], *parts, tag]
    if len(parts) != 4 or not all(_PART.fullmatch(part) for part in parts):
        raise ModelError(f"{name[:80]!r} is not a name of Ollama's.", "Write ollama:NAME or ollama:NAME:TAG.")
    return Path(*parts)


def _files(folder: Path, manifest: Path, name: str) -> Files:
    try:
        with manifest.open("rb") as file:
            layers = json.loads(file.read(_LARGEST))["layers"]
        digests: dict[str, list[str]] = {}
        for layer in layers:
            digests.setdefault(layer["mediaType"], []).append(layer["digest"])
        models, params = digests.get(_MODEL, []), digests.get(_PARAMS, [])
        if not all(_DIGEST.fullmatch(digest) for digest in (*models, *params)):
            raise ValueError("a digest is none")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{name} has a broken manifest ({type(error).__name__}).", _again(name)) from None
    if _ADAPTER in digests:
        raise ModelError(f"{name} is an adapter of another model, which is not supported.", "Choose another model.")
    if len(models) != 1:
        raise ModelError(f"{name} has {len(models)} files of weights, and one is served.", "Choose another model.")
    files = [folder / "blobs" / digest.replace(":", "-") for digest in (*models, *params[:1])]
    missing = [file for file in files if not _is_file(file)]
    if missing:
        raise ModelError(f"{name} is incomplete: {missing[0].name[:19]}... is missing.", _again(name))
    return Files(*files)


def _again(name: str) -> str:
    return f"Run `ollama pull {name.removeprefix('ollama:')}` again."


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False
