"""Profiles: YAML files that say which model runs, when the River delegates, and how thoughts come back."""

from __future__ import annotations

import difflib
import string
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from warpcortex_cli.errors import ProfileError, UsageError
from warpcortex_cli.pattern import WINDOW, Pattern, PatternError, parse, together
from warpcortex_cli.profile_problems import Mistake, problem_of
from warpcortex_cli.profile_yaml import Source, read_yaml

_SHORTEST_PROMPT = 8  # tokens
LOOP_SPAN, LOOP_WINDOW = 8, 128  # tokens that count as a repetition when they recur, within so many last tokens
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Positive = Annotated[int, Field(ge=1, le=1_000_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]

Adapter = Annotated[str, Field(min_length=1)]
_ADAPTER = "A LoRA adapter: a folder as PEFT writes it, org/name in the Hugging Face cache, or a name for --adapter."
Threshold = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]  # a raw cosine may be negative


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=False)


def _pattern(source: str) -> Pattern:
    try:
        return parse(source)
    except PatternError as error:
        raise Mistake(error.message, "a google-re2 pattern", offset=error.offset) from None


def _compile(patterns: Sequence[Pattern]) -> None:
    """Checks that re2 can compile what the Router needs, which is several larger patterns for each trigger."""
    try:
        together(patterns)
    except PatternError:
        one = "the trigger is" if len(patterns) == 1 else "all triggers together are"
        raise Mistake(f"{one} too large for re2", "smaller numbers of repetitions") from None


def _format_fields(text: str, allowed: frozenset[str]) -> None:
    """Checks the `{fields}` of a text. Only plain names are allowed, so that no attributes of values can be read."""
    names = ", ".join(f"{{{name}}}" for name in sorted(allowed)) or "no fields"
    try:
        fields = [
            (field, spec, conversion)
            for _, field, spec, conversion in string.Formatter().parse(text)
            if field is not None
        ]
    except ValueError as error:
        raise Mistake(f"{error}", f"text with {names}; a brace itself is written {{{{ or }}}}") from None
    for field, spec, conversion in fields:
        if field not in allowed or spec or conversion:
            raise Mistake(f"unknown field {{{field}}}", f"only {names}; a brace itself is written {{{{ or }}}}")


class Example(_Settings):
    """An example turn that the model reads as if it were part of the conversation."""

    user: Annotated[str, Field(min_length=1)]
    assistant: Annotated[str, Field(min_length=1)]


