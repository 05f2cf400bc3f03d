"""The Router: each request once, wherever the text is cut, in linear time."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from warpcortex_cli.engine.router import WINDOW, Match, Router
from warpcortex_cli.pattern import parse
from warpcortex_cli.profile import Role, load_profile


def role(name: str, trigger: str) -> Role:
    return Role(name=name, trigger=trigger)


POCKET = load_profile("pocket").roles
ODD = (
    role("loose", r"(?i)\bask (?P<who>\w+)?: (?P<task>[^.?]{1,40})[.?]"),
    role("line", r"(?m)^> (?P<task>[^\n]*)\n"),
    role("nested", r"\[(?P<task>[^\]]{1,30})\]"),
    role("pair", r"\[\[(?P<task>.{1,30})\]\]"),
)


def found(router: Router, *pieces: str) -> list[Match]:
    return [match for piece in pieces for match in router.feed(piece)]


def brief(matches: list[Match]) -> list[tuple[str, str, int, int]]:
    return [(m.role.name, m.groups["task"], m.start, m.end) for m in matches]


def test_a_request_is_found_across_pieces() -> None:
    router = Router(POCKET)
    text = "Let me see. [MATH: 47 + 86] Then [RECALL: ropes of Mara] and so on."
    matches = found(router, *text)
    assert brief(matches) == [("math", "47 + 86", 12, 27), ("recall", "ropes of Mara", 33, 56)]
    assert [text[m.start : m.end] for m in matches] == ["[MATH: 47 + 86]", "[RECALL: ropes of Mara]"]


def test_a_request_fires_once_and_reset_forgets() -> None:
    router = Router(POCKET)
    assert len(found(router, "[MATH: 1 + 2]", "", " more", "]")) == 1
    assert router.feed("[MATH: 3") == []
    router.reset()
    assert found(router, " + 4]") == []
    assert brief(found(router, "[CHECK: x]")) == [("check", "x", 5, 15)]


@pytest.mark.parametrize(
    ("text", "pending"),
    [
        ("all is well", None),
        ("see [", 4),
        ("see [MATH: 4", 4),
        ("see [MATH: 4]", None),
        ("see [MATH: 4\n", None),
        ("see [other] [REC", 12),
        ("[MATH: [CHECK: y", 7),
        ("[MATH: " + "1" * 301, None),
    ],
)
def test_only_what_may_become_a_request_is_pending(text: str, pending: int | None) -> None:
    router = Router(POCKET)
    router.feed(text)
    assert router.pending_from() == pending


@pytest.mark.parametrize(
    ("text", "cut", "ended"),
    [
        ("all is well", None, None),
        ("see [", 4, None),
        ("see [MATH", 4, None),
        ("see [MATH: ", 4, 4),
        ("see [MATH: ropes of", 4, 4),
        ("see [MATH: 4]", None, None),
        ("see [other] [REC", 12, None),
        ("[MATH: [CHECK: y", 7, 7),
    ],
)
def test_what_is_left_of_a_request_at_the_end(text: str, cut: int | None, ended: int | None) -> None:
    router = Router(POCKET)
    router.feed(text)
    assert (router.unfinished_from(cut=True), router.unfinished_from(cut=False)) == (cut, ended)


@pytest.mark.parametrize(
    ("trigger", "text", "cut", "ended"),
    [
        (r"(?P<task>[a-z]{4})!", "so be", None, None),  # any word may become a request: then it was text
        (r'"(?P<task>[^"]{1,40})"', 'she said "hello', None, None),
        (r"(?i)(?:ask|tell me): (?P<task>[^.]{1,40})\.", "Well, TELL", 6, None),
        (r"(?i)(?:ask|tell me): (?P<task>[^.]{1,40})\.", "Well, TELL me: it", 6, 6),
        (r"(?:<<(?P<task>a+)>>|\[\[b\]\])", "x [[b", 2, None),
        (r"<<(?P<task>(?:ab)+)(?:, )?>>", "x <<abab, >", 2, 2),
    ],
)
def test_only_what_begins_as_nothing_else_does_is_taken_for_a_request(
    trigger: str, text: str, cut: int | None, ended: int | None
) -> None:
    router = Router([role("r", trigger)])
    router.feed(text)
    assert (router.unfinished_from(cut=True), router.unfinished_from(cut=False)) == (cut, ended)


def test_without_roles_nothing_is_unfinished() -> None:
    router = Router([])
    router.feed("see [MATH: 4")
    assert router.unfinished_from(cut=True) is None


@settings(deadline=None)
@given(st.sampled_from([POCKET, ODD]), st.text(st.sampled_from('[MATH: ask<>"]\n'), max_size=14), st.booleans())
def test_what_is_unfinished_was_held_back_and_could_have_become_a_request(roles, text: str, cut: bool) -> None:  # type: ignore[no-untyped-def]
    router = Router(roles)
    router.feed(text)
    place, pending = router.unfinished_from(cut), router.pending_from()
    if place is not None:
        assert pending is not None and place >= pending
        assert any(re2.fullmatch(parse(r.trigger).prefixes, text[place:]) for r in roles)
        assert cut or router.unfinished_from(cut=True) is not None


def test_which_role_wins() -> None:
    router = Router(ODD)
    # Both begin at the first sign; the one that is complete first fires.
    assert brief(found(router, "[[a]]")) == [("nested", "[a", 0, 4)]
    # What begins first owns the text, so that nothing fires inside of it.
    inside = Router((role("inner", r"<(?P<task>\w)>"), role("outer", r"\{(?P<task>[^}]*)\}")))
    assert brief(found(inside, "{a <b> c} <d>")) == [("outer", "a <b> c", 0, 9), ("inner", "d", 10, 13)]
    both = Router(
        (
            role("first", r"<(?P<task>\w)>"),
            role("second", r"<(?P<task>[a-z])>"),
            role("longer", r"-<(?P<task>\w)>"),
        )
    )
    assert brief(found(both, "<a>")) == [("first", "a", 0, 3)]
    assert brief(found(both, "-<a>")) == [("longer", "a", 3, 7)]


def test_groups_that_take_no_part_are_empty() -> None:
    (match,) = found(Router(ODD), "Ask : what is it?")
    assert match.groups == {"who": "", "task": "what is it"}


def test_context_before_the_text_counts() -> None:
    assert found(Router(ODD), "mask Otto: this.") == []
    assert len(found(Router(ODD), "m", "ore, ", "ask Otto: this.")) == 1
    assert brief(found(Router(ODD), "> one\nno > two\n> three\n")) == [
        ("line", "one", 0, 6),
        ("line", "three", 15, 23),
    ]
    start = Router((role("start", r"^!(?P<task>\w)\."),))
    assert brief(found(start, "!a.", "!b.", "x" * 1000, "!c.")) == [("start", "a", 0, 3)]


def test_a_request_has_at_most_the_window() -> None:
    roles = (role("long", r"<(?P<task>[^<>]*)>"),)
    fits, longer = "<" + "x" * (WINDOW - 2) + ">", "<" + "x" * (WINDOW - 1) + ">"
    assert len(found(Router(roles), fits)) == 1
    assert found(Router(roles), longer) == []
    assert len(found(Router(roles), *fits)) == 1


def test_other_alphabets_are_counted_in_characters() -> None:
    text = "né 🦊\U0001f469‍🚀 [MATH: ٣ + 4] ü [CHECK: 東京 > 京都]"
    matches = found(Router(POCKET), *text)
    assert [text[m.start : m.end] for m in matches] == ["[MATH: ٣ + 4]", "[CHECK: 東京 > 京都]"]
    assert found(Router(POCKET), "\ud800[MATH: 1]")[0].start == 1


def test_no_roles_no_matches() -> None:
    router = Router(())
    assert router.feed("[MATH: 1]") == []
    assert router.pending_from() is None


PIECES = st.lists(
    st.sampled_from(
        [
            "[",
            "]",
            "[MATH: ",
            "[RECALL: ",
            "[CHECK: ropes]",
            "[MATH: 1 + 2]",
            "[[",
            "ask ",
            "ask Otto: it?",
            "> a\n",
            "\n",
            ": ",
            ".",
            "x" * 150,
        ]
    )
    | st.text(max_size=5),
    max_size=15,
)


@settings(deadline=None)  # the machine may be busy
@given(PIECES, st.lists(st.integers(0, 3000), max_size=20), st.sampled_from([POCKET, ODD, POCKET + ODD]))
def test_any_cutting_gives_the_same_matches(pieces: list[str], cuts: list[int], roles: tuple[Role, ...]) -> None:
    text = "".join(pieces)
    whole, cut, single = Router(roles), Router(roles), Router(roles)
    expected = whole.feed(text)
    places = sorted({min(c, len(text)) for c in cuts} | {0, len(text)})
    assert found(cut, *(text[a:b] for a, b in pairwise(places))) == expected
    assert found(single, *text) == expected
    assert cut.pending_from() == single.pending_from() == whole.pending_from()
    assert all(a.end <= b.start for a, b in pairwise(expected))


@settings(deadline=None)  # the machine may be busy
@given(PIECES)
def test_what_is_not_pending_never_becomes_part_of_a_request(pieces: list[str]) -> None:
    router = Router(POCKET + ODD)
    safe = 0
    for length, character in enumerate("".join(pieces), 1):
        for match in router.feed(character):
            assert match.start >= safe
        pending = router.pending_from()
        safe = length if pending is None else pending


@pytest.mark.parametrize("unit", ["[MATH: ", "[MATH: x", "[", "[MATH: " + "9" * 199, "ask a: b", "[[[a ", "> \t"])
def test_hostile_text_costs_linear_time(unit: str) -> None:
    def seconds(length: int) -> float:
        router = Router(POCKET + ODD)
        text = (unit * (length // len(unit) + 1))[:length]
        begin = time.perf_counter()
        router.feed(text)
        return time.perf_counter() - begin

    seconds(1000)
    small = min(seconds(2_000) for _ in range(3))
    large = min(seconds(16_000) for _ in range(2))
    assert large < 8 * small * 3 + 0.2  # quadratic cost would be 64 times as much
