"""`eval synapse`: every method keeps as many tokens as it was given, and the full context is the ceiling."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from warpcortex_cli.cli.app import main
from warpcortex_cli.engine.text import words_of
from warpcortex_cli.eval.report import kinds_grid
from warpcortex_cli.eval.rivals import METHODS, Method
from warpcortex_cli.eval.statistics import interval
from warpcortex_cli.eval.synapse import KINDS, Case, Reader, make_case, run
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.rows import Row
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import SynapseSettings, load_profile
from warpcortex_cli.synapse import snapshot
from warpcortex_cli.synapse.landmarks import Hybrid, LayerView


@pytest.fixture(scope="module")
def pocket() -> Prism:
    return Prism.load(resolve_model("pocket", "auto"), device="cpu")


def view_of(method: str, tokens: int, k: int) -> LayerView:
    generator = torch.Generator().manual_seed(5)
    keys = torch.randn(2, tokens, 8, generator=generator)
    queries = torch.randn(4, 6, 8, generator=generator)
    always = METHODS[method].landmarks.always(tokens, k)
    return LayerView(keys - keys.mean(1, keepdim=True), [(keys, keys)], queries, always, k, 8**-0.5)


def test_the_full_context_is_read_whole(pocket: Prism) -> None:
    """Though pocket's profile lets older notes leave the River's tail."""
    profile = load_profile("pocket")
    case = make_case(random.Random(1), pocket, 1400, 3, KINDS[0])
    reader = Reader(pocket, profile, case)
    assert profile.memory.window is not None and reader.river.tail.length > profile.memory.window
    assert not reader.river.past.tokens


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_is_kept(method: str) -> None:
    for k in (1, 4, 16, 40, 50):
        chosen = METHODS[method].landmarks.select(view_of(method, 40, k))
        assert chosen.shape == (2, min(k, 40))
        assert (chosen.diff(dim=1) > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_layers_that_are_seen_at_once_are_chosen_from_as_one_by_one(
    method: str, pocket: Prism, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = pocket.new_tail()
    ids = pocket.encode("Mara keeps 47 brown ropes in the old mill. Jon has 86 boats at the lake. " * 4)
    queries = pocket.forward([Row(ids, list(range(len(ids))), tail, logits="none", queries=True)])[0].queries
    assert queries is not None
    found = []
    for together in (1, 1 << 20):
        monkeypatch.setattr(snapshot, "_TOGETHER", together)
        sampler = METHODS[method].landmarks
        first = snapshot.take(pocket, tail, SynapseSettings(landmarks=16), queries[:, :, -32:], 1, sampler=sampler)
        found.append(first.indices)
    assert found[0].shape == (pocket.layers, pocket.kv_heads, 16) and torch.equal(*found)


def test_rivals_keep_what_their_papers_say() -> None:
    view = view_of("streaming", 40, 10)
    assert METHODS["streaming"].landmarks.select(view)[0].tolist() == [0, 1, 2, 3, *range(34, 40)]
    free = [i for i in range(40) if i not in view_of("knorm", 40, 12).always.tolist()]
    norms = view.rotated.norm(dim=2)
    kept = set(METHODS["knorm"].landmarks.select(view_of("knorm", 40, 12))[0].tolist())
    worst_kept = max(float(norms[0, i]) for i in free if i in kept)
    assert all(float(norms[0, i]) >= worst_kept for i in free if i not in kept)
    last = torch.softmax(view.queries[:, -1:] @ view.rotated.repeat_interleave(2, 0).transpose(1, 2) * view.scale, 2)  # type: ignore[index]
    assert torch.allclose(METHODS["tova"].landmarks.score(view)[0], last.sum((0, 1)), atol=1e-5)


def test_expected_attention_is_the_mean_over_gaussian_queries() -> None:
    """Against sampled queries: the order of the keys is nearly the same."""
    view = view_of("expected", 40, 12)
    queries = view.queries[:2].float() * view.scale  # type: ignore[index]
    mean, spread = queries.mean(1), queries - queries.mean(1, keepdim=True)
    drawn = mean[:, None] + torch.randn(2, 20000, 6, generator=torch.Generator().manual_seed(1)) @ spread / 6**0.5
    sampled = (drawn @ view.rotated[0, 4:].T).exp().mean(1)
    exact = torch.softmax(sampled.log(), -1).mean(0) * view.values[0, 4:].norm(dim=1)
    ours = METHODS["expected"].landmarks.score(view)[0, 4:]
    assert torch.corrcoef(torch.stack([ours, exact]))[0, 1] > 0.95
    assert METHODS["expected"].landmarks.always(40, 12).tolist() == [0, 1, 2, 3]  # no newest tokens, as in the paper


def test_expected_attention_takes_all_queries_to_the_next_512_positions(pocket: Prism) -> None:
    """The paper's formula key by key, from queries turned one position at a time in complex numbers."""
    reader = Reader(pocket, load_profile("pocket"), make_case(random.Random(2), pocket, 60, 3, KINDS[0]))
    river, layer, head = reader.river, 2, 3
    tokens, half = river.position, pocket.head_dim // 2
    with torch.inference_mode():
        seen = reader._queries_ahead()
    ids = list(river.sentences.ids[:tokens])
    rotated = pocket.forward([Row(ids, list(range(tokens)), pocket.new_tail(), logits="none", queries=True)])[0].queries
    assert rotated is not None
    turns = pocket.model.config.rope_parameters["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
    pairs = torch.complex(*rotated[layer][head, 4:].double().split(half, dim=1))
    plain = pairs * torch.exp(-1j * turns * torch.arange(4, tokens, dtype=torch.float64)[:, None])
    later = torch.stack([plain * torch.exp(1j * turns * p) for p in range(tokens, tokens + 512)]).mean(0)
    expected = torch.cat([later.real, later.imag], dim=1)
    assert torch.allclose(seen[layer][head].double(), expected, atol=1e-4)
    keys, values = (part[head // 2].double() for part in river.tail.view(tokens).layer(layer))
    logits = []
    for key in keys[4:]:
        spread = torch.cov(expected.T, correction=0)
        logits.append(float(expected.mean(0) @ key / 8 + key @ spread @ key / 64 / 2))
    score = torch.softmax(torch.tensor(logits), 0) * values[4:].norm(dim=1)
    view = river.tail.view(tokens).layer(layer)
    own = [(part[head // 2 :][:1]) for part in view]
    one = LayerView(own[0], [(own[0], own[1])], seen[layer][head : head + 1], torch.arange(4), 12, 1 / 8)
    ours = METHODS["expected"].landmarks.score(one)[0]
    assert not ours[:4].any() and torch.allclose(ours[4:], score.float(), rtol=1e-3, atol=1e-6)


def test_cases_fit_their_context_and_hold_their_answer(pocket: Prism) -> None:
    for depth in (0, 5, 9):
        case = make_case(random.Random(depth), pocket, 300, depth, "recall")
        assert 200 < len(pocket.encode(case.notes)) <= 300
        key, details = case.answer.removeprefix("The ").rstrip(".").split(": ", 1)
        lines = case.notes.splitlines()
        place = next(i for i, line in enumerate(lines) if all(word in line for word in key.split(" of ")))
        assert details in lines[place]
        assert abs(place / len(lines) - depth / 10) < 0.25


def test_a_misspelled_question_shares_no_word_with_its_note(pocket: Prism) -> None:
    """Nor with any other: words lead nowhere, and what is judged is the value alone."""
    for seed in range(12):
        case = make_case(random.Random(seed), pocket, 300, seed % 10, "misspelled")
        asked = set(words_of(pocket, pocket.encode(case.prompt))) - {0}
        assert len(asked) >= 4 and not asked & set(words_of(pocket, pocket.encode(case.notes)))
        value = case.answer.removeprefix(case.given)
        assert value != case.answer and any(line.count(value.rstrip(".")) for line in case.notes.splitlines())


def test_other_prices_distract_from_the_one_that_is_asked_for(pocket: Prism) -> None:
    counts = set()
    for seed in range(8):
        case = make_case(random.Random(seed), pocket, 400, 4, "hops")
        prices = [line for line in case.notes.splitlines() if line.startswith("One ")]
        assert len(prices) == len(set(prices))
        assert any(line.split()[3] == case.answer.rstrip("]").split()[-1] for line in prices)
        counts.add(len(prices))
    assert len(counts) > 1 and max(counts) > 2


def test_each_kind_can_be_read_in_a_few_notes(pocket: Prism) -> None:
    """All but what no note says: pocket answers that as if one did, however short they are."""
    kinds = [kind for kind in KINDS if kind != "missing"]
    for kind in kinds:
        rng = random.Random(11)
        readers = [Reader(pocket, load_profile("pocket"), make_case(rng, pocket, 200, i, kind)) for i in range(10)]
        assert sum(r.measure(None).right for r in readers) >= 7, kind


def test_what_is_given_is_not_judged(pocket: Prism) -> None:
    case = make_case(random.Random(2), pocket, 200, 3, "recall")
    given, value = case.answer.split(":", 1)
    wrong = replace(case, answer=f"The moon:{value}")
    profile = load_profile("pocket")
    assert not Reader(pocket, profile, wrong).measure(None).right
    assert Reader(pocket, profile, replace(case, given=f"{given}:")).measure(None).right
    assert not Reader(pocket, profile, replace(case, answer=f"{given}: none.", given=f"{given}:")).measure(None).right


def test_what_is_measured_is_what_was_kept(pocket: Prism) -> None:
    case = make_case(random.Random(1), pocket, 200, 3, "recall")
    reader = Reader(pocket, load_profile("pocket"), case)
    full = reader.measure(None)
    assert (full.kl, full.compression) == (0.0, 0.0) and max(full.errors) < 1e-5
    for method in ("ours", "random", "streaming"):
        found = reader.measure(METHODS[method], 32)
        assert found.kl > 0 and found.seconds > 0 and len(found.errors) == pocket.layers and min(found.errors) > 0
        assert found.compression >= 1 - 32 / reader.river.position - 1e-9


def test_a_run_gives_a_result_for_each_method_and_budget(pocket: Prism) -> None:
    results = list(
        run(pocket, load_profile("pocket"), [150], [16, 64], 2, 7, {m: METHODS[m] for m in ("ours", "knorm")})
    )
    assert {(r.method, r.k) for r in results} == {
        ("full", 150), ("ours", 16), ("ours", 64), ("knorm", 16), ("knorm", 64),
    }  # fmt: skip
    assert all(r.n == 2 and 0 <= r.ci95[0] <= r.accuracy <= r.ci95[1] <= 1 for r in results)
    assert all(list(r.kinds) == ["recall", "several"] for r in results)


def test_every_kind_has_its_share_at_every_depth(pocket: Prism, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []

    def note(rng: random.Random, prism: Prism, context: int, depth: int, kind: str) -> Case:
        made.append((kind, depth))
        return make_case(rng, prism, context, depth, kind)

    monkeypatch.setattr("warpcortex_cli.eval.synapse.make_case", note)
    results = list(run(pocket, load_profile("pocket"), [150], [16], 60, 7, {}))
    assert len(set(made)) == 60 and {kind for kind, _ in made[:10]} == set(KINDS)
    kinds = results[0].kinds
    assert list(kinds) == list(KINDS) and all(share.n == 10 for share in kinds.values())
    assert sum(s.accuracy * s.n for s in kinds.values()) == pytest.approx(results[0].accuracy * 60)
    printed = kinds_grid(results).markdown()
    assert all(kind in printed for kind in KINDS)


def test_the_command_prints_its_contract(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["eval", "synapse", "--n", "1", "--k", "16", "--context", "100", "--methods", "ours,full", "--json"]
    with pytest.raises(SystemExit) as left:
        main(args)
    found = json.loads(capsys.readouterr().out)
    assert not left.value.code and (found["schema_version"], found["seed"], found["model"]) == (1, 2026, "pocket")
    assert {r["method"] for r in found["results"]} == {"ours", "full"}
    assert {"method", "k", "context", "accuracy", "ci95", "n"} <= set(found["results"][0])
    assert all(set(r["kinds"]["recall"]) == {"accuracy", "ci95", "n"} for r in found["results"])
    for wrong in (["--methods", "vllm"], ["--k", "x"], ["--context", "9999"]):
        with pytest.raises(SystemExit) as left:
            main(["eval", "synapse", *wrong])
        assert left.value.code == 2 and "Traceback" not in capsys.readouterr().err


def test_the_command_draws_accuracy_over_k(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "k.svg"
    args = ["eval", "synapse", "--n", "1", "--k", "16,32", "--context", "100", "--methods", "ours", "--plot", str(plot)]
    with pytest.raises(SystemExit) as left:
        main(args)
    assert not left.value.code and plot.read_text().lstrip().startswith("<?xml")
    assert "right answers by kind" in " ".join(capsys.readouterr().out.split())  # a title may wrap
    with pytest.raises(SystemExit) as left:
        main([*args[:-1], str(tmp_path / "k.gif")])
    assert left.value.code == 2 and "k.gif" in capsys.readouterr().err


def test_intervals_hold_the_share_and_shrink() -> None:
    for n in (1, 10, 1000):
        for right in (0, n // 2, n):
            low, high = interval(right, n)
            assert 0 <= low <= right / n + 1e-9 and right / n - 1e-9 <= high <= 1
    assert interval(500, 1000)[1] - interval(500, 1000)[0] < interval(5, 10)[1] - interval(5, 10)[0]


def test_reading_the_focus_set_anew_is_not_reading_its_kv(pocket: Prism) -> None:
    reader = Reader(pocket, load_profile("pocket"), make_case(random.Random(3), pocket, 300, 5, "recall"))
    reader.measure(None)
    shown, copied = reader.measure(METHODS["ours-reread"], 64), reader.measure(METHODS["ours"], 64)
    assert shown.kl != copied.kl and shown.compression == copied.compression


def test_the_focus_set_finds_what_no_word_leads_to(pocket: Prism) -> None:
    """A letter of each name is wrong: only the heads that find things lead to the note."""
    rng, profile = random.Random(21), load_profile("pocket")
    right = 0
    for depth in range(0, 10, 2):
        reader = Reader(pocket, profile, make_case(rng, pocket, 1000, depth, "misspelled"))
        reader.measure(None)
        right += reader.measure(METHODS["ours"], 64).right
        assert not reader.measure(METHODS["ours-no-focus"], 64).right
    assert right >= 4


def test_a_grown_selection_chooses_from_what_an_earlier_one_left(pocket: Prism) -> None:
    reader = Reader(pocket, load_profile("pocket"), make_case(random.Random(4), pocket, 600, 5, "recall"))
    reader.measure(None)
    whole, grown = (reader.measure(Method(Hybrid(), grown=g), 16) for g in (0, 32))
    assert grown.compression == whole.compression and grown.errors != whole.errors
    assert max(grown.errors) < 1.2 * max(whole.errors)
