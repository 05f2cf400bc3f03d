"""Thoughts that become text of the River: the next words of its reply, or a passage before the question."""

from __future__ import annotations

from warpcortex_cli.engine.dialogue import NOTES_BREAK
from warpcortex_cli.engine.river import River
from warpcortex_cli.engine.stream import Stream
from warpcortex_cli.engine.turn import Asked, Turn
from warpcortex_cli.events import ThoughtInlined
from warpcortex_cli.prism.chat_format import common


def into_reply(river: River, turn: Turn, stream: Stream) -> ThoughtInlined | None:
    """Takes a thought as the River's next words; None if the token held more text than the request."""
    before = turn.builder.text
    if stream.at is not None and before[stream.at :].strip():
        return None
    text = stream.role.injected_as.format(thought=stream.thought.text)
    ids = river.prism.chat.encoder.continued(before, text.lstrip() if not before[-1:].strip() else text)
    if not ids:
        return None
    first = river.position + len(river.pending)
    river.pending.extend(ids)
    turn.take(ids, stream.id)
    return ThoughtInlined(
        id=stream.id, text=stream.thought.text, tokens=len(ids), first=first, last=first + len(ids) - 1
    )


def into_prompt(river: River, turn: Turn, stream: Stream) -> ThoughtInlined | None:
    """Takes a thought as text before the question; None if some of that has been read, or the template forbids it.

    What was asked for has been found then, so the River recalls nothing beside it.
    """
    before = list(river.pending)
    if len(before) != turn.question:
        return None
    text = stream.role.injected_as.format(thought=stream.thought.text)
    ids = turn.reworded(NOTES_BREAK.join([*turn.passages, text]))
    if ids is None:
        return None
    new = len(ids) - len(before)
    river.drop_pending()
    river.queue(ids)
    river.holding = turn.held_back
    turn.question, turn.prompt_total, turn.asked = len(ids), turn.prompt_total + new, Asked()
    turn.passages.append(text)
    river.past.recall([])
    first = river.position + common(before, ids)
    return ThoughtInlined(
        id=stream.id, text=stream.thought.text, tokens=new, first=first, last=first + new - 1, into="prompt"
    )
