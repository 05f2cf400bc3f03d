"""A Stream's focus set: copied KV, or sentences as text where its role's prompt has a place for them."""

from __future__ import annotations

from dataclasses import dataclass

from tests.engine.conftest import make_profile, run
from warpcortex_cli import events as ev
from warpcortex_cli.engine.brief import Brief
from warpcortex_cli.engine.session import Session
from warpcortex_cli.engine.stream import Stream

NOTES = "\n".join(f"Mara keeps ropes: {n}, brown, in the old mill." for n in range(10, 40))


RARE = "Zorbu has gimpels: 5."


def focus_lines(prism, notes: str, reply: str) -> list[str]:
    """The focus of a Stream that is asked for Zorbu's gimpels when the River has read `notes` and written `reply`."""
    profile = make_profile(
        role={"prompt": "{focus}\n\nhelp: {task}", "max_tokens": 1},
        synapse={"landmarks": 24, "focus": 24},
        limits={"stream_tail_tokens": 256},
    )
    session = Session(prism, profile)
    engine, river = session.conversation, session.river
    session.load_notes(notes)
    written = session.load_notes(reply)
    engine.begin_turn(prism.encode("?"))
    river.sentences.claim(written)
    engine.crew.spawn(profile.roles[0], "the gimpels of Zorbu and the ropes of Mara")
    session.step()
    return river.sentences.lines(engine.crew.streams[1].focus_tokens)


@dataclass
class Start:
    prompt: str
    copied: int
    focus: int


def starts(prism, prompt: str, **changes) -> tuple[list[Start], str]:
    """What each Stream had when it started, and what the River wrote."""
    session = Session(prism, make_profile(role={"prompt": prompt}, limits={"stream_tail_tokens": 256}, **changes))
    found: list[Start] = []

    def listen(event: ev.Event) -> None:
        if isinstance(event, ev.StreamStarted):
            stream = session.stream(event.id)
            assert stream.tail is not None
            found.append(Start(prism.decode(stream.work.pending), stream.tail.length, event.focus))

    session.listen(listen)
    session.load_notes(NOTES)
    text = "".join(e.text for e in run(session, "How many?") if isinstance(e, ev.RiverText))
    return found, text


def test_without_a_place_in_the_prompt_the_focus_is_copied(prism) -> None:
    found, _ = starts(prism, "help: {task}", synapse={"landmarks": 24, "focus": 60})
    assert found and all(0 < s.copied == s.focus <= 60 and "ropes" not in s.prompt for s in found)


def test_a_prompt_shows_whole_sentences_in_their_order_and_nothing_is_copied(prism) -> None:
    found, _ = starts(prism, "{focus}\n\nhelp: {task}", synapse={"landmarks": 24, "focus": 60})
    assert found
    for start in found:
        assert start.copied == 0 and 0 < start.focus <= 60
        lines = start.prompt.split("\n\nhelp: ")[0].splitlines()
        numbers, lines = zip(*(line.split(" ", 1) for line in lines), strict=True)
        assert [int(n.split()[-1]) for n in numbers] == list(range(1, len(lines) + 1))
        notes = [line for line in lines if line in NOTES.splitlines()]
        assert notes and notes == sorted(notes) and len(lines) - len(notes) <= 1  # the question is a sentence too


def test_the_sentence_with_the_rare_words_of_the_task_comes_first(prism) -> None:
    """A model with random weights knows nothing; the words alone lead to the one line among thirty."""
    for place in (2, 15, 28):
        lines = NOTES.splitlines()
        lines.insert(place, RARE)
        assert RARE in focus_lines(prism, "\n".join(lines), reply="")


def test_the_unfinished_reply_is_never_in_its_own_focus(prism) -> None:
    """It repeats the very words of the request that it made."""
    found = focus_lines(prism, NOTES, reply=f"{RARE}\n{RARE}\nAnd so on.")
    assert found and not any("Zorbu" in line for line in found)


def test_without_a_focus_set_the_task_stands_alone(prism) -> None:
    found, _ = starts(prism, "{focus}\n\nhelp: {task}", synapse={"landmarks": 24, "focus": 0})
    assert found and all(s.copied == s.focus == 0 and s.prompt.startswith("help: ") for s in found)


def test_what_a_role_drops_is_not_in_what_the_stream_reads(prism) -> None:
    role = make_profile(r"\[ADD: (?P<task>[^\]]+)\]", role={"prompt": "add: {task}", "drop": "[a-z][^+0-9]*: "}).roles[
        0
    ]
    for task, read in (("ropes of mara: 47 + lamps: 86", "add: 47 + 86"), ("mara: ", "add: mara:")):
        stream = Stream(1, role, task, {}, 0.0)
        assert stream.task == task.strip() and Brief(1, role, stream.task).instruction() == read
