"""Paths typed into the chat or dropped on the terminal's window, where no shell removes quotes and escapes."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from urllib.parse import unquote_to_bytes

_URL = re.compile(r"file:(?://(?:localhost)?(?=/)|(?=/[^/]))", re.IGNORECASE)
_ESCAPED = re.compile(r"[\"']|\\[^\w\n]")  # characters special to a shell; `dir\\name` is Windows'


def dropped_path(text: str) -> Path:
    """The path that a text means: as written if that exists, else without quotes and escapes, or as a file:// URL.

    Terminals write a dropped file as `dir\\ name/x.txt`, `'dir name/x.txt'` or `file:///dir%20name/x.txt`.

    Raises:
        RuntimeError: `~user` has no home folder.
    """
    ways = [text, *_other_ways(text)]
    for path in (path for way in ways for path in (way, os.path.expanduser(way))):
        if os.path.exists(path):
            return Path(path)
    return Path(ways[-1]).expanduser()


def _other_ways(text: str) -> list[str]:
    url = _URL.match(text)
    if url:
        path = os.fsdecode(unquote_to_bytes(text[url.end() :]))
        return [path.lstrip("/") if re.match(r"/[A-Za-z]:", path) else path]  # file:///C:/x
    if os.name == "nt":
        return [text[1:-1]] if len(text) > 1 and text[0] == text[-1] == '"' else []
    if not _ESCAPED.search(text):
        return []
    try:
        words = shlex.split(text)
    except ValueError:  # an unclosed quote
        return []
    return words if len(words) == 1 else []
