"""`eval depth`: each error measures what its name says, and slopes fit the figures."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from warpcortex_cli.cli.app import main
from warpcortex_cli.eval.depth import ERRORS, Reader, Rotation, attention, points, slopes, verdict
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.prism.source import resolve_model
from warpcortex_cli.profile import load_profile


@pytest.fixture(scope="module")
def pocket() -> Prism:
    return Prism.load(resolve_model("pocket", "auto"), device="cpu")


def reader_of(prism: Prism, budget: int, tokens: int, longest: int = 1000) -> Reader:
    reader = Reader(prism, load_profile("pocket"), budget, longest, 256, 3)
    reader.read_to(tokens)
    assert reader.river.length == tokens
    return reader


def named(errors: np.ndarray) -> dict[str, float]:
    return dict(zip(ERRORS, errors.mean(0), strict=True))


def test_it_turns_as_the_model_does(make_prism, architecture: str) -> None:
    prism = make_prism(architecture)
    rotation = Rotation(prism)
    positions = torch.tensor([0, 1, 7, 100, prism.max_context - 1])
    generator = torch.Generator().manual_seed(1)
    keys = [torch.randn(2, 5, prism.head_dim, generator=generator) for _ in range(prism.layers)]
    for layer, turned in enumerate(prism.rope.turn(keys, positions)):
        assert torch.allclose(rotation.turn(layer, keys[layer], positions).float(), turned, atol=1e-3), layer


def test_a_question_sees_all_that_was_read_and_its_own_words_up_to_each() -> None:
    generator = torch.Generator().manual_seed(1)
    queries, keys, values = (torch.randn(h, n, 8, generator=generator) for h, n in ((4, 3), (2, 9), (2, 9)))
    found = attention(queries, keys, values, 0.3, torch.float64)
    for head in range(4):
        for token in range(3):
            seen = slice(0, 7 + token)
            weights = torch.softmax(keys[head // 2, seen].double() @ queries[head, token].double() * 0.3, 0)
            assert torch.allclose(found[head, token], weights @ values[head // 2, seen].double())


def test_with_room_for_all_of_it_nothing_but_rounding_is_left(pocket: Prism) -> None:
    reader = reader_of(pocket, 512, 400)
    assert not reader.river.past.tokens
    errors, attended = reader.errors("4/4")
    found = named(errors)
    assert found["quantization"] == found["omission"] == found["in_place"] == 0
    assert 0 < found["rounding"] == found["total"] < 1e-5
    assert attended == 400 + max(len(q) for q in reader.questions)


def test_the_working_set_is_what_a_step_reads(pocket: Prism) -> None:
    reader = reader_of(pocket, 128, 1000)
    river = reader.river
    reader.ask(reader.questions[0])
    kept, at = reader.working()
    exact = reader.everything()
    [beside] = river.beside()
    assert len(kept) == beside.tokens + river.tail.length and len(river.past.recalled) > 0
    for layer in range(pocket.layers):
        turned = reader.rotation.turn(layer, exact.keys[layer][:, kept], at).float()
        keys, values = (torch.cat(pair, 1) for pair in zip(beside.layer(layer), river.tail.layer(layer), strict=True))
        assert torch.allclose(turned, keys, atol=1e-3)
        assert torch.equal(exact.values[layer][:, kept], values)


def test_each_error_is_of_its_own_cause(pocket: Prism, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reader_of(pocket, 128, 512, 1500)
    exact, bound = reader.errors("exact")
    assert named(exact)["quantization"] == 0
    fine, coarse = {}, {}
    for into, stored in ((fine, "8"), (coarse, "4/4")):
        into.update(named(reader.errors(stored)[0]))
    assert 0 < fine["quantization"] < coarse["quantization"] < 0.2
    for name in ("rounding", "omission", "in_place"):
        assert fine[name] == coarse[name] == named(exact)[name]
    assert fine["rounding"] < 1e-5 < fine["omission"] and fine["total"] == pytest.approx(fine["omission"], rel=0.2)
    reader.read_to(1500)
    deeper, attended = reader.errors("exact")
    assert named(deeper)["omission"] > named(exact)["omission"]
    assert attended <= 4 + 2 * 128 + 128 + 32 and bound <= 4 + 2 * 128 + 128 + 32
    # Without recall more is left out.
    monkeypatch.setattr(reader.river.past, "look_for", lambda *_: [])
    assert named(reader.errors("exact")[0])["in_place"] > named(deeper)["in_place"]


def test_slopes_are_those_of_the_figures() -> None:
    depths, powers = [512, 1024, 4096], (0.0, 0.5, 1.0, -0.25)
    rng = np.random.default_rng(1)
    noise = rng.uniform(0.8, 1.2, (40, 3, 1))
    grown = noise * np.array(depths)[None, :, None] ** np.array(powers) * 1e-4
    found = [np.concatenate([grown, np.zeros((40, 3, 1)), np.full((40, 3, 1), 300.0)], 2)]
    fitted = slopes(found, depths)
    for name, power in zip(ERRORS, (*powers, 0.0), strict=True):
        low, high = fitted[name].ci95
        assert low <= fitted[name].slope <= high and high - low < 0.1
        assert fitted[name].slope == pytest.approx(power * math.log(2), abs=0.05)
    assert fitted["total"].ci95 == (0.0, 0.0)  # nothing grows where there is no error
    assert [p.attended for p in points(found, depths)] == [300] * 3
    assert "300 tokens at most" in verdict(found, depths) and "it grows" in verdict(found, depths)
    assert slopes([f[:, :1] for f in found], depths[:1])["omission"].slope == 0


def test_the_command_prints_its_contract(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["eval", "depth", "--n", "1", "--depths", "256,512", "--budget", "64", "--stored", "8/4"]
    with pytest.raises(SystemExit) as left:
        main([*args, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert not left.value.code and (found["schema_version"], found["stored"]) == (1, "8/4")
    assert [p["depth"] for p in found["points"]] == [256, 512]
    assert {"rounding", "quantization", "omission", "total"} <= set(found["points"][0]) & set(found["slopes"])
    assert set(found["slopes"]["total"]) == {"slope", "ci95"} and found["slopes"]["total"]["slope"] > 0
    with pytest.raises(SystemExit):
        main(args)
    assert "Bounded: a step attends to" in " ".join(capsys.readouterr().out.split())
    for wrong in (["--stored", "zip"], ["--depths", "5"], ["--budget", "9999"]):
        with pytest.raises(SystemExit) as left:
            main(["eval", "depth", *wrong])
        assert left.value.code == 2 and "Traceback" not in capsys.readouterr().err
