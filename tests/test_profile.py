"""Profiles: the shipped ones, and how mistakes are reported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from warpcortex_cli.engine.router import Router
from warpcortex_cli.errors import ProfileError, UsageError
from warpcortex_cli.profile import (
    Profile,
    Role,
    load_profile,
    parse_profile,
    profile_path,
    profile_schema,
    shipped_profiles,
)
from warpcortex_cli.profile_yaml import read_text

GOOD = r"""
name: mine
river:
  max_tokens: 20
roles:
  - name: helper
    trigger: '<(?P<task>\w+)>'
"""


def mistakes(text: str) -> list[str]:
    with pytest.raises(ProfileError) as caught:
        parse_profile(read_text(text, "my.yaml"))
    assert caught.value.exit_code == 2
    for line in caught.value.problems:
        assert re.fullmatch(r"my\.yaml:\d+(:\d+)?: .+; expected .+", line), line
    return caught.value.problems


def one(text: str) -> str:
    (line,) = mistakes(text)
    return line


def test_the_shipped_profiles_are_valid() -> None:
    assert shipped_profiles() == ["assistant", "council", "math", "notes", "pocket", "reviewer", "solver"]
    for name in shipped_profiles():
        profile = load_profile(name)
        assert profile.name == name
        assert profile.description
        assert profile.roles
        assert all(role.description for role in profile.roles)


def test_solver_has_the_calculators_of_assistant() -> None:
    """They stand in both files: YAML has no way to share them."""
    of = {name: load_profile(name).roles for name in ("assistant", "notes", "solver")}
    assert of["solver"] + of["notes"] == of["assistant"]


def test_pocket_is_as_it_was_trained() -> None:
    profile = load_profile("pocket")
    assert profile.model == "pocket"
    assert profile.river.prompt == ""
    assert re.fullmatch(profile.river.pause or "", "\n")
    asked = {n: f"{n}: {{task}}" for n in ("math", "check")} | {"recall": "{focus}\n\nrecall: {task}"}
    assert {r.name: r.prompt for r in profile.roles} == asked
    assert [r.name for r in profile.roles if not r.synapse] == ["math", "check"]


@pytest.mark.parametrize(
    ("role", "task", "read"),
    [
        ("math", "ropes of Mara: 47 + lamps of Otto: 86 + 3", "47 + 86 + 3"),
        ("math", "ropes of Mara: 47 * one rope costs 3", "47 * 3"),
        ("math", "47 - 12", "47 - 12"),
        ("check", "ropes of Mara: 47 > lamps of Otto: 86", "47 > 86"),
        ("check", "ropes of Mara: 47 = 45", "47 = 45"),
        ("check", "ropes of Mara: 47, brown = red", "brown = red"),
        ("check", "ropes of Mara: 47, brown, in the old mill = in the mill", "in the old mill = in the mill"),
    ],
)
def test_pocket_s_streams_read_numbers_and_words_without_their_names(role: str, task: str, read: str) -> None:
    drop = {r.name: r.drop for r in load_profile("pocket").roles}[role]
    assert drop is not None and re.sub(drop, "", task).strip() == read


def test_pocket_hears_thoughts_as_it_was_trained() -> None:
    profile = load_profile("pocket")
    assert all(r.injected_as == "[Ref: {thought}]" for r in profile.roles)


@pytest.mark.parametrize("name", ["council", "math", "reviewer"])
def test_the_prompt_of_an_instruction_profile_teaches_its_triggers(name: str) -> None:
    profile = load_profile(name)
    for role in profile.roles:
        assert f"[{role.name.upper()}: " in profile.river.prompt
    example = profile.river.prompt.partition("Example")[2]
    assert any(re.search(role.trigger, example) for role in profile.roles)
    assert profile.model == "auto"


def test_a_good_file_and_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("\ufeff" + GOOD, encoding="utf-8")
    profile = load_profile(str(path))
    assert (profile.name, profile.river.max_tokens, profile.roles[0].prompt) == ("mine", 20, "{task}")
    assert profile.synapse.landmarks == 64
    assert profile.gate.mode == "calibrated"
    with pytest.raises(ValidationError):
        profile.name = "other"  # type: ignore[misc]


def test_off_is_a_word() -> None:
    assert parse_profile(read_text("name: x\ngate: {mode: off}", "f")).gate.mode == "off"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: x\nrivers: {}", "my.yaml:2: unknown key rivers; expected river"),
        ("name: x\nzzz: 1", "my.yaml:2: unknown key zzz; expected one of name, description, model, "),
        ("description: x", "my.yaml:1: name is missing; expected a name"),
        (
            "name: x\nriver:\n  max_tokens: many",
            "my.yaml:3: river.max_tokens is 'many'; expected a whole number",
        ),
        ("name: x\nriver:\n  max_tokens: 0", "my.yaml:3: river.max_tokens is 0; expected at least 1"),
        (
            "name: x\nriver:\n  max_tokens: true",
            "my.yaml:3: river.max_tokens is True; expected a whole number",
        ),
        ("name: x\nriver: 5", "my.yaml:2: river is 5; expected a mapping of keys to values"),
        ("name: x\nroles: {a: 1}", "my.yaml:2: roles is a mapping; expected a list"),
        ("name: x\nroles:", "my.yaml:2: roles is empty; expected a list"),
        ("name: 5", "my.yaml:1: name is 5; expected text"),
        (
            "name: x\ngate:\n  mode: loud",
            "my.yaml:3: gate.mode is 'loud'; expected one of 'calibrated', 'raw' or 'off'",
        ),
        ("name: x\ngate:\n  threshold: .nan", "my.yaml:3: gate.threshold is nan; expected "),
        (
            "name: x\nsampling: {temperature: 1e9}",
            "my.yaml:2: sampling.temperature is '1e9'; expected a number",
        ),
        ("- a\n- b", "my.yaml:1: the file holds a list; expected a mapping with a name and roles"),
        ("", "my.yaml:1: the file holds empty; expected a mapping"),
        ("name: x\nname: y", "my.yaml:2: the key 'name' came already in line 1; expected each key once"),
        ("name: [x", "my.yaml:1:9: not YAML: "),
        ("name: x\n\tmodel: y", "my.yaml:2:1: not YAML: "),
        ("name: !!python/object/apply:os.system [ls]", "my.yaml:1:7: not YAML: "),
        ("name: x\x1b[31m", "my.yaml:1: not YAML: "),
        ("[" * 1000, "my.yaml:1"),
        ("name: &a [*a]", "my.yaml:1: name is a list; expected text"),
        ("name: !!bool maybe", "my.yaml:1:7: 'maybe' is not true or false; expected true or false, or text"),
        ("name: !!timestamp hello", "my.yaml:1:7: 'hello' is not a date; expected a date, or text"),
        ('name: !!int ""', "my.yaml:1:7: '' is not a whole number; expected a whole number, or text"),
        ('name: !!float ""', "my.yaml:1:7: '' is not a number; expected a number, or text"),
        ("name: x\ngate: {mode: !!float x}", "my.yaml:2:14: 'x' is not a number; expected"),
        ("name: 2020-13-45", "my.yaml:1:7: '2020-13-45' is not a date; expected a date, or text"),
        ("name: " + "9" * 5000, "my.yaml:1:7: '9999"),
        ("name: 0x" + "f" * 6000, "my.yaml:1: name is a number of thousands of digits; expected text"),
        ("name: x\nriver: {max_tokens: 010}", "my.yaml:2:21: YAML reads '010' as an octal number; expected a decimal"),
        ("name: x\nriver: {max_tokens: -0_7}", "my.yaml:2:21: YAML reads '-0_7' as an octal number; expected"),
        ("name: x\nriver: {max_tokens: 1:30}", "my.yaml:2:21: YAML reads '1:30' to the base of 60; expected a decimal"),
        ("name: x\ngate: {threshold: 1:30.5}", "my.yaml:2:19: YAML reads '1:30.5' to the base of 60; expected"),
        (
            "name: 12:30",
            "my.yaml:1:7: YAML reads '12:30' to the base of 60; expected a decimal number, or text in quotes",
        ),
        ("name: x\n1: y", "my.yaml:2: the key '1' is no text; expected a name, which is text"),
        ("name: x\noff: y", "my.yaml:2: the key 'off' is no text; expected a name, which is text"),
        ("name: x\ngate:\n  ~: y", "my.yaml:3: the key '~' is no text; expected a name, which is text"),
        ("name: x\n? [a]\n: b", "my.yaml:2: a key is a list; expected a name, which is text"),
        ('name: x\n"\\ud800": b', "my.yaml:2: the key '\\ud800' is no text; expected a name"),
        ('name: "\\ud800"', "my.yaml:1: name is '\\ud800'; expected text of whole characters"),
    ],
)
def test_a_mistake_is_reported_with_its_line(text: str, expected: str) -> None:
    assert one(text).startswith(expected)


SECTIONS = {n: f for n, f in Profile.model_fields.items() if isinstance(f.default, BaseModel)}


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_key_lists_those_of_its_section(section: str) -> None:
    keys = list(type(SECTIONS[section].default).model_fields)
    assert one(f"name: x\n{section}: {{zzzz: 1}}").endswith(
        f"unknown key {section}.zzzz; expected one of {', '.join(keys)}"
    )
    assert one(f"name: x\n{section}: {{{keys[0][:-1]}: 1}}").endswith(
        f"expected {keys[0]}; keys here are {', '.join(keys)}"
    )


def test_merge_keys_do_not_grow_without_end() -> None:
    lines = [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 60)]
    assert len(mistakes("\n".join(["name: x", "a0: &a0 {k: v}", *lines]))) == 60


SHIPPED = [profile_path(name).read_text() for name in shipped_profiles()]
PIECES = [
    *"0 01 1:30 -1 1e9 0x1f .nan ~ off yes 2020-13-45 2020-01-01 <<: = & * ! !!int !!bool !!float !!null !!set".split(),
    *"!!map !!seq !!str !!binary !!omap !!pairs !!timestamp !!python/name:os.system !x ? : - [ ] { } , | >".split(),
    *"' \" # % @ ` \\ --- ...".split(),
    *[
        " ",
        "\n",
        "\t",
        "\n  ",
        ": ",
        "- ",
        "&a ",
        "*a ",
        "<<: *a\n",
        "\x00",
        "\x85",
        "\u2028",
        "\ud800",
        "\ufeff",
        '"\\ud800"',
    ],
    *["{1,1000}", "(?P<task>", "(", "|", "x{401}", "\\C", "{focus}", "{", "9" * 5000, "[" * 400],
]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_no_text_makes_anything_but_a_profile_or_mistakes(data: st.DataObject) -> None:
    """The shipped profiles, with pieces of YAML put in and pieces of them taken out."""
    text = data.draw(st.sampled_from(SHIPPED))
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(text)))
        end = begin + data.draw(st.sampled_from([0, 0, 0, 1, 2, 5, 20, 200]))
        text = text[:begin] + data.draw(st.sampled_from(PIECES) | st.text(max_size=4)) + text[end:]
    try:
        profile = parse_profile(read_text(text, "my.yaml"))
    except ProfileError as error:
        for line in error.problems:
            assert re.fullmatch(r"my\.yaml:\d+(:\d+)?: .+; expected .+", line), line
    else:
        Router(profile.roles)


ROLE = "name: x\nroles:\n  - name: r\n    trigger: '<(?P<task>\\w+)>'\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("prompt: 'do {tusk}'", "my.yaml:5: roles[0].prompt: unknown field {tusk}; expected only {focus}, {task}"),
        ("prompt: 'do {task'", "my.yaml:5: roles[0].prompt: "),
        (
            "prompt: 'do {task.__class__}'",
            "my.yaml:5: roles[0].prompt: unknown field {task.__class__}; expected",
        ),
        ("prompt: 'do {task!r:>{task}}'", "my.yaml:5: roles[0].prompt: unknown field {task}; expected"),
        ("injected_as: 'nothing'", "my.yaml:5: roles[0].injected_as: the thought is nowhere in it; expected"),
        ("thought: '= (.'", "my.yaml:5:17: roles[0].thought: missing )"),
        ("deadline_seconds: 0", "my.yaml:5: roles[0].deadline_seconds is 0; expected more than 0"),
        ("priority: high", "my.yaml:5: roles[0].priority is 'high'; expected a whole number"),
        ("gate_threshold: 2", "my.yaml:5: roles[0].gate_threshold is 2; expected at most 1"),
        ("color: red", "my.yaml:5: unknown key roles[0].color; expected one of name, description, trigger"),
    ],
)
def test_mistakes_in_a_role(line: str, expected: str) -> None:
    assert one(ROLE + "    " + line).startswith(expected)


@pytest.mark.parametrize(
    ("trigger", "place"),
    [
        (r"'\[MATH: (?P<task>[^\n'", "4:32: roles[0].trigger: missing ]"),
        (r"\[MATH (?P<task>[^\n", "4:30: roles[0].trigger: missing ]"),
        (r"'it''s (?P<task>[a'", "4:30: roles[0].trigger: missing ]"),
        (r'"\\[MATH\u003a (?P<task>[a"', "4:38: roles[0].trigger: missing ]"),
        ("|-\n      ab (?P<task>[a", "5:19: roles[0].trigger: missing ]"),
        (r"'a(?!b)(?P<task>x)y'", "4:16: roles[0].trigger: invalid perl operator: (?!"),
        (r"'(?P<tusk>x)y'", "4: roles[0].trigger: the trigger has no group named task"),
        (r"'ask (?P<task>.+)'", "4: roles[0].trigger: the trigger ends in a repetition"),
        (r"'\[M: (?P<task>x{396})\]'", "4: roles[0].trigger: the trigger never matches, for it needs 401 characters"),
        (r"'(?:a|b{7}){100}(?:(?P<task>c{300}))!'", "4: roles[0].trigger: the trigger never matches"),
        (r"'(?P<task>x?)'", "4: roles[0].trigger: the trigger also matches empty text"),
        ("7", "4: roles[0].trigger is 7; expected text"),
    ],
)
def test_a_bad_trigger_has_its_column(trigger: str, place: str) -> None:
    assert one(f"name: x\nroles:\n  - name: r\n    trigger: {trigger}\n").startswith(f"my.yaml:{place}")


def test_every_mistake_is_reported_in_order() -> None:
    lines = mistakes(
        "name: x\nmodle: y\nriver: {pause: 'a*'}\nroles:\n"
        "  - name: 1st\n  - name: b\n    trigger: '(?P<task>x)'\n    max_tokens: -1\n"
    )
    assert [line.split(":")[1] for line in lines] == ["2", "3", "5", "5", "8"]
    assert "roles[0].trigger is missing" in "\n".join(lines)


def test_roles_need_names_of_their_own() -> None:
    role = "  - {name: same, trigger: '<(?P<task>x)>'}\n"
    assert one("name: x\nroles:\n" + role + role).startswith(
        "my.yaml:4: roles[1].name: there is another role named same"
    )


def test_thinking_must_fit_into_a_tail() -> None:
    role = "  - name: long\n    trigger: '<(?P<task>x)>'\n    max_tokens: 100\n"
    found = one("name: x\nlimits: {stream_tail_tokens: 64}\nroles:\n" + role)
    assert found.startswith("my.yaml:6: roles[0].max_tokens: 100 tokens of thinking and a prompt do not fit")
    assert "at most 56" in found


def test_what_cannot_be_loaded_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no profile 'pokket'.*Did you mean pocket"):
        load_profile("pokket")
    with pytest.raises(UsageError, match="is not a file"):
        load_profile(str(tmp_path))
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(b"name: x\ndescription: \xff\xfe")
    with pytest.raises(ProfileError, match=r"bad\.yaml:2: the text is not UTF-8; expected"):
        load_profile(str(bad))
    bad.write_bytes(b"# " + b"x" * 1_000_001)
    with pytest.raises(ProfileError, match="expected a profile of at most"):
        load_profile(str(bad))


def test_a_shipped_name_wins_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pocket").write_text("name: other")
    assert profile_path("pocket").name == "pocket.yaml"


def test_the_schema_names_every_key() -> None:
    schema = profile_schema()
    assert set(schema["properties"]) == set(Profile.model_fields)
    assert set(schema["$defs"]["Role"]["properties"]) == {f.alias or name for name, f in Role.model_fields.items()}
    assert schema["additionalProperties"] is False


def test_sampling_options_change_the_rivers_sampling_alone() -> None:
    profile = load_profile("council")
    changed = profile.sampled({"temperature": 0.5, "top_k": 7}, ["END"])
    assert (changed.sampling.temperature, changed.sampling.top_k) == (0.5, 7)
    assert changed.sampling.repetition_penalty == profile.sampling.repetition_penalty
    assert changed.river.stop == (*profile.river.stop, "END")
    assert changed.stream_sampling == profile.stream_sampling and changed.roles == profile.roles