class RiverSettings(_Settings):
    """The main agent."""

    prompt: str = Field(default="", description="System prompt. For instruction models it teaches the triggers.")
    examples: tuple[Example, ...] = Field(
        default=(),
        strict=False,
        description="Turns that stand before the conversation, in the model's chat format. A River with an "
        "adapter is not shown them.",
    )
    examples_when: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="re2 patterns. The examples stand right before the newest words of the user, only where all of "
        "these match them and no notes stand before them; they leave the context with the next turn. None: always, "
        "before everything.",
    )
    adapter: Adapter | None = Field(default=None, description=_ADAPTER)
    max_tokens: Positive = Field(default=512, description="Longest reply, in tokens, thinking included.")
    thinking: bool | None = Field(
        default=None,
        description="Whether the model thinks before it answers, where its chat template lets one choose; null: the "
        "template's own default.",
    )
    pause: str | None = Field(
        default=None,
        description="re2 pattern. Where the text since the last pause ends in a match, the River waits for "
        "the Streams that it asked.",
    )
    stop: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(
        default=(), strict=False, description="Texts that end a reply; they are not part of it."
    )
    most_repeats: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description=f"A reply is stopped when its last {LOOP_SPAN} tokens would occur that often in its last "
        f"{LOOP_WINDOW}: small models decoded greedily repeat themselves. null: never.",
    )
    resume: str = Field(
        default="\n",
        description="Replaces the end of the reply when a thought arrives only then.",
    )
    wait_seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = Field(
        default=30.0, description="Longest wait at a pause, in seconds."
    )

    @field_validator("examples_when")
    @classmethod
    def _check_examples_when(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for source in value:
            _pattern(source)
        return value

    @field_validator("pause")
    @classmethod
    def _check_pause(cls, value: str | None) -> str | None:
        if value is not None and _pattern(value).may_be_empty:
            raise Mistake("the pattern also matches empty text", "a pattern that matches at least one character")
        return value


class Role(_Settings):
    """A kind of Stream: when it starts, what it reads, and which part of its text is the thought."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
    description: str = ""
    trigger: str = Field(
        description="re2 pattern matched on River text, with a group `task`; at most 400 characters match."
    )
    starts: Literal["trigger", "turn", "sentence", "probe"] = Field(
        default="trigger",
        validate_default=True,
        description="When it starts: at a match of its trigger in River text; at each turn, with the user's words as "
        "task; at the end of each River sentence, which is the task; or there only where the model says yes to "
        "`probe`. A tool that starts by itself does so only if it finds work.",
    )
    probe: str = Field(
        default="",
        validate_default=True,
        description="Of `starts: probe` the question, with the answer yes or no, that is read behind the River's text "
        "at the end of each of its sentences, such as `Is a calculation needed here? Answer yes or no.`",
    )
    probe_threshold: Share = Field(
        default=0.5, description="A role that a probe asks about starts where yes is likelier than this, of yes and no."
    )
    when: str | None = Field(
        default=None,
        description="re2 pattern with a group `task`, for a role that starts by itself: it must match "
        "there. null: all the words are the task.",
    )
    visible: bool = Field(
        default=False,
        description="Whether the text that the trigger matches is part of the answer, as `12 * 7 =` is. false: it is a "
        "request, which the user does not see.",
    )
    prompt: str = Field(
        default="{task}",
        description="The user turn that the Stream reads; fields are the trigger's named groups, and {focus}: the "
        "sentences of its focus set as numbered lines, read anew in this place. Without it their KV is copied.",
    )
    drop: str | None = Field(
        default=None,
        description="re2 pattern. Whatever it matches is removed from the task that the Stream reads, such as the "
        "names of numbers to be added.",
    )
    thought: str | None = Field(
        default=None,
        description="re2 pattern (^ and $ match at lines). Its last match, or the group `thought` of that, "
        "is the thought; null: the whole text.",
    )
    injected_as: str = Field(default="[Ref: {thought}]", description="What the River reads; the field is {thought}.")
    awaits: bool = Field(
        default=False,
        alias="await",
        description="Whether the River waits with its next token until the thought has arrived, or its deadline has "
        "passed.",
    )
    arrives: Literal["aside", "inline", "prompt"] = Field(
        default="aside",
        validate_default=True,
        description="How the River gets the thought: beside its text; inline, as if it had written it; or, for a role "
        "that `starts: turn`, as text of the prompt right before the user's words, for this reply only. Where the "
        "River's tail no longer holds all that was read, it then reads little else. inline and prompt need `await`.",
    )
    offers: Literal["end", "line"] = Field(
        default="end",
        validate_default=True,
        description="When its thought is offered: at its end, or also what it has so far at each finished line. A "
        "later offer that the Gate lets in takes the place of the earlier one.",
    )
    ends: bool = Field(default=False, description="Whether the reply ends with a thought that has arrived inline.")
    judged: bool | None = Field(
        default=None,
        description="Whether the Gate judges its thoughts. null: those of the model, but not those of tools.",
    )
    most: Positive | None = Field(default=None, description="The most Streams of this role in one reply.")
    rest_tokens: Count = Field(default=0, description="River tokens before the role may start again.")
    max_tokens: Positive = Field(default=96, description="Longest thinking, in tokens.")
    deadline_seconds: Seconds = 30.0
    priority: int = Field(default=0, ge=-1000, le=1000, description="Higher is admitted first, and parks a lower one.")
    gate_threshold: Threshold | None = Field(default=None, description="Used instead of gate.threshold.")
    work: Literal["model", "calculator", "search", "command", "mcp"] = Field(
        default="model",
        validate_default=True,
        description="The worker: `model` writes; `calculator` computes exactly; `search` gives the "
        "sentences of notes and past that share most with the task; `command`, a program, and `mcp`, a tool of an MCP "
        "server, where the user allows that.",
    )
    command: tuple[str, ...] = Field(
        default=(),
        strict=False,
        validate_default=True,
        description="Of `work: command` the program and its arguments, in which {task} and the trigger's named groups "
        "are filled in; of `work: mcp` the server, as it is. No shell reads them. It runs only with `--allow-program "
        "PROGRAM`.",
    )
    tool: str = Field(default="", validate_default=True, description="Of `work: mcp` the name of the server's tool.")
    arguments: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        validate_default=True,
        description="Of `work: mcp` the tool's arguments; in texts {task} and the trigger's named groups "
        "are filled in.",
    )
    synapse: bool = Field(
        default=True, description="Whether it reads the River's landmarks; pure arithmetic needs none."
    )
    adapter: Adapter | None = Field(default=None, validate_default=True, description=_ADAPTER)

    @property
    def rereads(self) -> bool:
        """Whether the prompt shows the sentences of the focus set as text."""
        return any(field == "focus" for _, field, _, _ in string.Formatter().parse(self.prompt))

    @model_validator(mode="before")
    @classmethod
    def _without_trigger(cls, data: Any) -> Any:
        """Checks that roles have a trigger exactly if they start at one."""
        if isinstance(data, dict) and data.get("starts") in ("turn", "sentence", "probe"):
            return {"trigger": "", **data}
        return data

    @field_validator("trigger")
    @classmethod
    def _check_trigger(cls, value: str) -> str:
        if not value:
            return value
        pattern = _pattern(value)
        if "task" not in pattern.groups:
            raise Mistake(
                "the trigger has no group named task", r"a pattern such as \[MATH: (?P<task>[^\]\n]{1,200})\]"
            )
        if pattern.may_be_empty:
            raise Mistake(
                "the trigger also matches empty text",
                "a pattern that begins with a fixed sign such as \\[MATH: ",
            )
        if pattern.open_ended:
            raise Mistake(
                "the trigger ends in a repetition, so that it would fire before the request is written out",
                r"a pattern that ends in a fixed sign such as \] or \n",
            )
        if pattern.shortest > WINDOW:
            raise Mistake(
                f"the trigger never matches, for it needs {pattern.shortest:,} characters",
                f"a pattern that can match within {WINDOW} characters",
            )
        _compile([pattern])
        return value

    @field_validator("starts")
    @classmethod
    def _check_starts(cls, value: str, info: ValidationInfo) -> str:
        if value == "trigger" and info.data.get("trigger") == "":
            raise Mistake("a role without a trigger starts by itself", "`starts: turn`, `sentence` or `probe`")
        if value != "trigger" and info.data.get("trigger"):
            raise Mistake("a role that starts by itself has no trigger", "`when` in the place of `trigger`")
        return value

    @field_validator("probe")
    @classmethod
    def _check_probe(cls, value: str, info: ValidationInfo) -> str:
        starts = info.data.get("starts")
        if starts == "probe" and not value.strip():
            raise Mistake("`starts: probe` asks nothing", "`probe` with a question, such as Is a sum needed here?")
        if value and starts not in ("probe", None):
            raise Mistake("nobody asks this question", "`starts: probe`, or no `probe`")
        return value

    @field_validator("when")
    @classmethod
    def _check_when(cls, value: str | None) -> str | None:
        if value is not None and "task" not in _pattern(value).groups:
            raise Mistake("the pattern has no group named task", r"a pattern such as (?P<task>.*\d.*)")
        return value

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, value: str, info: ValidationInfo) -> str:
        trigger = info.data.get("trigger")
        if trigger is not None:  # otherwise the trigger's own mistake is reported
            _format_fields(value, (parse(trigger).groups if trigger else frozenset()) | {"task", "focus"})
        return value

    @field_validator("command")
    @classmethod
    def _check_command(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        work, trigger = info.data.get("work"), info.data.get("trigger")
        if work in ("command", "mcp") and (not value or not value[0].strip()):
            raise Mistake(f"`work: {work}` names no program", "a list such as [date, -u]")
        if value and work not in ("command", "mcp", None):
            raise Mistake("only `work: command` and `mcp` run a program", "`work: command`, or no command")
        for i, text in enumerate(value if work == "command" else ()):
            groups = parse(trigger).groups if trigger else frozenset()
            _format_fields(text, groups | {"task"} if i and trigger is not None else frozenset())
        return value

    @field_validator("tool")
    @classmethod
    def _check_tool(cls, value: str, info: ValidationInfo) -> str:
        work = info.data.get("work")
        if (work == "mcp") != bool(value.strip()) and work is not None:
            raise Mistake(
                "`work: mcp` names no tool" if work == "mcp" else "only `work: mcp` has a tool", "both or none"
            )
        return value

    @field_validator("arguments")
    @classmethod
    def _check_arguments(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if value and info.data.get("work") not in ("mcp", None):
            raise Mistake("only `work: mcp` has arguments", "`work: mcp`, or none")
        trigger = info.data.get("trigger")
        for text in value.values():
            if isinstance(text, str) and trigger is not None:
                _format_fields(text, (parse(trigger).groups if trigger else frozenset()) | {"task"})
        return value

    @field_validator("drop")
    @classmethod
    def _check_drop(cls, value: str | None) -> str | None:
        if value is not None and _pattern(value).may_be_empty:
            raise Mistake("the pattern also matches empty text", "a pattern that matches at least one character")
        return value

    @field_validator("thought")
    @classmethod
    def _check_thought(cls, value: str | None) -> str | None:
        if value is not None:
            _pattern(value)
        return value

    @field_validator("arrives")
    @classmethod
    def _check_arrives(cls, value: str, info: ValidationInfo) -> str:
        if value != "aside" and info.data.get("awaits") is False:
            raise Mistake("the text would come into whatever the River does meanwhile", f"`await: true` with {value}")
        if value == "prompt" and info.data.get("starts") not in ("turn", None):
            raise Mistake("the prompt has been read when this role starts", "`starts: turn`, or inline")
        return value

    @model_validator(mode="after")
    def _check_offers(self) -> Self:
        """Checks that only what is written line by line is offered so."""
        if self.offers == "line" and (self.work != "model" or self.arrives != "aside"):
            raise Mistake(
                "a thought in parts is written by the model and arrives beside the text",
                "`offers: end`",
                inside=("offers",),
            )
        return self

    @field_validator("adapter")
    @classmethod
    def _check_adapter(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("work", "model") != "model":
            raise Mistake("an adapter changes the model, and this role's work is a tool's", "`work: model`, or none")
        return value

    @field_validator("injected_as")
    @classmethod
    def _check_injected_as(cls, value: str) -> str:
        _format_fields(value, frozenset({"thought"}))
        if "{thought}" not in value:
            raise Mistake("the thought is nowhere in it", "text with the field {thought}")
        return value


class SynapseSettings(_Settings):
    """The snapshot of landmarks that Streams read."""

    landmarks: Count = Field(default=64, description="k: tokens kept out of the River's context.")
    alpha: Share = Field(default=0.5, description="Weight of attention density against geometric coverage.")
    sinks: Count = Field(default=4, description="First tokens that are always kept.")
    recent: Count = Field(default=16, description="Newest tokens that are always kept.")
    focus: Count = Field(default=64, description="More tokens that each Stream may read, chosen by its own task.")
    refresh_tokens: Positive = Field(
        default=64, description="A snapshot older than this many River tokens is replaced by a new one."
    )


def _off(value: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


class GateSettings(_Settings):
    """How the Gate decides whether a thought is injected."""

    mode: Annotated[Literal["calibrated", "raw", "off"], BeforeValidator(_off)] = "calibrated"
    threshold: Threshold = 0.5
    certainty: Share = Field(
        default=0.0,
        description="A thought is rejected when its Stream was less sure than this: the geometric mean of the "
        "probabilities of its three least probable tokens. 0: not checked.",
    )


class InjectionSettings(_Settings):
    """How thoughts join the River's attention."""

    enabled: bool = True
    budget_tokens: Positive = Field(
        default=512, description="The most tokens of injected thoughts at once; beyond that the oldest is withdrawn."
    )
    position: Literal["end"] = Field(default="end", description="Virtual positions end at the River's current one.")


class Sampling(_Settings):
    """How tokens are chosen, as in transformers' `generate`. null: as the model's own files say, or no effect."""

    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = Field(
        default=None, description="0 is greedy, which is what a model does whose files say nothing."
    )
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="Draws from the fewest most probable tokens that have this probability together."
    )
    top_k: Count | None = Field(default=None, description="Draws from so many most probable tokens; 0: from all.")
    min_p: Share | None = Field(
        default=None, description="Draws no token less probable than this share of the most probable one."
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = Field(
        default=None, description="Above 1 makes tokens that are there already less likely; 1: no effect."
    )
    presence_penalty: Penalty | None = Field(
        default=None, description="Taken off the logit of each token that the reply holds already, as in OpenAI's API."
    )
    frequency_penalty: Penalty | None = Field(
        default=None, description="The same for each time that the reply holds the token."
    )


class MemorySettings(_Settings):
    """How much of a long conversation the River holds at once."""

    window: Annotated[int, Field(ge=64)] | None = Field(
        default=None,
        description="Newest tokens that are always read; older ones go to blocks and are recalled when they are "
        "asked for. null: as many as the model's context has room for.",
    )
    recall: Annotated[int, Field(ge=32)] = Field(
        default=512, description="Older tokens that are read at once, at most a quarter of the model's context."
    )
    hot_mb: Count | None = Field(
        default=None,
        description="MiB of blocks kept unpacked on the device, one at least. null: twice what is recalled at once.",
    )
    warm_mb: Count = Field(
        default=256,
        description="MiB of blocks kept packed in memory, one at least, and as many of parked Streams; the others are "
        "on disk.",
    )
    cold_mb: Count | None = Field(
        default=None,
        description="MiB of blocks kept on disk; of those used longest ago only tokens and fingerprints stay then, "
        "and they are computed anew when they are recalled. null: no bound; 0: none.",
    )
    stored: Literal["exact", "16", "8", "6/5", "8/4", "4/4", "ladder"] = Field(
        default="8",
        description="How blocks, and parked Streams, are stored in memory and on disk: bits of keys and of values; "
        "`exact`: as they are.",
    )


class Limits(_Settings):
    """Limits on Streams."""

    streams: Positive = Field(
        default=16, description="Thinking at once; where none may join, one of lower priority is parked."
    )
    queue: Positive = Field(default=1024, description="Alive and waiting; more requests are cancelled.")
    river_share: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] | None = Field(
        default=None,
        description="The part of its speed that the River keeps while Streams think, such as 0.85; what a step "
        "costs is measured, so the same seed may then give another run. 0: Streams have every step. null: 0.7, or 12 "
        "tokens a second if that is less, where the answer is written to a terminal; 0 elsewhere.",
    )
    stream_tail_tokens: Annotated[int, Field(ge=16, le=1_000_000)] = Field(
        default=256, description="Private KV of a Stream: focus, prompt and thinking, in tokens."
    )
    stream_tail_stored: Literal["model", "int8"] = Field(
        default="model", description="How that KV is kept: in the model's type, or in int8 at half of bf16's bytes."
    )


