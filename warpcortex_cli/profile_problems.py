"""Turns pydantic's errors in a profile into lines that a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from warpcortex_cli.profile_yaml import Loc, Problem, Source

_EXPECTED = {
    "string_type": "text (in quotes, if it looks like something else)",
    "string_unicode": "text of whole characters",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a number that is not infinite",
    "bool_type": "true or false",
    "tuple_type": "a list, each item beginning with a dash",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "string_pattern_mismatch": "a name of letters, digits, - and _, at most 32, beginning with a letter",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
    "string_too_short": ("min_length", "a length of at least"),
    "string_too_long": ("max_length", "a length of at most"),
}


class Mistake(ValueError):
    """A value that a profile must not have, found by one of our own checks.

    Attributes:
        what: what is wrong.
        expected: what was expected.
        inside: the path below the checked field, such as the index of an item.
        offset: the character of the text at which the mistake is, or None.
    """

    def __init__(self, what: str, expected: str, *, inside: Loc = (), offset: int | None = None) -> None:
        super().__init__(what)
        self.what, self.expected, self.inside, self.offset = what, expected, inside, offset


def problem_of(error: Mapping[str, Any], source: Source, known_keys: Mapping[str, tuple[str, ...]]) -> Problem:
    """One pydantic error as a problem with its place.

    Args:
        error: an item of `ValidationError.errors()`.
        source: the file.
        known_keys: keys of each section of a profile; "" is the top.
    """
    loc: Loc = tuple(error["loc"])
    kind: str = error["type"]
    context: Mapping[str, Any] = error.get("ctx", {})
    name = _name(loc)
    cause = context.get("error")
    if isinstance(cause, Mistake):
        loc = loc + cause.inside
        line, column = (source.line(loc), 0) if cause.offset is None else source.place(loc, cause.offset)
        return Problem(line, column, f"{_name(loc)}: {cause.what}", cause.expected)
    line = source.line(loc)
    if kind == "missing":
        return Problem(source.line(loc[:-1]), 0, f"{name} is missing", _missing(loc))
    if kind == "extra_forbidden":
        section = next((str(step) for step in reversed(loc[:-1]) if isinstance(step, str)), "")
        return Problem(line, 0, f"unknown key {name}", _keys(str(loc[-1]), known_keys.get(section, ())))
    if not loc:
        return Problem(line, 0, f"the file holds {_shown(error['input'])}", "a mapping with a name and roles")
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        expected = f"{words} {context[key]:,}"
    elif kind == "literal_error":
        expected = f"one of {context['expected']}"
    else:
        expected = _EXPECTED.get(kind, str(error["msg"]))
    return Problem(line, 0, f"{name} is {_shown(error['input'])}", expected)


def _name(loc: Loc) -> str:
    """The name of a place, such as `roles[0].trigger`."""
    name = ""
    for step in loc:
        name += f"[{step}]" if isinstance(step, int) else f".{_plain(step)}" if name else _plain(step)
    return name


def _plain(key: str) -> str:
    return key if key.isidentifier() else repr(key)[:40]


def _missing(loc: Loc) -> str:
    return {
        "name": "a name",
        "trigger": r"a google-re2 pattern with a group task, such as \[MATH: (?P<task>[^\]\n]{1,200})\]",
    }.get(str(loc[-1]), "a value")


def _keys(key: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(key, known, 1)
    return f"{near[0]}; keys here are {', '.join(known)}" if near else f"one of {', '.join(known)}"


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "a mapping"
    try:
        text = ascii(value) if not isinstance(value, str) else repr(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
