"""bench and profile-vram: the figures they print are counted and measured on a real run of the engine."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoConfig

from warpcortex_cli.bench import measure, memory, naive, report, shapes, soak
from warpcortex_cli.bench.shapes import random_prism
from warpcortex_cli.bench.workload import Load, Step, Tally, Workload
from warpcortex_cli.cli import profile_vram
from warpcortex_cli.cli.app import main
from warpcortex_cli.cli.bench import open_any, parse_agents
from warpcortex_cli.engine.crew import Crew
from warpcortex_cli.engine.pacing import READING, SHARE
from warpcortex_cli.engine.roster import Roster
from warpcortex_cli.engine.stream import Stream
from warpcortex_cli.errors import MemoryLimitError, UsageError
from warpcortex_cli.events import ThoughtInjected
from warpcortex_cli.prism.load import packs_bf16
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.prism import Prism
from warpcortex_cli.synapse.snapshot import Synapse

LOAD = Load(agents=3, context=40, landmarks=8, tokens=5)


def command(*args: str) -> int | str | None:
    with pytest.raises(SystemExit) as left:
        main(list(args))
    return left.value.code


def test_a_run_decodes_what_it_says(prism: Prism) -> None:
    run = measure.run(prism, LOAD)
    assert (run.agents, run.landmarks, run.context, run.tokens_per_agent) == (3, 8, 40, 5)
    # Keys and values of 8 landmarks once, and a tail for each agent, to the byte.
    assert run.kv_shared_bytes == 8 * prism.layout.bytes_per_token
    assert run.kv_private_bytes % (3 * prism.layout.bytes_per_token) == 0
    assert run.kv_private_bytes >= 3 * 5 * prism.layout.bytes_per_token
    assert run.weights_bytes == prism.parameter_bytes
    assert run.stream_tokens_per_second > run.river_tokens_per_second > 0
    assert run.seconds > 0 and run.memory_peak_bytes >= run.memory_baseline_bytes > 0


def test_all_streams_are_there_at_once_and_end(prism: Prism) -> None:
    work = Workload(prism, LOAD)
    work.spawn()
    together = 0
    while work.thinking:
        work.step()
        together = max(together, sum(s.state == "thinking" for s in work.conversation.crew.streams))
    assert together == 3 and work.tally.ended == 3
    assert all(s.tokens <= 5 for s in work.conversation.crew.streams)


def test_many_short_streams_end_with_the_tails_they_began_with(prism: Prism) -> None:
    work = Workload(prism, LOAD)
    for _ in range(30):
        work.spawn()
        while work.thinking:
            work.step()
    assert work.conversation.crew.writer.tails_in_use == 0
    assert sum(a.tokens for a in work.conversation.river.asides) <= work.profile.injection.budget_tokens


def test_the_river_is_measured_alone_while_streams_are_held(prism: Prism, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_BESIDE_SECONDS", 0.0)  # after each step with Streams
    held: list[tuple[int, int]] = []
    alone = Workload.alone

    def watched(self: Workload) -> Step:
        pacer, written = self.stepper.pacer, self.tally.written
        step = alone(self)
        held.append((self.tally.written - written, step.river))
        assert self.stepper.pacer is pacer and self.tally.held > 0
        return step

    monkeypatch.setattr(Workload, "alone", watched)
    measure.run(prism, LOAD)
    assert held and all(streams == 0 for streams, _ in held) and any(river for _, river in held)


def test_streams_are_not_held_where_the_river_has_no_room_to_write_more(
    prism: Prism, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_BESIDE_SECONDS", 0.0)
    monkeypatch.setattr(Workload, "alone", lambda self: pytest.fail("the River wrote more than it had to"))
    assert measure.run(prism, replace(LOAD, context=prism.max_context - 2 * (LOAD.tokens + 128))).thoughts == 3


def test_a_thought_does_not_take_longer_for_being_held() -> None:
    tally = Tally(spawned={1: 2.0}, held=5.0)
    tally(ThoughtInjected(id=1, tokens=3, first=0, last=2, seq=0, time=8.0))
    assert tally.delays == [1.0]


def test_the_naive_way_is_measured_too(prism: Prism) -> None:
    other = naive.run_naive(prism, LOAD, rounds=1)
    assert other.agents == 3 and other.tokens_per_second > 0


def test_findings_name_slope_and_knee(prism: Prism) -> None:
    run = measure.run(prism, LOAD)
    values = run.as_json()

    def at(agents: int, speed: float) -> measure.Run:
        changed = {"agents": agents, "river_tokens_per_second": 0.0, "stream_tokens_per_second": speed}
        return measure.Run(**{**values, **changed, "memory_peak_bytes": run.memory_baseline_bytes + agents * 2**20})

    runs = [at(1, 10.0), at(10, 90.0), at(100, 100.0)]
    assert report.knee_of(runs) == 10
    assert report.knee_of(runs[:2]) is None
    assert any("1.00 MiB an agent" in line for line in report.findings(runs))
    assert "free now would hold about 7 agents" in report.findings(runs, 7 * 2**20 + 9)[-1]
    curve = memory.curve_of(runs, "m", program_bytes=0)
    assert curve.per_agent_bytes == pytest.approx(2**20)
    assert all(sum(p.parts.values()) == p.measured_bytes for p in curve.points)
    assert curve.fits(run.memory_baseline_bytes + 50 * 2**20) == 50
    with pytest.raises(MemoryLimitError):
        curve.fits(2**20)


def test_an_agent_takes_at_least_its_tail(prism: Prism) -> None:
    """Where only a few were measured, noise may say that memory shrinks with them."""
    run = measure.run(prism, LOAD)
    private = {"kv_private_bytes": 10 * 2**20, "memory_baseline_bytes": 2**28}
    runs = [
        measure.Run(**{**run.as_json(), **private, "agents": agents, "memory_peak_bytes": 2**28 + 2**23 - agents})
        for agents in (1, 10)
    ]
    curve = memory.curve_of(runs, "m", program_bytes=0)
    assert curve.per_agent_bytes == pytest.approx(-1)
    assert curve.fits(2**28 + 50 * 2**20) == 50
    found = report.findings(runs, 40 * 2**20)
    assert "was not seen to grow" in found[0] and "about 4 agents" in found[-1]
    unseen = [replace(run, kv_private_bytes=0) for run in runs]  # of one token an agent, say
    assert not any("free now" in line for line in report.findings(unseen, 40 * 2**20))


def test_a_run_says_how_long_it_takes_at_most_and_ends_then(prism: Prism) -> None:
    said: list[str] = []
    run = measure.run(prism, LOAD, say=said.append)
    assert run.complete and said == [f"3 agents: at most {run.limit_seconds:.0f} s"]
    assert not any("was stopped" in line for line in report.findings([run]))
    cut = measure.run(prism, replace(LOAD, tokens=100, river_share=0.9), limit=0.0)
    assert not cut.complete and cut.thoughts == 0 and cut.as_json()["complete"] is False
    [line] = [line for line in report.findings([cut]) if "was stopped" in line]
    assert line.startswith("the run of 3 agents was stopped after 0 s")


def test_the_promise_to_a_reader_can_be_measured(prism: Prism, capsys: pytest.CaptureFixture[str]) -> None:
    work = Workload(prism, replace(LOAD, river_share=None))
    assert (work.stepper.pacer.share, work.stepper.pacer.enough) == (SHARE, READING)
    assert Workload(prism, LOAD).stepper.pacer.share == 0
    for given in ("1", "-0.1", "often", "nan"):
        assert command("bench", "--agents", "1", "--river-share", given) == 2
        assert "--river-share" in capsys.readouterr().err


def test_what_is_asked_for_under_a_promise_gets_more_time(prism: Prism) -> None:
    load = Load(agents=100, context=1024, landmarks=64, tokens=16)
    assert measure.seconds_for(load, 0.001) == 20
    assert measure.seconds_for(load, 0.1) == pytest.approx(4600 * 0.1)
    assert measure.seconds_for(replace(load, river_share=0.85), 0.1) == pytest.approx(2 * 4600 / 3 * 0.1)


def test_where_the_river_falls_under_its_promise(prism: Prism) -> None:
    run = measure.run(prism, LOAD)

    def at(agents: int, share: float, promised: float = 0.0) -> measure.Run:
        changed = {"agents": agents, "river_tokens_per_second": share * run.river_solo_tokens_per_second}
        return measure.Run(**{**run.as_json(), **changed, "river_share": promised})

    assert report.first_under([at(1, 1.0), at(100, 0.7)], 0.85) == pytest.approx(10)
    assert report.first_under([at(4, 0.5), at(9, 0.4)], 0.85) == 4
    assert report.first_under([at(1, 1.0), at(9, 0.9)], 0.85) is None
    assert report.first_under([at(1, 0.8, 0.85), at(9, 0.7, 0.85)], 0.85) is None


def test_a_soak_ends_with_nothing_in_use(  # type: ignore[no-untyped-def]
    prism: Prism, capsys: pytest.CaptureFixture[str], model_folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "REMEMBERED", 9)
    gc.collect()
    before = sum(type(o) in (Synapse, Stream) for o in gc.get_objects())
    crews: list[Crew] = []

    class Watched(Workload):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.conversation.crew.streams = Roster(9)
            crews.append(self.conversation.crew)

    monkeypatch.setattr(soak, "Workload", Watched)
    done = soak.run_soak(prism, LOAD, 40)
    gc.collect()
    # All versions of the Synapse are gone, and of the Streams those that the roster remembers are left.
    assert sum(type(o) in (Synapse, Stream) for o in gc.get_objects()) - before == len(list(crews[0].streams)) == 9
    assert done.streams >= 40 and done.synapses >= 40 // LOAD.agents and done.tails_in_use == 0
    args = ("--agents", "4", "--tokens", "3", "--context", "20", "--landmarks", "4", "--soak", "12", "--json")
    assert command("bench", "-m", str(model_folder("qwen2")), *args) == 0
    found = json.loads(capsys.readouterr().out)["soak"]
    assert found["streams"] == 12 and found["synapses"] == 3 and found["memory_after_bytes"] > 0


def test_agents_of_the_command_line() -> None:
    assert parse_agents("100, 1,10,10") == [1, 10, 100]
    for wrong in ("0", "1,x", "", "-3", "1e3", "999999999"):
        with pytest.raises(UsageError):
            parse_agents(wrong)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * 10**9),
        ("512 MiB", 2**29),
        ("80G", 80 * 2**30),
        ("1.5gib", 3 * 2**29),
        ("many", None),
        ("", None),
        ("-5GB", None),
        ("0GB", None),
    ],
)
def test_sizes_of_a_card(text: str, size: int | None) -> None:
    assert memory.parse_bytes(text) == size


# As the models' cards on the hub say.
PARAMETERS = {
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Llama-3.2-1B": 1_235_814_400,
    "SmolLM2-135M": 134_515_008,
}


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_random_weights_have_the_shape_they_are_named_for(shape: str) -> None:
    config = AutoConfig.for_model(**shapes.SHAPES[shape])
    assert shapes._parameters(config) == PARAMETERS[shape]


def test_a_random_model_decodes_words_and_may_be_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {**shapes.SHAPES["Qwen2.5-0.5B"], "vocab_size": 900, "hidden_size": 56, "intermediate_size": 64}
    monkeypatch.setitem(shapes.SHAPES, "tiny", {**small, "num_hidden_layers": 2})
    full, rounded = (random_prism("TINY", LoadOptions("cpu", quantize=kind)) for kind in ("none", "int8"))
    assert full.decode([700, 701]) == "w700 w701" and full.encode("w700") == [700]
    assert rounded.parameter_bytes < 0.5 * full.parameter_bytes  # as tiny as this, the head is most of it
    assert measure.run(rounded, LOAD).stream_tokens_per_second > 0
    with pytest.raises(UsageError, match=r"Qwen2\.5-0\.5B"):
        random_prism("Qwen9")


def test_random_weights_are_kept_as_those_of_a_published_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """All shapes are published in bf16; so nobody measures another kind of weights than chat would run on."""
    small = {**shapes.SHAPES["Qwen2.5-0.5B"], "vocab_size": 900, "hidden_size": 56, "intermediate_size": 64}
    monkeypatch.setitem(shapes.SHAPES, "tiny", {**small, "num_hidden_layers": 1})
    packs = "bf16" if packs_bf16(LoadOptions("cpu")) else "none"
    for dtype, kept, computed in (("auto", packs, torch.float32), ("bf16", "none", torch.bfloat16)):
        prism = open_any("tiny", None, LoadOptions("cpu", dtype, "auto"))
        assert (prism.quantize, prism.dtype) == (kept, computed)


def test_bench_prints_its_contract(capsys: pytest.CaptureFixture[str], model_folder) -> None:  # type: ignore[no-untyped-def]
    folder = str(model_folder("qwen2"))
    code = command(
        "bench", "-m", folder, "--agents", "2", "--tokens", "3", "--context", "20", "--landmarks", "4", "--json"
    )
    out = capsys.readouterr().out
    found = json.loads(out)
    assert not code and found["schema_version"] == 1 and found["device"] == "cpu"
    contract = (
        "agents landmarks context tokens_per_agent kv_shared_bytes kv_private_bytes memory_baseline_bytes "
        "memory_peak_bytes memory_per_agent_bytes river_solo_tokens_per_second river_tokens_per_second "
        "stream_tokens_per_second thoughts seconds"
    )
    assert set(contract.split()) <= set(found["runs"][0])


def test_ctrl_c_prints_what_was_measured_and_the_exit_code_tells(
    capsys: pytest.CaptureFixture[str], model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = measure.run

    def run(prism: Prism, load: Load, *rest: Any) -> measure.Run:
        if load.agents == 2:
            raise KeyboardInterrupt
        return real(prism, load, *rest)

    monkeypatch.setattr(measure, "run", run)
    args = ["-m", str(model_folder("qwen2")), "--tokens", "3", "--context", "20", "--landmarks", "4", "--csv"]
    assert command("bench", *args, "--agents", "1,2") == 130
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and "stopped; these runs were finished" in err
    assert command("bench", *args, "--agents", "1") == 0


def test_bench_prints_tables(capsys: pytest.CaptureFixture[str], model_folder) -> None:  # type: ignore[no-untyped-def]
    args = ["bench", "-m", str(model_folder("qwen2")), "--agents", "1,2", "--tokens", "3", "--context", "20"]
    args += ["--landmarks", "4"]
    assert not command(*args, "--csv")
    head, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(",")[head.split(",").index("agents")] for row in rows] == ["1", "2"]
    assert not command(*args, "--markdown")
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 4 and all(line.count("|") == len(report.HEADS) + 1 for line in table)
    assert not command(*args, "--compare", "naive", "--quantize", "int8")
    out = capsys.readouterr().out
    assert "naive" in out and "an agent's tail is" in out and "memory: RSS" in out


def test_profile_vram_names_parts_and_sources(
    capsys: pytest.CaptureFixture[str],
    model_folder,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    args = ["profile-vram", "-m", str(model_folder("qwen2")), "--agents", "1,2", "--tokens", "3", "--context", "20"]
    args += ["--landmarks", "4", "--json", "--card", "8GB", "--plot", str(tmp_path / "m.svg")]
    assert not command(*args)
    found = json.loads(capsys.readouterr().out)
    assert [p["agents"] for p in found["points"]] == [1, 2]
    assert set(found["points"][0]["parts"]) == set(found["parts"])
    assert found["source"] == "RSS" and found["card_agents"] > 0
    assert (tmp_path / "m.svg").stat().st_size > 1000


def test_no_figure_is_cut_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model_folder: Callable[[str], Path]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    model = ["-m", str(model_folder("qwen2")), "--agents", "1,2,3,4", "--tokens", "3", "--context", "20"]
    for tool in (["bench", "--compare", "naive"], ["profile-vram"]):
        assert not command(*tool, *model, "--landmarks", "4")
        out = capsys.readouterr().out
        assert "…" not in out and max(map(len, out.splitlines())) <= 80


def test_many_points_of_a_large_model_are_not_cut_either(prism: Prism) -> None:
    run = measure.run(prism, LOAD)
    sizes = dict.fromkeys(("weights_bytes", "memory_baseline_bytes"), 2**36)
    runs = [
        measure.Run(**{**run.as_json(), **sizes, "agents": n, "memory_peak_bytes": 2**36 + n * 2**28})
        for n in range(1, 10)
    ]
    curve = memory.curve_of(runs, "m", program_bytes=2**30)
    console = Console(width=80, record=True, file=StringIO())
    for table in profile_vram._tables(curve, "m", console.width):
        console.print(table)
    out = console.export_text()
    assert "…" not in out and out.count("measured before the") == out.count("above one River") > 1
    for point in curve.points:
        assert f"{point.measured_bytes / 2**20:,.1f}" in out


def test_what_is_held_in_the_middle_of_a_step_counts(prism: Prism, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Streams and without; what was held before the River was alone does not."""
    if sys.platform != "linux":
        pytest.skip("elsewhere memory is read between steps")
    before, alone, inside = 256 * 2**20, 64 * 2**20, 128 * 2**20
    read, step = Workload.__init__, Workload.step

    def reading(self: Workload, *args: Any) -> None:
        read(self, *args)
        len(b"x" * before)

    def stepping(self: Workload) -> Any:
        len(b"x" * (inside if self.thinking else alone))
        return step(self)

    monkeypatch.setattr(Workload, "__init__", reading)
    monkeypatch.setattr(Workload, "step", stepping)
    run = measure.run(prism, LOAD)
    grown = run.memory_peak_bytes - run.memory_baseline_bytes
    assert 0.9 * (inside - alone) < grown < 1.1 * (inside - alone)
    assert run.memory_per_agent_bytes == grown / LOAD.agents


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["bench", "--agents", "0"], 2, "number of agents"),
        (["bench", "-m", "pocket", "--agents", "1", "--context", "10", "--landmarks", "64"], 2, "landmarks"),
        (["bench", "-m", "pocket", "--agents", "1", "--context", "100000"], 2, "context"),
        (["bench", "--random-weights", "nothing"], 2, "shape"),
        (["bench", "--compare", "vllm"], 2, "compare"),
        (["profile-vram", "--card", "huge"], 2, "size of memory"),
        (["profile-vram", "-m", "pocket", "--agents", "1", "--tokens", "2", "--card", "1MB"], 4, "cannot hold"),
    ],
)
def test_bad_arguments_get_a_sentence(
    args: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*args) == code
    assert says in " ".join(capsys.readouterr().err.split())
