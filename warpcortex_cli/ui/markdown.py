"""A conversation as Markdown, for `/save`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warpcortex_cli.ui.safe import clean, one_line

if TYPE_CHECKING:
    from warpcortex_cli.engine.session import Session

_HEADINGS = {"user": "You", "assistant": "River", "notes": "Notes"}


def as_markdown(session: Session) -> str:
    """The transcript, turn by turn, and the Streams' thoughts. Text is cleaned, not escaped as Markdown."""
    parts = ["# warpcortex conversation", f"Model {session.prism.name}, profile {session.profile.name}."]
    for turn in session.transcript():
        text = clean(turn.text).strip()
        parts.append(f"## {_HEADINGS.get(turn.role, turn.role)}")
        parts.append(_fenced(text) if turn.role == "notes" else text)
    thoughts = session.thoughts()
    if thoughts:
        parts.append("## Thoughts of the Streams")
        parts.append(
            "\n".join(
                f"- {t.state}, {t.role}: {one_line(t.task)} -> {one_line(t.thought, 1000)}"
                + ("" if t.gate_score is None else f" (score {t.gate_score:.2f}: {one_line(t.gate_reason)})")
                for t in thoughts
            )
        )
    return "\n\n".join(parts) + "\n"


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"
