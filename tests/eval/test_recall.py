"""`eval recall`: facts stand where they should, methods differ in what they choose alone, a turn leaves nothing."""

from __future__ import annotations

import json
import math
import random
from itertools import groupby

import numpy as np
import pytest
import torch

from warpcortex_cli.cli.app import main
from warpcortex_cli.eval.recall import (
    KINDS,
    METHODS,
    Memory,
    Reader,
    Wanted,
    bm25,
    make_facts,
    mean_key,
    oracle,
    ours,
    planted,
    recency,
    run,
    shuffled,
)
from warpcortex_cli.memory.store import BLOCK
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import load_profile

BUDGET = 256


@pytest.fixture(scope="module")
def pocket() -> Prism:
    return Prism.load(resolve_model("pocket", "auto"), device="cpu")


@pytest.fixture(scope="module")
def reader(pocket: Prism) -> Reader:
    return Reader(pocket, load_profile("pocket"), BUDGET, 6 * BUDGET, 3)


def asked_of(reader: Reader) -> tuple[range, Wanted]:
    """A fact, and what the River asks its past for when it is asked for that."""
    tokens, case = reader.plant(3 * BUDGET, "count")
    found: list[Wanted] = []

    def listen(memory: Memory, asked: Wanted) -> list[int]:
        found.append(asked)
        return []

    reader.ask(listen, tokens, case)
    return tokens, found[0]


def test_facts_stand_at_their_depth_and_no_other_note_is_of_the_same_name_and_thing(reader: Reader) -> None:
    facts = list(reader.facts.values())
    assert len({(f.person, f.thing) for f in facts}) == len(facts)
    assert len({f.person for f in facts}) < len(facts) and len({f.thing for f in facts}) < len(facts)
    length = reader.river.length
    for times in (1, 2, 4):
        tokens, case = reader.plant(times * BUDGET, KINDS[times % 3])
        assert times * BUDGET <= length - tokens.stop < times * BUDGET + 64
        assert tokens.stop <= reader.river.past.tokens  # nobody can just look at the tail
        text = " ".join(reader.river.sentences.lines(tokens))
        fact = reader.facts[text]
        assert fact.person in case.question and fact.thing.many in case.question and case.value in text


@pytest.mark.parametrize("method", METHODS)
def test_a_method_keeps_its_budget_and_its_turn_leaves_nothing(reader: Reader, method: str) -> None:
    past = reader.river.past
    before = reader.river.length, past.tokens, reader.river.tail.length, len(reader.session.turns)
    prints = past.fingerprints.rows().copy()
    chosen: list[list[int]] = []

    def watched(memory: Memory, asked: Wanted) -> list[int]:
        chosen.append(METHODS[method](memory, asked))
        return chosen[-1]

    tokens, case = reader.plant(2 * BUDGET, "place")
    reader.ask(watched, tokens, case)
    for found in chosen:
        assert 0 < len(found) <= BUDGET and found == sorted(set(found)) and found[-1] < past.tokens
        starts = {reader.river.sentences.numbers[t] for t in found}
        assert len(found) == sum(reader.river.sentences.numbers.count(s) for s in starts)  # whole sentences
    assert before == (reader.river.length, past.tokens, reader.river.tail.length, len(reader.session.turns))
    assert "look_for" not in vars(past) and np.array_equal(past.fingerprints.rows(), prints)


def test_what_is_chosen_decides_the_answer(reader: Reader) -> None:
    near, far = reader.plant(BUDGET, "count"), reader.plant(5 * BUDGET, "count")
    assert reader.ask(recency, *near) == (True, True) and not any(reader.ask(recency, *far))
    assert not any(reader.ask(lambda memory, asked: [], *far))
    assert reader.ask(planted, *far) == (True, True)
    for at in (near, far):
        assert reader.ask(ours, *at) == (True, True) and reader.ask(bm25, *at).found


def test_bm25_is_its_formula(reader: Reader) -> None:
    tokens, asked = asked_of(reader)
    memory, sentences = reader.memory, reader.river.sentences
    ends = [*sentences.starts[1:], len(sentences.ids)]
    spans = zip(sentences.starts, ends, strict=True)
    words = [[word for word, _ in groupby(sentences.words.numbers[a:b])] for a, b in spans]
    mean = sum(map(len, words)) / len(words)

    def score(document: list[int]) -> float:
        total = 0.0
        for word in set(asked.words):
            df, tf = sum(word in d for d in words), document.count(word)
            idf = math.log(1 + (len(words) - df + 0.5) / (df + 0.5))
            total += idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(document) / mean))
        return total

    worth = [score(d) for d in words]
    assert int(np.argmax(worth)) == sentences.numbers[tokens.start]
    stored = worth[: sentences.numbers[asked.among.stop - 1]]
    chosen = {sentences.numbers[t] for t in bm25(memory, asked)}
    assert {int(number) for number in np.argsort(stored)[-3:]} <= chosen  # what follows are line breaks, not taken