class Profile(_Settings):
    """A whole profile."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str = ""
    model: Annotated[str, Field(min_length=1)] = Field(
        default="auto", description='"auto", "pocket", a folder, or org/name[@revision].'
    )
    river: RiverSettings = RiverSettings()
    roles: tuple[Role, ...] = Field(default=(), strict=False)
    synapse: SynapseSettings = SynapseSettings()
    gate: GateSettings = GateSettings()
    injection: InjectionSettings = InjectionSettings()
    memory: MemorySettings = MemorySettings()
    sampling: Sampling = Sampling()
    stream_sampling: Sampling = Sampling(temperature=0.0)
    limits: Limits = Limits()

    @property
    def adapters(self) -> list[str]:
        """Those that the River and its roles are computed with, each once."""
        named = [self.river.adapter, *(role.adapter for role in self.roles)]
        return [name for name in dict.fromkeys(named) if name is not None]

    def adapted(self, given: Mapping[str, str]) -> Profile:
        """The same with other adapters.

        Args:
            given: adapters by `river`, by the name of a role, or by what this profile calls an adapter.

        Raises:
            UsageError: there is nothing of that name.
        """
        known = {"river", *(role.name for role in self.roles), *self.adapters}
        for name in given:
            if name not in known:
                raise UsageError(
                    f"--adapter {name}: profile {self.name} has nothing of that name.",
                    f"Names are {', '.join(sorted(known))}.",
                )

        def chosen(agent: str, own: str | None) -> str | None:
            return given.get(agent, own if own is None else given.get(own, own))

        river = self.river.model_copy(update={"adapter": chosen("river", self.river.adapter)})
        roles = (role.model_copy(update={"adapter": chosen(role.name, role.adapter)}) for role in self.roles)
        return self.model_copy(update={"river": river, "roles": tuple(roles)})

    def with_whole_context(self) -> Profile:
        """A copy with no memory window: the River's tail may fill the model's whole context."""
        return self.model_copy(update={"memory": self.memory.model_copy(update={"window": None})})

    def sampled(self, sampling: Mapping[str, float], stop: Sequence[str], max_tokens: int | None = None) -> Profile:
        """A copy with some of the River's sampling settings replaced, more stop texts, and another longest reply."""
        changed: dict[str, Any] = {"stop": (*self.river.stop, *(text for text in stop if text))}
        if max_tokens is not None:
            changed["max_tokens"] = max_tokens
        return self.model_copy(
            update={
                "sampling": self.sampling.model_copy(update=dict(sampling)),
                "river": self.river.model_copy(update=changed),
            }
        )

    @field_validator("roles")
    @classmethod
    def _check_roles(cls, roles: tuple[Role, ...]) -> tuple[Role, ...]:
        names: set[str] = set()
        for i, role in enumerate(roles):
            if role.name in names:
                raise Mistake(
                    f"there is another role named {role.name}",
                    "a name of its own for each role",
                    inside=(i, "name"),
                )
            names.add(role.name)
        if roles:
            _compile([parse(role.trigger) for role in roles if role.trigger])
        return roles

    @model_validator(mode="after")
    def _check_room(self) -> Self:
        """Checks that a Stream's prompt and thinking fit into its tail."""
        tail = self.limits.stream_tail_tokens
        for i, role in enumerate(self.roles):
            if role.max_tokens > tail - _SHORTEST_PROMPT:
                raise Mistake(
                    f"{role.max_tokens} tokens of thinking and a prompt do not fit into a tail of {tail} tokens",
                    f"at most {tail - _SHORTEST_PROMPT}; or raise limits.stream_tail_tokens",
                    inside=("roles", i, "max_tokens"),
                )
        return self


