"""What was said, as the model's template writes it, and what a River must read to hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from warpcortex_cli.engine.contents import Said
from warpcortex_cli.engine.river import River, shown
from warpcortex_cli.engine.text import page_of
from warpcortex_cli.pattern import compile_re2
from warpcortex_cli.prism.chat_format import Message, Plan, Tools, conversation
from warpcortex_cli.profile import Profile, RiverSettings

NOTES_BREAK = "\n\n"  # between notes, passages and the user's words
MOST_NOTES = 20_000  # characters that a tool searches


@dataclass(frozen=True)
class As:
    """Turns as a River reads them.

    Attributes:
        passage: text that stands before the newest question.
    """

    turns: Sequence[Said]
    passage: str = ""


def messages(settings: RiverSettings, read: As, opened: str) -> list[Message]:
    """The turns as messages for the template. Notes stand before the words that follow them.

    Args:
        opened: the thinking that the template itself begins, with which every reply begins then.
    """
    words, found = "", conversation(settings.prompt, *shown(settings))
    newest = max((i for i, said in enumerate(read.turns) if said.role == "user"), default=None)
    for i, said in enumerate(read.turns):
        match said.role:
            case "notes":
                words += said.text.strip() + NOTES_BREAK
            case "user":
                if i == newest and not words and not page_of(said.text):
                    found += shown(settings, said.text)
                if i == newest and read.passage:
                    cut = page_of(said.text)
                    words += said.text[:cut] + read.passage + NOTES_BREAK
                    said = replace(said, text=said.text[cut:])
                found.append(Message("user", words + said.text))
                words = ""
            case "tool":
                found.append(Message("tool", said.text))
            case _:
                found.append(Message("assistant", opened + said.text))
    return [*found, Message("user", words)] if words else found


def instructed(profile: Profile, system: str | None) -> Profile:
    """A profile for a conversation that brings its own system prompt.

    It takes the place of the River's. Where the River's teaches how to ask Streams, it stands behind it.
    """
    if system is None:
        return profile
    river = profile.river
    teaches = any(role.trigger and compile_re2(role.trigger).search(river.prompt) for role in profile.roles)
    prompt = f"{river.prompt.strip()}\n\n{system.strip()}" if teaches else system.strip()
    return profile.model_copy(update={"river": river.model_copy(update={"prompt": prompt})})


def notes(turns: Sequence[Said]) -> str:
    """All notes of the conversation, or the newest part of them."""
    return NOTES_BREAK.join(t.text for t in turns if t.role == "notes")[-MOST_NOTES:]


def planned(river: River, before: As, after: As, stopped: bool, tools: Tools = ()) -> Plan:
    """What a River that holds one conversation must read to hold another that goes on from it.

    Args:
        stopped: whether it wrote beyond the end of its last reply, which is read again then.
        tools: what the model may call.
    """
    plan = written(river, before, after, stopped, tools)
    if plan.keep < river.past.tokens:  # tokens in the past stay as they were read
        words, settings = messages(river.settings, after, river.opened)[-1].content, river.settings
        opened = after.turns[-1].role == "notes"
        return Plan(river.length, river.prism.chat.turn(words, settings.thinking, opened=opened))
    return plan


def written(river: River, before: As, after: As, stopped: bool, tools: Tools = ()) -> Plan:
    """The same as the template writes it, wherever the River's tokens are."""
    held, settings = river.sentences, river.settings
    own = 0 if stopped else held.newest_own
    was, now = (messages(settings, read, river.opened) for read in (before, after))
    opened = after.turns[-1].role == "notes"
    return river.prism.chat.plan(was, now, held.ids, own, opened=opened, thinking=settings.thinking, tools=tools)