def test_keys_that_are_what_is_looked_for_are_found(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """In keys of noise, one block, then one token, is like the queries."""
    _, asked = asked_of(reader)
    memory = Memory(reader.memory.prism, reader.river.past, 1)
    queries = [torch.ones_like(q) for q in asked.queries or ()]
    shape = memory.keys[0].shape
    generator = torch.Generator().manual_seed(2)
    for method, there in ((mean_key, range(5 * BLOCK, 6 * BLOCK)), (oracle, range(5 * BLOCK + 9, 5 * BLOCK + 10))):
        noise = [torch.randn(shape, generator=generator) for _ in queries]
        for key in noise:
            key[:, there.start : there.stop] += 8
        monkeypatch.setitem(memory.__dict__, "keys", noise)
        best = method(memory, asked._replace(queries=queries, budget=32))
        assert set(best) & set(there)


def test_shuffled_fingerprints_are_those_of_other_blocks(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    _, asked = asked_of(reader)
    past = reader.river.past
    found = []
    monkeypatch.setattr(
        type(past), "look_for", lambda past, words, *rest: found.append((words, past.fingerprints.rows())) or [1]
    )
    before = past.fingerprints.rows()
    assert shuffled(reader.memory, asked) == [1]
    [(words, rows)] = found
    assert words == [] and not np.array_equal(rows, before)
    assert sorted(map(bytes, rows)) == sorted(map(bytes, before)) and np.array_equal(past.fingerprints.rows(), before)


def test_a_run_gives_a_result_for_each_method_and_depth(pocket: Prism) -> None:
    words = ["said", "dropped"]
    results = list(run(pocket, load_profile("pocket"), 128, [1, 3], 2, 7, ["ours", "recency"], wordings=words))
    of = {(r.method, r.depth, r.wording): r for r in results}
    assert set(of) == {(m, d, w) for m in ("ours", "recency") for d in (128, 384) for w in ("", *words)}
    assert len(of) == len(results)
    assert all(r.n == (2 if r.wording else 4) and 0 <= r.ci95[0] <= r.recall <= r.ci95[1] <= 1 for r in results)
    assert of["recency", 384, ""].found == 0
    for method, depth, _ in of:
        assert of[method, depth, ""].recall == sum(of[method, depth, w].recall for w in words) / 2


def test_a_misspelled_question_shares_no_rare_word_and_is_still_answered(reader: Reader) -> None:
    """Name and thing are misspelled, the rest of the question is the same; BM25 then finds nothing, ours does."""
    found: dict[str, list[bool]] = {"ours": [], "bm25": [], "planted": []}
    for depth in (2, 3, 4, 5):
        for kind in KINDS:
            tokens, said = reader.plant(depth * BUDGET, kind)
            fact = reader.facts[" ".join(reader.river.sentences.lines(tokens))]
            for wording in ("dropped", "swapped"):
                same, case = reader.plant(depth * BUDGET, kind, wording)
                assert same == tokens and case.value == said.value
                assert fact.person not in case.question and fact.thing.many not in case.question
                assert len(case.question.split()) == len(said.question.split())
                for method in found:
                    found[method].append(reader.ask(METHODS[method], tokens, case).found)
    share = {method: sum(f) / len(f) for method, f in found.items()}
    assert share["planted"] == 1 and share["ours"] > 0.85 and share["bm25"] < 0.7


def test_notes_are_as_long_as_they_have_to_be(pocket: Prism) -> None:
    for tokens in (200, 3000):
        text = "\n".join(make_facts(random.Random(tokens), pocket, tokens))
        assert tokens - 2 <= len(pocket.encode(text)) < tokens + 64


def test_the_command_prints_its_contract(capsys: pytest.CaptureFixture[str]) -> None:
    methods = "ours,random,ours"  # said twice, asked once
    args = ["eval", "recall", "--n", "1", "--depths", "1,2", "--budget", "128", "--methods", methods, "--json"]
    with pytest.raises(SystemExit) as left:
        main(args)
    found = json.loads(capsys.readouterr().out)
    assert not left.value.code and (found["schema_version"], found["budget"]) == (1, 128)
    assert [(r["method"], r["depth"]) for r in found["results"]] == [
        ("ours", 128), ("random", 128), ("ours", 256), ("random", 256),
    ]  # fmt: skip
    assert {"method", "depth", "recall", "ci95", "n", "found"} == set(found["results"][0])
    worded = found["by_wording"]
    assert [r["wording"] for r in worded] == ["said"] * 4 + ["dropped"] * 4 + ["swapped"] * 4
    assert {r["n"] for r in worded} == {1} and {r["n"] for r in found["results"]} == {3}
    for wrong in (["--methods", "grep"], ["--wordings", "sung"], ["--depths", "0"], ["--budget", "9999"]):
        with pytest.raises(SystemExit) as left:
            main(["eval", "recall", *wrong])
        assert left.value.code == 2 and "Traceback" not in capsys.readouterr().err
