"""Questions from public data sets: word problems as JSON lines, and documents in SQuAD's format."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warpcortex_cli.errors import UsageError

_FIELDS = (("input", "target"), ("question", "answer"))  # keys of a word problem and its answer


@dataclass(frozen=True)
class Question:
    """A question, the text it is about, if any, and the right answers from the file.

    `article`: the number of the article that its text is from.
    """

    task: str
    text: str
    notes: str = ""
    answers: tuple[str, ...] = ()
    article: int = 0


def questions(path: Path) -> list[Question]:
    """All questions of a file, in order; the task is the file's name without its extension.

    Raises:
        UsageError: the file cannot be read, or has neither format.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = _documents(path.stem, json.loads(text)) if path.suffix == ".json" else _problems(path.stem, text)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.", "Name a file or a folder.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path.name} holds no questions ({type(error).__name__}: {error}).",
            "Give JSON lines with input and target, or question and answer; or a .json file in SQuAD's format.",
        ) from error
    return found


def mixed(path: Path, n: int, seed: int) -> list[Question]:
    """`n` questions of a file, or equally many of each file of a folder; the same for the same seed.

    Raises:
        UsageError: there are none.
    """
    files = sorted(p for p in path.iterdir() if p.suffix in (".json", ".jsonl")) if path.is_dir() else [path]
    rng = random.Random(seed)
    piles = [rng.sample(found, len(found)) for found in map(questions, files)]
    turns = [pile[i] for i in range(n) for pile in piles if i < len(pile)]
    if not turns:
        raise UsageError(f"{path} holds no questions.", "Give a file of questions, or a folder of such files.")
    return turns[:n]


def _problems(task: str, text: str) -> list[Question]:
    found = []
    for line in filter(str.strip, text.splitlines()):
        problem = json.loads(line)
        if not isinstance(problem, dict):
            raise ValueError("a line is not an object")
        asked, right = _FIELDS[0] if _FIELDS[0][0] in problem else _FIELDS[1]
        found.append(Question(task, str(problem[asked]).strip(), answers=(str(problem[right]),)))
    return found


def _documents(task: str, data: Any) -> list[Question]:
    return [
        Question(task, asked["question"], paragraph["context"], tuple(a["text"] for a in asked["answers"]), number)
        for number, article in enumerate(data["data"])
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]
