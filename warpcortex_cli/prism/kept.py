"""Results that are measured once on a machine: small JSON files in the user's cache, one for each key.

A file holds its key and a digest. If anything is wrong with it (damaged, cut short, of another version, unreadable), it
is ignored, and the result is measured again. If the cache cannot be written, nothing is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs

from warpcortex_cli import __version__
from warpcortex_cli.prism import library

Key = Mapping[str, object]
_MOST = 64  # files of a kind; beyond that the oldest are deleted
_LARGEST = 4 << 20  # bytes of a file


def kept(kind: str, key: Key) -> Any | None:
    """The value kept under a key, or None."""
    path = _path(kind, key)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        if path.stat().st_size > _LARGEST:
            return None
        digest, _, text = path.read_bytes().partition(b"\n")
        if digest.decode() == _digest(text):
            held = json.loads(text)
            if held["key"] == _plain(key):
                return held["value"]
    return None


def keep(kind: str, key: Key, value: object) -> None:
    """Keeps a value of JSON types for the next start, if it can be written."""
    path = _path(kind, key)
    text = json.dumps({"key": _plain(key), "value": value}).encode()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        number, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with open(number, "wb") as file:
                file.write(_digest(text).encode() + b"\n" + text)
            os.replace(name, path)  # atomically: another process may be reading or writing the same file
        except BaseException:
            os.unlink(name)
            raise
        _forget_oldest(path.parent, kind)


def machine() -> dict[str, object]:
    """Parts of a key that every measurement depends on: CPU, kernels, torch, transformers."""
    import torch

    return {"kernels": library.key(), "torch": torch.__version__, "transformers": version("transformers")}


def _forget_oldest(folder: Path, kind: str) -> None:
    found = sorted(folder.glob(f"{kind}-*.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in found[_MOST:]:
        path.unlink(missing_ok=True)


def _path(kind: str, key: Key) -> Path:
    name = f"{kind}-{_digest(json.dumps(_plain(key), sort_keys=True).encode())[:32]}.json"
    return folder() / name


def folder() -> Path:
    """The folder of the files."""
    return platformdirs.user_cache_path("warpcortex") / "measured"


def _plain(key: Key) -> Any:
    """A key in JSON types, with this program's version."""
    return json.loads(json.dumps({**key, "warpcortex": __version__}))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
