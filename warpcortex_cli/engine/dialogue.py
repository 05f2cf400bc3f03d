"""What was said, as the model's template writes it, and what a River must read to hold it."""

from __future__ import annotations

from collections.abc import Sequence

from warpcortex_cli.engine.contents import Said
from warpcortex_cli.engine.river import River, shown
from warpcortex_cli.pattern import compile_re2
from warpcortex_cli.prism.chat_format import Message, Plan, Tools, conversation
from warpcortex_cli.profile import Profile, RiverSettings

NOTES_BREAK = "\n\n"
MOST_NOTES = 20_000  # characters that a tool searches


def messages(settings: RiverSettings, turns: Sequence[Said], opened: str) -> list[Message]:
    """The turns as messages for the template. Notes stand before the words that follow them.

    Args:
        opened: the thinking that the template itself begins, with which every reply begins then.
    """
    words, found = "", conversation(settings.prompt, *shown(settings))
    newest = max((i for i, said in enumerate(turns) if said.role == "user"), default=None)
    for i, said in enumerate(turns):
        match said.role:
            case "notes":
                words += said.text.strip() + NOTES_BREAK
            case "user":
                if i == newest and not words:
                    found += shown(settings, said.text)
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


def planned(river: River, before: Sequence[Said], after: Sequence[Said], stopped: bool, tools: Tools = ()) -> Plan:
    """What a River that holds one conversation must read to hold another that goes on from it.

    Args:
        stopped: whether it wrote beyond the end of its last reply, which is read again then.
        tools: what the model may call.
    """
    chat, held, settings = river.prism.chat, river.sentences, river.settings
    own = 0 if stopped else held.newest_own
    opened = after[-1].role == "notes"
    was, now = (messages(settings, turns, river.opened) for turns in (before, after))
    plan = chat.plan(was, now, held.ids, own, opened=opened, thinking=settings.thinking, tools=tools)
    if plan.keep < river.past.tokens:  # tokens in the past stay as they were read
        return Plan(river.length, chat.turn(now[-1].content, settings.thinking, opened=opened))
    return plan
