"""`/health`, `/metrics` and `/v1/models`."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any

from warpcortex_cli.serve.loop import Counters
from warpcortex_cli.serve.service import Service

_HELP = {
    "replies": "Replies that were written to their end.",
    "failed": "Replies that failed or were refused once they had been taken.",
    "cancelled": "Replies whose reader hung up, or did not read.",
    "prompt_tokens": "Tokens of prompts, those held already included.",
    "held_tokens": "Tokens of prompts that were held already, and not read again.",
    "reply_tokens": "Tokens that Rivers wrote.",
    "streams": "Streams that ended.",
    "stream_tokens": "Tokens that Streams wrote.",
    "steps": "Forwards of the model.",
}
_BEGAN = int(time.time())


def health(service: Service) -> tuple[int, dict[str, Any]]:
    """Whether the thread that steps is alive."""
    writing, waiting = service.loop.load
    alive = service.loop.alive
    said = {"status": "ok" if alive else "failed", "model": service.prism.name, "writing": writing, "waiting": waiting}
    return 200 if alive else 503, said


def models(service: Service) -> dict[str, Any]:
    one = {"id": service.prism.name, "object": "model", "created": _BEGAN, "owned_by": "warpcortex"}
    return {"object": "list", "data": [{**one, "max_model_len": service.prism.max_context}]}


def metrics(service: Service) -> str:
    """In Prometheus' text format."""
    loop = service.loop
    lines: list[str] = []

    def add(name: str, kind: str, text: str, value: float) -> None:
        full = f"warpcortex_{name}"
        lines.extend((f"# HELP {full} {text}", f"# TYPE {full} {kind}", f"{full} {value}"))

    for one in fields(Counters):
        add(f"{one.name}_total", "counter", _HELP[one.name], getattr(loop.counters, one.name))
    writing, waiting = loop.load
    add("writing", "gauge", "Replies that are written now.", writing)
    add("waiting", "gauge", "Requests that wait for their turn.", waiting)
    add("kept_conversations", "gauge", "Conversations kept between replies.", len(loop.shelf))
    add("kept_bytes", "gauge", "Bytes of their keys and values.", loop.kept_bytes)
    add("continued_total", "counter", "Replies that went on from a kept conversation.", loop.shelf.hits)
    add(
        "copied_total",
        "counter",
        "Replies whose first tokens another conversation had read.",
        loop.shelf.copies,
    )
    return "\n".join(lines) + "\n"