@cache
def profiles_folder() -> Path:
    """Where the shipped profiles are: inside an installed package, or beside it in the repository."""
    package = Path(__file__).resolve().parent
    inside = package / "profiles"
    return inside if inside.is_dir() else package.parent / "profiles"


def shipped_profiles() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(path.stem for path in profiles_folder().glob("*.yaml"))


def profile_path(name_or_path: str) -> Path:
    """The file of a shipped profile, or the path itself.

    Raises:
        UsageError: there is no such profile.
    """
    if name_or_path in shipped_profiles():
        return profiles_folder() / f"{name_or_path}.yaml"
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    names = ", ".join(shipped_profiles())
    if path.exists():
        raise UsageError(f"{name_or_path} is not a file.", "Give the path of a YAML file.")
    near = difflib.get_close_matches(name_or_path, shipped_profiles(), 1)
    guess = f"Did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"there is no profile {name_or_path!r}.",
        f"{guess}Shipped are {names}; or give the path of a YAML file.",
    )


def load_profile(name_or_path: str) -> Profile:
    """Loads a shipped profile by name, or a YAML file by path.

    Raises:
        UsageError: there is no such profile.
        ProfileError: it has mistakes; each is reported as `file:line: what is wrong; expected ...`.
    """
    return parse_profile(read_yaml(profile_path(name_or_path)))


def parse_profile(source: Source) -> Profile:
    """Validates a parsed file. Raises ProfileError."""
    problems = list(source.problems)
    try:
        profile = Profile.model_validate(source.data)
    except ValidationError as error:
        problems += [problem_of(e, source, _known_keys()) for e in error.errors()]
    else:
        if not problems:
            return profile
    raise ProfileError([problem.report(source.file) for problem in sorted(problems)])


def _known_keys() -> dict[str, tuple[str, ...]]:
    """The keys of each section, by its name; "" is the profile itself."""
    found = {"": tuple(Profile.model_fields)}

    def look(section: type[BaseModel]) -> None:
        for name, field in section.model_fields.items():
            for kind in (field.annotation, *get_args(field.annotation)):  # a section, or a list of them
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    found[name] = tuple(f.alias or key for key, f in kind.model_fields.items())
                    look(kind)

    look(Profile)
    return found


def profile_schema() -> dict[str, Any]:
    """The JSON schema of a profile, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Profile.model_json_schema()}
