"""The page at `/`: one file, as it is. A browser runs no other script in it than the one that was written here."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

_FILE = Path(__file__).with_name("page.html")


def page() -> tuple[str, dict[str, str]]:
    """The page, and headers that allow its own script and style, calls to this server, and nothing else."""
    text = _FILE.read_text(encoding="utf-8")
    script, style = (_hash(text, tag) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; connect-src 'self'; script-src '{script}'; style-src '{style}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }


def _hash(text: str, tag: str) -> str:
    found = re.search(f"<{tag}>(.*?)</{tag}>", text, re.S)
    assert found is not None
    return f"sha256-{b64encode(sha256(found[1].encode()).digest()).decode()}"
