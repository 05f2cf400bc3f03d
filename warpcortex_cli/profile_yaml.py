"""Reads a profile's YAML so that every mistake can name its line, and a pattern's mistake its column."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from warpcortex_cli.errors import ProfileError

Loc = tuple[int | str, ...]
MAX_BYTES = 1_000_000
_NOT_DECIMAL = re.compile(r"[-+]?(?:0[0-7_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)")
_KINDS = {"bool": "true or false", "int": "a whole number", "float": "a number", "timestamp": "a date"}
_TAG = "tag:yaml.org,2002:"
_TEXT_KEYS = (f"{_TAG}str", f"{_TAG}merge", f"{_TAG}value")
_ESCAPE_LENGTHS = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a profile. `line` and `column` count from 1; `column` 0 is unknown."""

    line: int
    column: int
    what: str
    expected: str

    def report(self, file: str) -> str:
        """`file:line: what is wrong; expected ...`, with the column after the line if it is known."""
        place = f"{file}:{self.line}:{self.column}" if self.column else f"{file}:{self.line}"
        return f"{place}: {self.what}; expected {self.expected}"


@dataclass(frozen=True)
class Source:
    """A parsed file: its data, the place of each value, and mistakes in the YAML itself."""

    file: str
    text: str
    data: Any
    root: Node | None
    problems: tuple[Problem, ...]

    def line(self, loc: Loc) -> int:
        """The line of the value at `loc`, or of the nearest enclosing value."""
        key, value = self._find(loc)
        # A mapping begins with its first key; its name stands before it. An item of a list has no name.
        return _mark_line(key or value)

    def place(self, loc: Loc, offset: int) -> tuple[int, int]:
        """Line and column of a character of the text at `loc`."""
        _, node = self._find(loc)
        if not isinstance(node, ScalarNode):
            return self.line(loc), 0
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        if node.style in ("|", ">"):
            return self._in_block(node, offset)
        if node.start_mark.line != node.end_mark.line:
            return line, column
        if node.style is None:
            return line, column + offset
        written = self.text[node.start_mark.index + 1 : node.end_mark.index - 1]
        return line, column + 1 + _written_length(written, offset, node.style)

    def _in_block(self, node: ScalarNode, offset: int) -> tuple[int, int]:
        before = node.value[:offset].split("\n")
        first = node.start_mark.line + 1  # index of the first line of the content
        if node.style == ">" and len(before) > 1:
            return first + 1, 0
        lines = self.text.splitlines()
        content = lines[first] if first < len(lines) else ""
        indent = len(content) - len(content.lstrip(" "))
        return first + len(before), indent + len(before[-1]) + 1

    def _find(self, loc: Loc) -> tuple[Node | None, Node | None]:
        """The key node, if any, and the value node at `loc`."""
        key: Node | None = None
        node = self.root
        for step in loc:
            found = _child(node, step)
            if found is None:
                break
            key, node = found
        return key, node


def _mark_line(node: Node | None) -> int:
    return 1 if node is None else int(node.start_mark.line) + 1


def _child(node: Node | None, step: int | str) -> tuple[Node | None, Node] | None:
    if isinstance(node, MappingNode):
        return next(((k, v) for k, v in node.value if isinstance(k, ScalarNode) and k.value == str(step)), None)
    if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        return None, node.value[step]
    return None


def _written_length(written: str, offset: int, style: str) -> int:
    """How many characters, as written in quotes, give the first `offset` characters of the text."""
    at = 0
    for _ in range(offset):
        if style == "'":
            at += 2 if written.startswith("''", at) else 1
        elif written.startswith("\\", at):
            at += 2 + _ESCAPE_LENGTHS.get(written[at + 1 : at + 2], 0)
        else:
            at += 1
    return at


def read_yaml(path: Path) -> Source:
    """Reads one YAML file.

    Raises:
        ProfileError: it cannot be read, or is not YAML.
    """
    file = str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ProfileError([f"{file}:1: the file cannot be read ({error.strerror}); expected a YAML file"]) from None
    if len(raw) > MAX_BYTES:
        raise ProfileError([f"{file}:1: the file has {len(raw):,} bytes; expected a profile of at most {MAX_BYTES:,}"])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ProfileError([f"{file}:{line}: the text is not UTF-8; expected a YAML file in UTF-8"]) from None
    return read_text(text, file)


