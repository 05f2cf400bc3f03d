"""Models that Ollama has fetched: manifests by name, blobs by digest. No torch, no Ollama."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from warpcortex_cli.errors import ModelError

_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_PART = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MODEL, _ADAPTER = "application/vnd.ollama.image.model", "application/vnd.ollama.image.adapter"
_LARGEST = 2**20  # bytes of a manifest


def folders() -> list[Path]:
    """Where Ollama keeps models: OLLAMA_MODELS, else the user's folder and that of the Linux service."""
    own = os.environ.get("OLLAMA_MODELS")
    if own:
        return [Path(own).expanduser()]
    return [Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]


def find(name: str) -> Path:
    """The GGUF file of a model, `[[host/]namespace/]name[:tag]`.

    Raises:
        ModelError: it is not there, incomplete, or more than a model in one file.
    """
    place = _place(name)
    for folder in folders():
        manifest = folder / "manifests" / place
        if _is_file(manifest):
            return _blob(folder, manifest, f"ollama:{name}")
    looked = " and ".join(str(f) for f in folders())
    raise ModelError(
        f"Ollama has no model {name!r} in {looked}.",
        f"Run `ollama pull {name}`, set OLLAMA_MODELS, or see `warpcortex models`.",
    )


def listed() -> Iterator[tuple[str, Path | ModelError]]:
    """All models by the names that `find` takes: the file, or why there is none."""
    for folder in folders():
        manifests = folder / "manifests"
        try:
            found = sorted(p for p in manifests.glob("*/*/*/*") if p.is_file())
        except OSError:  # a folder of another user
            continue
        for manifest in found:
            host, namespace, name, tag = manifest.relative_to(manifests).parts
            short = name if (host, namespace) == (_HOST, _NAMESPACE) else f"{namespace}/{name}"
            full = f"{short if host == _HOST else f'{host}/{namespace}/{name}'}:{tag}"
            try:
                yield full, _blob(folder, manifest, f"ollama:{full}")
            except ModelError as error:
                yield full, error


def _place(name: str) -> Path:
    path, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", _TAG)
    parts = path.split("/")
    parts = [*(_HOST, _NAMESPACE)[: max(0, 3 - len(parts))], *parts, tag]
    if len(parts) != 4 or not all(_PART.fullmatch(part) for part in parts):
        raise ModelError(f"{name[:80]!r} is not a name of Ollama's.", "Write ollama:NAME or ollama:NAME:TAG.")
    return Path(*parts)


def _blob(folder: Path, manifest: Path, name: str) -> Path:
    again = f"Run `ollama pull {name.removeprefix('ollama:')}` again."
    try:
        with manifest.open("rb") as file:
            layers = json.loads(file.read(_LARGEST))["layers"]
        kinds = [layer["mediaType"] for layer in layers]
        digests = [layer["digest"] for layer in layers if layer["mediaType"] == _MODEL]
        if not all(_DIGEST.fullmatch(digest) for digest in digests):
            raise ValueError("a digest is none")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{name} has a broken manifest ({type(error).__name__}).", again) from None
    if _ADAPTER in kinds:
        raise ModelError(f"{name} is an adapter upon another model, which is not served.", "Choose another model.")
    if len(digests) != 1:
        raise ModelError(f"{name} has {len(digests)} files of weights, and one is served.", "Choose another model.")
    blob = folder / "blobs" / digests[0].replace(":", "-")
    if not _is_file(blob):
        raise ModelError(f"{name} is incomplete: {blob.name[:19]}... is missing.", again)
    return blob


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False
