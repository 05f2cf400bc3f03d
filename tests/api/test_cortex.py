"""The Python API: the conversation of `chat`, for programs, threads, tasks and notebooks."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from warpcortex_cli import Cortex
from warpcortex_cli.api.reply import Reply
from warpcortex_cli.errors import UsageError
from warpcortex_cli.events import RiverFinished, RiverText, RiverToken

NOTES = "Mara keeps ropes: 47, brown, in the old mill.\nThe lamps of Otto: 86, red, in the old mill."
QUESTION = f"{NOTES}\n\nHow many ropes of Mara and lamps of Otto in total?"
ROPES = "How many ropes does Mara have?"


@pytest.fixture(scope="module")
def model() -> Iterator[Cortex]:
    with Cortex("pocket") as opened:
        yield opened


@pytest.fixture
def cortex(model: Cortex) -> Iterator[Cortex]:
    """A conversation of its own."""
    with model.fork() as mine:
        yield mine


def test_it_answers_with_events_as_chat_does(cortex: Cortex) -> None:
    events = list(cortex.chat(QUESTION))
    assert [e.seq for e in events] == list(range(len(events))) and isinstance(events[-1], RiverFinished)
    assert "In total: 133." in "".join(e.text for e in events if isinstance(e, RiverText) and not e.request)
    assert [(s.role, s.state) for s in cortex.streams] == [("math", "injected")]
    assert [t.role for t in cortex.turns] == ["user", "assistant"]


def test_a_reply_is_a_value_that_notebooks_show(cortex: Cortex) -> None:
    reply = cortex.ask(QUESTION)
    assert str(reply) == reply.text and "[MATH" in reply.raw and "[MATH" not in reply.text
    assert reply.finish_reason == "stop" and reply.tokens > 3 and reply.streams[0].role == "math"
    html = reply._repr_mimebundle_([], [])["text/html"] + cortex._repr_mimebundle_([], [])["text/html"]
    assert "ropes of Mara" in html and "<b>" not in Reply("<b>bold</b>")._repr_mimebundle_([], [])["text/html"]


def test_a_thought_from_outside_is_known_and_can_be_taken_back(cortex: Cortex) -> None:
    before = cortex.fork()
    before.read(NOTES)
    told = cortex.inject("Mara keeps ropes: 47, brown, in the old mill.")
    assert told.state == "injected" and cortex.view.asides == 1
    assert "47" in before.ask(ROPES).text
    cortex.withdraw(told.id)
    assert cortex.view.asides == 0
    with pytest.raises(UsageError, match="the thought is empty"):
        cortex.inject("  ")


def test_forks_go_their_own_way(cortex: Cortex) -> None:
    cortex.ask(QUESTION)
    other = cortex.fork()
    assert other.ask(ROPES).text == cortex.ask(ROPES).text
    other.undo()
    assert len(other.turns) == 2 and len(cortex.turns) == 4
    other.close()
    other.close()
    with pytest.raises(UsageError, match="is closed"):
        other.ask(ROPES)
    assert "47" in cortex.ask(ROPES).text


def test_a_whole_conversation_is_only_read_where_it_is_new(cortex: Cortex) -> None:
    first = cortex.ask(QUESTION)
    talk = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": first.text}]
    again = list(cortex.chat([*talk, {"role": "user", "content": ROPES}]))
    assert again[0].to_json()["prompt_tokens"] < 30  # though it holds a request that the reader never saw
    with pytest.raises(UsageError, match="not a question of the user"):
        cortex.chat(talk)


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"heat": 1}, "heat cannot be asked for"), ({"top_p": 2}, "top_p: "), ({"max_tokens": 0}, "at least 1")],
)
def test_what_cannot_be_asked_for_is_said(cortex: Cortex, asked: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        cortex.chat(ROPES, **asked)


def test_one_reply_can_be_asked_for_in_its_own_way(cortex: Cortex) -> None:
    pytest.importorskip("llguidance")
    cortex.read(NOTES)
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    reply = cortex.ask(ROPES, schema=schema, likeliest=1)
    assert json.loads(reply.text)["n"] in (1, 2) and any(isinstance(e, RiverToken) for e in reply.events)
    assert cortex.ask(ROPES, max_tokens=2).finish_reason == "length"
    assert cortex.ask(ROPES, stop=":").text == "The ropes of Mara"
    assert "47." in cortex.ask(ROPES).text  # the next one is as usual


def test_leaving_the_loop_ends_the_reply(cortex: Cortex) -> None:
    for event in cortex.chat(QUESTION):
        if isinstance(event, RiverText):
            break
    assert cortex.view.river_state == "idle" and len(cortex.turns) == 2
    assert cortex.turns[1].text.startswith("[MATH") and "133" not in cortex.turns[1].text
    going = cortex.chat(QUESTION)
    next(going)
    with pytest.raises(UsageError, match="writing a reply already"):
        cortex.chat(ROPES)


def test_tasks_and_threads_talk_at_once(cortex: Cortex) -> None:
    cortex.read(NOTES)
    alone = cortex.fork().ask(ROPES).text

    async def both() -> list[str]:
        async with cortex.fork() as one, cortex.fork() as other:
            replies = await asyncio.gather(one.aask(ROPES), other.aask(ROPES))
            return [reply.text for reply in replies]

    assert asyncio.run(both()) == [alone, alone]
    found: list[str] = []
    forks = [cortex.fork() for _ in range(3)]
    threads = [threading.Thread(target=lambda fork=fork: found.append(fork.ask(ROPES).text)) for fork in forks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 3


def test_a_cancelled_task_leaves_the_conversation_usable(cortex: Cortex) -> None:
    async def cut() -> str:
        task = asyncio.create_task(cortex.aask(QUESTION))
        while not cortex.view.river_tokens:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cortex.view.river_state == "idle"
        return (await cortex.aask(ROPES)).text

    assert "47" in asyncio.run(cut())


def test_the_name_is_there_and_nothing_heavy_is_loaded_for_it() -> None:
    code = "import sys, warpcortex_cli as w; w.Cortex; print('torch' in sys.modules, 'fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
