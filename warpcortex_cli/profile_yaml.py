"""Reading a profile's YAML so that every mistake can name its line, and a pattern's mistake its column."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from warpcortex_cli.errors import ProfileError

Loc = tuple[int | str, ...]
MAX_BYTES = 1_000_000
_ESCAPE_LENGTHS = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake of a profile. `column` is 0 when it is not known; both count from 1."""

    line: int
    column: int
    what: str
    expected: str

    def report(self, file: str) -> str:
        """`file:line: what is wrong; expected ...`, with the column behind the line where it is known."""
        place = f"{file}:{self.line}:{self.column}" if self.column else f"{file}:{self.line}"
        return f"{place}: {self.what}; expected {self.expected}"


@dataclass(frozen=True)
class Source:
    """A parsed file: its data, where each value stands, and what was wrong with the YAML itself."""

    file: str
    text: str
    data: Any
    root: Node | None
    problems: tuple[Problem, ...]

    def line(self, loc: Loc) -> int:
        """Line of the value at `loc`, or of the nearest thing around it that exists."""
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
    """How many characters of a quoted text as written give its first `offset` characters."""
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
        ProfileError: it cannot be read, or is not YAML at all.
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
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        problems = tuple(_wrong_keys(root))
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


def _wrong_keys(root: Node | None) -> list[Problem]:
    """Keys that come twice in one mapping: YAML would silently take the last."""
    problems: list[Problem] = []
    seen_nodes: set[int] = set()
    todo = [root]
    while todo:
        node = todo.pop()
        if node is None or id(node) in seen_nodes:
            continue
        seen_nodes.add(id(node))
        if isinstance(node, SequenceNode):
            todo += node.value
        elif isinstance(node, MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                todo.append(value)
                name = key.value if isinstance(key, ScalarNode) else None
                if name in lines:
                    problems.append(
                        Problem(
                            _mark_line(key),
                            0,
                            f"the key {name!r} came already in line {lines[name]}",
                            "each key once",
                        )
                    )
                elif name is not None:
                    lines[name] = _mark_line(key)
    return problems
