"""Do replies loop? The product's own, and those of transformers' `generate` to the same prompts.

A reply loops if the same 8 tokens occur 4 times among its last 128. Occurrences may overlap, as in `0, 0, 0, 0, ...`.
Every question is a conversation of its own with its own seed and the profile's settings, as in `warpcortex ask`.
`generate` gets the River's prompt tokens, adapter, sampling settings and reply limit, in fp32 and in batches, without
Streams.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any, Literal

import torch
from transformers import GenerationConfig

from warpcortex_cli.engine.sampling import Sampler
from warpcortex_cli.engine.session import Session
from warpcortex_cli.errors import UsageError
from warpcortex_cli.eval.kept import Kept
from warpcortex_cli.eval.questions import Question
from warpcortex_cli.eval.report import Grid, share
from warpcortex_cli.eval.statistics import interval
from warpcortex_cli.events import RiverFinished, RiverText
from warpcortex_cli.prism.adapters import merge
from warpcortex_cli.prism.load import load_prism_parts
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import ModelSource
from warpcortex_cli.profile import LOOP_SPAN, LOOP_WINDOW, Profile

LOOP_TIMES = 4
_BATCH = 20  # prompts per batch of `generate`
Engine = Literal["warpcortex", "transformers"]
ENGINES: tuple[Engine, ...] = ("warpcortex", "transformers")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Reply:
    """The reply to one question.

    Attributes:
        number: of the question.
        prompt, ids: tokens of the prompt and of the reply.
        text: as the user sees it.
        reason: "stop" if it ended by itself, "length" if it was cut, "loop" if it was stopped before a loop.
    """

    engine: Engine
    number: int
    prompt: list[int]
    ids: list[int]
    text: str
    reason: str
    seconds: float

    @property
    def loops(self) -> bool:
        return loops(self.ids)


@dataclass(frozen=True)
class Summary:
    """The replies of one engine: how many loop, and shares by reason."""

    engine: Engine
    n: int
    looping: float
    ci95: tuple[float, float]
    stop: float
    length: float
    loop: float
    tokens: float
    seconds: float


def loops(ids: Sequence[int]) -> bool:
    """Whether some `LOOP_SPAN` tokens occur `LOOP_TIMES` times among the last `LOOP_WINDOW`."""
    newest = ids[-LOOP_WINDOW:]
    spans = Counter(tuple(newest[i : i + LOOP_SPAN]) for i in range(len(newest) - LOOP_SPAN + 1))
    return max(spans.values(), default=0) >= LOOP_TIMES


def shortened(profile: Profile, max_tokens: int) -> Profile:
    """The profile with replies of at most `max_tokens` tokens."""
    most = min(profile.river.max_tokens, max_tokens)
    return profile.model_copy(update={"river": profile.river.model_copy(update={"max_tokens": most})})


def ours(
    prism: Prism, profile: Profile, asked: Sequence[Question], seed: int, known: Container[int] = ()
) -> Iterator[Reply]:
    """Replies of the product in the order of the questions, except those whose numbers are `known`."""
    for number, question in enumerate(asked):
        if number in known:
            continue
        session = Session(prism, profile, seed=seed + number)
        session.load_notes(question.notes)
        text, reason, began = "", "", time.perf_counter()
        for event in session.send(question.text):
            if isinstance(event, RiverText) and not (event.request or event.thinking):
                text += event.text
            elif isinstance(event, RiverFinished):
                reason = event.reason
        river, ids = session.river, session.conversation.turn.builder.ids
        prompt = list(river.sentences.ids)[: river.length - len(ids)]
        yield Reply("warpcortex", number, prompt, ids, text, reason, time.perf_counter() - began)


def theirs(
    source: ModelSource,
    own: Sampler,
    stops: Sequence[str],
    profile: Profile,
    prompts: Mapping[int, list[int]],
    seed: int,
) -> Iterator[Reply]:
    """Replies of transformers to the same prompts, the shortest prompt first.

    Args:
        own: provides the settings.
        stops: texts that end a reply, besides the profile's.
        prompts: by number of the question.
    """
    loaded, tokenizer = load_prism_parts(source, LoadOptions("cpu", "fp32"))
    model: Any = loaded  # `generate` has no types
    if profile.river.adapter is not None:
        merge(model, profile.river.adapter)
    model.set_attn_implementation("sdpa")
    ends = model.generation_config.eos_token_id if model.generation_config else None
    ends = ends if isinstance(ends, list) else [tokenizer.eos_token_id if ends is None else ends]
    config = GenerationConfig(
        max_new_tokens=profile.river.max_tokens,
        eos_token_id=ends,
        pad_token_id=ends[0],
        repetition_penalty=own.repetition_penalty,
        stop_strings=[*profile.river.stop, *stops] or None,
        **_drawn(own),
    )
    order = sorted(prompts, key=lambda i: len(prompts[i]))
    for start in range(0, len(order), _BATCH):
        numbers = order[start : start + _BATCH]
        longest = max(len(prompts[i]) for i in numbers)
        pads = [longest - len(prompts[i]) for i in numbers]
        ids = torch.tensor([[ends[0]] * pad + prompts[i] for i, pad in zip(numbers, pads, strict=True)])
        mask = (torch.arange(longest) >= torch.tensor(pads)[:, None]).long()
        torch.manual_seed(seed + numbers[0])
        began = time.perf_counter()
        with torch.inference_mode():
            found = model.generate(ids, attention_mask=mask, generation_config=config, tokenizer=tokenizer)
        seconds = (time.perf_counter() - began) / len(numbers)
        for i, row in zip(numbers, found[:, longest:].tolist(), strict=True):
            end = next((place for place, token in enumerate(row) if token in ends), None)
            written = row[:end]
            text = tokenizer.decode(written, skip_special_tokens=True)
            yield Reply("transformers", i, prompts[i], written, str(text), "length" if end is None else "stop", seconds)


def _drawn(own: Sampler) -> dict[str, Any]:
    if not own.temperature:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": own.temperature,
        "top_p": own.top_p,
        "top_k": own.top_k,
        "min_p": own.min_p or None,
    }


def run(
    prism: Prism,
    source: ModelSource,
    profile: Profile,
    asked: Sequence[Question],
    seed: int,
    engines: Sequence[Engine] = ENGINES,
    progress: Progress = lambda *_: None,
    kept: Sequence[Reply] = (),
) -> Iterator[Reply]:
    """Replies of the product, then of transformers, which answers the prompts that the product read.

    Args:
        kept: replies of an earlier run, which are not repeated.
    """
    total, done = len(asked) * len(engines), len(kept)
    known = {engine: {r.number for r in kept if r.engine == engine} for engine in ENGINES}
    prompts = {r.number: r.prompt for r in kept if r.engine == "warpcortex"}
    for reply in ours(prism, profile, asked, seed, known["warpcortex"]):
        prompts[reply.number] = reply.prompt
        done += 1
        progress(done, total)
        yield reply
    rest = {number: prompt for number, prompt in prompts.items() if number not in known["transformers"]}
    if "transformers" in engines and rest:
        own = Sampler.of(profile.sampling, prism.sampling, seed)
        for reply in theirs(source, own, prism.stops, profile, rest, seed):
            done += 1
            progress(done, total)
            yield reply


def summaries(replies: Iterable[Reply]) -> list[Summary]:
    """A summary for each engine that answered."""
    found = []
    for engine in ENGINES:
        of_it = [r for r in replies if r.engine == engine]
        if not of_it:
            continue
        n, ends = len(of_it), Counter(r.reason for r in of_it)
        looping = sum(r.loops for r in of_it)
        found.append(
            Summary(
                engine, n, looping / n, interval(looping, n), ends["stop"] / n, ends["length"] / n, ends["loop"] / n,
                fmean(len(r.ids) for r in of_it), fmean(r.seconds for r in of_it),
            )
        )  # fmt: skip
    return found


def grid(model: str, profile: Profile, found: Sequence[Summary]) -> Grid:
    """The result as a table."""
    title = f"{model}, profile {profile.name}, replies of at most {profile.river.max_tokens} tokens"
    rows = tuple(
        (
            s.engine, str(s.n), share(s.looping, s.ci95), f"{s.stop:.0%}", f"{s.length:.0%}", f"{s.loop:.0%}",
            f"{s.tokens:.0f}", f"{s.seconds:.1f}",
        )
        for s in found
    )  # fmt: skip
    heads = ("engine", "n", "looping", "ended", "cut", "stopped before a loop", "tokens", "seconds")
    return Grid(title, heads, rows)


def as_json(model: str, profile: Profile, seed: int, found: Sequence[Summary]) -> dict[str, Any]:
    """The result of `--json`."""
    return {
        "schema_version": 1,
        "model": model,
        "profile": profile.name,
        "max_tokens": profile.river.max_tokens,
        "seed": seed,
        "results": [{**vars(s), "ci95": list(s.ci95)} for s in found],
    }


FIRST = "engine"  # the first key of a reply's line


def as_line(reply: Reply, question: Question) -> dict[str, Any]:
    """The line to keep."""
    return {**vars(reply), "loops": reply.loops, "task": question.task, "question": question.text}


def earlier(kept: Kept, asked: Sequence[Question]) -> list[Reply]:
    """Replies of an earlier run.

    Raises:
        UsageError: they are replies to other questions, or not replies.
    """
    found = []
    for line in kept.lines:
        try:
            reply, question = Reply(**{f.name: line[f.name] for f in fields(Reply)}), line["question"]
        except (KeyError, TypeError) as error:
            raise kept.refused(error) from error
        if reply.number >= len(asked) or asked[reply.number].text != question:
            raise UsageError(
                f"{kept.path} holds replies to other questions.", "Name another file, or the same --data and --seed."
            )
        found.append(reply)
    return found
