"""What a program asks for one reply, checked and in the engine's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from warpcortex_cli.engine.contents import Said
from warpcortex_cli.engine.grammar import Grammars
from warpcortex_cli.engine.sampling import ReplyOptions
from warpcortex_cli.errors import UsageError
from warpcortex_cli.profile import Profile, Sampling

_SAMPLING = frozenset(Sampling.model_fields)
_OPTIONS = ("schema", "seed", "max_tokens", "stop", "likeliest")


def options_of(asked: Mapping[str, Any], grammars: Callable[[], Grammars]) -> ReplyOptions:
    """The options of a reply. Raises UsageError if something is asked for that there is not."""
    unknown = sorted(asked.keys() - _SAMPLING - set(_OPTIONS))
    if unknown:
        raise UsageError(
            f"{unknown[0]} cannot be asked for.", f"Known are {', '.join((*_OPTIONS, *sorted(_SAMPLING)))}."
        )
    schema = asked.get("schema")
    grammar = None if schema is None else grammars().schema(schema)
    return ReplyOptions(seed=asked.get("seed"), grammar=grammar, likeliest=asked.get("likeliest"))


def profile_for(profile: Profile, asked: Mapping[str, Any]) -> Profile:
    """The profile with what is asked for. Raises UsageError if a value is out of its range."""
    given = {name: asked[name] for name in _SAMPLING if asked.get(name) is not None}
    stop, most = asked.get("stop") or (), asked.get("max_tokens")
    try:
        Sampling.model_validate(given, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{first['loc'][0]}: {first['msg'][:1].lower()}{first['msg'][1:]}.") from None
    if most is not None and (not isinstance(most, int) or most < 1):
        raise UsageError(f"max_tokens is a number of tokens, at least 1, not {most!r}.")
    return profile.sampled(given, [stop] if isinstance(stop, str) else stop, most)


def turns_of(messages: Sequence[Mapping[str, str]]) -> tuple[str | None, list[Said]]:
    """The system prompt, or None, and the turns of a conversation given as messages. Raises UsageError."""
    system: str | None = None
    turns: list[Said] = []
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if not isinstance(content, str) or role not in ("system", "user", "assistant"):
            raise UsageError(
                f"message {number} is not of the system, the user or the assistant, with a text as its content.",
                'Write {"role": "user", "content": "..."}.',
            )
        if role == "system" and not turns:
            system = content if system is None else f"{system}\n\n{content}"
        else:
            turns.append(Said("user" if role == "system" else role, content))
    if not turns or turns[-1].role != "user" or not turns[-1].text.strip():
        raise UsageError("the last message is not a question of the user.", "End with the words to be answered.")
    return system, turns