def read_text(text: str, file: str) -> Source:
    """Parses YAML text; `file` is its name in reports. Raises ProfileError."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        look = (_wrong_keys, lambda node: _wrong_scalars(node, loader))
        wrong = [problem for node in _nodes(root) for find in look for problem in find(node)]
        if wrong:  # nothing more can be checked
            raise ProfileError([problem.report(file) for problem in sorted(wrong)])
        problems = tuple(problem for node in _nodes(root) for problem in _keys_that_come_twice(node))
        data = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 0)
        raise ProfileError(
            [Problem(line, column, f"not YAML: {error.problem or error.context}", "valid YAML").report(file)]
        ) from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ProfileError(
            [Problem(line, 0, f"not YAML: character {error.character!r} is not allowed", "plain text").report(file)]
        ) from None
    except (RecursionError, ValueError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ProfileError(
            [Problem(1, 0, f"not YAML: {reason}", "a mapping with a name and roles").report(file)]
        ) from None
    return Source(file, text, data, root, problems)


class _Loader(yaml.SafeLoader):
    def flatten_mapping(self, node: MappingNode) -> None:
        """Resolves merge keys (`<<`). Of equal keys only the last is kept, or a few lines could grow without bound."""
        super().flatten_mapping(node)
        kept = {(k.tag, k.value) if isinstance(k, ScalarNode) else id(k): (k, v) for k, v in node.value}
        node.value = list(kept.values())


def _nodes(root: Node | None) -> Iterator[Node]:
    """All nodes, each once, even if aliases point to it many times."""
    seen: set[int] = set()
    todo = [] if root is None else [root]
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, SequenceNode):
            todo += node.value
        elif isinstance(node, MappingNode):
            todo += [part for pair in node.value for part in pair]


def _wrong_scalars(node: Node, loader: _Loader) -> Iterator[Problem]:
    """Values that do not fit their tag, and numbers that YAML reads as octal or to the base 60."""
    kind = str(node.tag).removeprefix(_TAG)
    if not isinstance(node, ScalarNode) or kind not in _KINDS:
        return
    line, column, shown = node.start_mark.line + 1, node.start_mark.column + 1, shorten(node.value)
    if kind in ("int", "float") and _NOT_DECIMAL.fullmatch(node.value):
        how = "to the base of 60" if ":" in node.value else "as an octal number"
        yield Problem(line, column, f"YAML reads {shown} {how}", "a decimal number, or text in quotes")
        return
    try:
        loader.construct_object(node)
    except yaml.YAMLError:
        raise
    except Exception:  # PyYAML may raise KeyError, AttributeError, IndexError or ValueError
        yield Problem(line, column, f"{shown} is not {_KINDS[kind]}", f"{_KINDS[kind]}, or text in quotes")


def _wrong_keys(node: Node) -> Iterator[Problem]:
    """Keys that are not text."""
    for key, _ in node.value if isinstance(node, MappingNode) else ():
        expected = "a name, which is text"
        if not isinstance(key, ScalarNode):
            kind = "a list" if isinstance(key, SequenceNode) else "a mapping"
            yield Problem(_mark_line(key), 0, f"a key is {kind}", expected)
        elif key.tag not in _TEXT_KEYS or not _is_text(key.value):
            yield Problem(_mark_line(key), 0, f"the key {shorten(key.value)} is no text", expected)


def _is_text(value: str) -> bool:
    """Whether a value is valid text. Half a surrogate pair, which YAML's escapes can write, is not."""
    return not any("\ud800" <= char <= "\udfff" for char in value)


def _keys_that_come_twice(node: Node) -> Iterator[Problem]:
    """Duplicate keys, of which YAML would silently take the last."""
    lines: dict[str, int] = {}
    for key, _ in node.value if isinstance(node, MappingNode) else ():
        if key.value in lines:
            what = f"the key {shorten(key.value)} came already in line {lines[key.value]}"
            yield Problem(_mark_line(key), 0, what, "each key once")
        else:
            lines[key.value] = _mark_line(key)


def shorten(text: str, limit: int = 60) -> str:
    """A text in quotes, shortened to one line."""
    shown = repr(text)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
