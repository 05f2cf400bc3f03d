"""llama.cpp beside us, on the same weights and machine, in one run: `python -m warpcortex_cli.lab.peer`.

llama.cpp is built outside this repository, once:

    pip download llama-cpp-python --no-binary :all: --no-deps   # its source holds llama.cpp in vendor/
    tar xzf llama_cpp_python-*.tar.gz
    cmake -S llama_cpp_python-*/vendor/llama.cpp -B peer -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF
    cmake --build peer --target llama-batched-bench llama-quantize llama-perplexity

Both get a trained model, ours as any MODEL, llama.cpp as a GGUF file; texts measure each format's KL:

    python -m warpcortex_cli.lab.peer --build peer -m MODEL --gguf FILE.gguf --text TEXT TEXT

Without a model, a shape with random weights is used, for which KL means nothing (`pip install gguf`):

    python -m warpcortex_cli.lab.peer --build peer --shape Qwen2.5-0.5B --vocab \\
        llama_cpp_python-*/vendor/llama.cpp/models/ggml-vocab-qwen2.gguf

On a CPU with AMX, make a second build without it (`-DCMAKE_C_FLAGS="-mno-amx-int8 -mno-amx-tile -mno-amx-bf16"`, and
the same for CXX), and give both folders: the better figure counts, and a build that crashes, as llama.cpp's AMX kernels
do on Q8_0 and Q4_0 of some shapes, is reported and skipped.

Speeds are tokens per second: reading 512 tokens; the River alone; and what N agents write together. llama-batched-bench
reads one shared prompt (`-pps`) and decodes N sequences after it, like our Streams over one River; the River's own
tokens are not counted. KL is in nats a token: ours from our fp32, llama.cpp's from its F16. The ratio is to
llama.cpp's fastest format that has at most our KL on any of the texts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from warpcortex_cli.bench.measure import Run
from warpcortex_cli.bench.shapes import random_prism
from warpcortex_cli.bench.workload import Load
from warpcortex_cli.errors import RunError
from warpcortex_cli.prism.library import compiler
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.quantize import BITS

KINDS = ("F16", "Q8_0", "Q4_0", "Q4_1")
READ = 512  # tokens of a prompt
READING, ALONE = f"reading {READ}", "River alone"
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    """llama.cpp's name of a parameter of Qwen2."""
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{_NAMES[part]}.{kind}"


def write_gguf(model: Any, vocabulary: Path, path: Path) -> None:
    """Writes a Qwen2 with tied embeddings as F16, with the vocabulary of another GGUF file."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    config = model.config
    writer = GGUFWriter(path, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_file_type(1)  # F16
    for entry in GGUFReader(vocabulary).fields.values():
        if entry.name.startswith("tokenizer."):
            kind = entry.types[0]
            inner = entry.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(entry.name, entry.contents(), kind, sub_type=inner)
    for name, parameter in model.named_parameters():
        plain = parameter.detach().to(torch.float16 if parameter.ndim == 2 else torch.float32)
        writer.add_tensor(gguf_name(name), plain.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@dataclass
class Figures:
    """The figures of one format.

    Attributes:
        kl: from full precision, on each text; None if not measured.
        speeds: tokens per second by measurement.
    """

    kl: tuple[float, ...] | None = None
    speeds: dict[str, float] = field(default_factory=dict)

    def better(self, other: dict[str, float]) -> None:
        """Takes over the faster speeds of another measurement."""
        for what, speed in other.items():
            self.speeds[what] = max(speed, self.speeds.get(what, 0.0))


def agents_write(n: int) -> str:
    """The name of the speed of `n` agents."""
    return f"{n} agent{'s' * (n != 1)}"


def peer_speeds(build: Path, model: Path, load: Load, agents: list[int], threads: int) -> dict[str, float]:
    """The speeds that llama-batched-bench printed before it ended."""
    room = load.context + max(agents) * (load.tokens + 1)
    reads, writes = (
        [
            str(build / "bin" / "llama-batched-bench"), "-m", str(model), "-c", str(size), "-b", "2048", "-ub", "512",
            "-npp", str(prompt), "-ntg", str(tokens), "-npl", counts, "-pps", "-kvu", "-t", str(threads),
            "--output-format", "jsonl",
        ]
        for size, prompt, tokens, counts in (
            (2 * READ, READ, 4, "1"),
            (room, load.context, load.tokens, ",".join(map(str, sorted({1, *agents})))),
        )
    )  # fmt: skip
    read, wrote = (_rows(command, model, build) for command in (reads, writes))
    found = {agents_write(row["pl"]): row["speed_tg"] for row in wrote}
    for what, rows, speed in ((READING, read, "speed_pp"), (ALONE, [r for r in wrote if r["pl"] == 1], "speed_tg")):
        if rows:
            found[what] = rows[0][speed]
    return found


def _rows(command: list[str], model: Path, build: Path) -> list[dict[str, Any]]:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        print(f"{model.stem} by {build}: it ended with exit code {done.returncode}: {said}", file=sys.stderr)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def peer_kl(builds: list[Path], base: Path, model: Path, text: Path, threads: int) -> float | None:
    """KL from llama.cpp's F16 to another format, in nats a token, by the first build that does not crash on it."""
    scores = base.with_name(f"{text.stem}.scores")
    for build in builds:
        command = [str(build / "bin" / "llama-perplexity"), "-f", str(text), "-c", "512", "-t", str(threads)]
        command += ["--kl-divergence-base", str(scores)]
        if not scores.exists():
            subprocess.run([*command, "-m", str(base)], check=True, capture_output=True)
        done = subprocess.run([*command, "-m", str(model), "--kl-divergence"], capture_output=True, text=True)
        if done.returncode == 0:
            return mean_kl(done.stdout + done.stderr)
        print(f"{model.stem} by {build}: llama-perplexity ended with {done.returncode}", file=sys.stderr)
    return None


def mean_kl(said: str) -> float:
    """The mean KL from llama-perplexity's output. Raises RunError if it is missing."""
    found = re.search(r"^Mean\s+KLD:\s*(-?[0-9.]+)", said, re.MULTILINE)
    if found is None:
        raise RunError("llama-perplexity reported no mean KLD.", "Give a text of at least 1,024 tokens.")
    return float(found[1])


def _ours(*arguments: str) -> Any:
    """Runs the program in its own process, as a user starts it."""
    command = [sys.executable, "-m", "warpcortex_cli", *arguments, "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def our_runs(model: list[str], kind: str, load: Load, agents: list[int]) -> list[Run]:
    """The program's own bench, one run for each of `agents`. `model`: the options for the model."""
    found = _ours(
        "bench", *model, "--device", "cpu", "--quantize", kind, "--agents", ",".join(map(str, agents)),
        "--context", str(load.context), "--landmarks", str(load.landmarks), "--focus", str(load.focus),
        "--tokens", str(load.tokens),
    )  # fmt: skip
    names = set(Run.__dataclass_fields__)
    return [Run(**{name: value for name, value in run.items() if name in names}) for run in found["runs"]]


def our_speeds(model: list[str], kind: str, load: Load, agents: list[int]) -> dict[str, float]:
    """A short run for the prefill speed, and one for each of `agents`."""
    read = our_runs(model, kind, replace(load, context=READ, tokens=2, focus=0), [1])
    runs = our_runs(model, kind, load, agents)
    return {
        READING: max(run.prefill_tokens_per_second for run in read),
        ALONE: max(run.river_solo_tokens_per_second for run in runs),
        **{agents_write(run.agents): run.stream_tokens_per_second for run in runs},
    }


def our_kl(model: str, texts: list[Path]) -> dict[str, tuple[float, ...]]:
    """KL on each text, by format."""
    found = [_ours("eval", "quantized", "-m", model, "--text", str(text))["results"] for text in texts]
    return {kinds[0]["format"]: tuple(kind["kl"] for kind in kinds) for kinds in zip(*found, strict=True)}


def _as_faithful(theirs: Figures, mine: Figures) -> bool:
    """Whether their KL is at most mine on any of the texts; always, if mine is unknown."""
    if mine.kl is None:
        return True
    return theirs.kl is not None and any(a <= b for a, b in zip(theirs.kl, mine.kl, strict=True))


def ratio(mine: Figures, theirs: dict[str, Figures], what: str) -> tuple[float, str] | None:
    """The ratio to their fastest format that is as faithful, and its name."""
    fair = [n for n, f in theirs.items() if _as_faithful(f, mine)]
    fastest = max(fair, key=lambda name: theirs[name].speeds.get(what, 0.0), default=None)
    if fastest is None or not theirs[fastest].speeds.get(what) or what not in mine.speeds:
        return None
    return mine.speeds[what] / theirs[fastest].speeds[what], fastest


def table(ours: dict[str, Figures], theirs: dict[str, Figures], columns: list[str]) -> str:
    """All figures as Markdown, with our ratios below each of our formats."""
    lines = [f"| | KL | {' | '.join(columns)} |", f"|{'---|' * (2 + len(columns))}"]

    def add(name: str, figures: Figures) -> None:
        kl = ", ".join(f"{kl:.5f}" for kl in figures.kl or ())
        speeds = (f"{figures.speeds[c]:.1f}" if c in figures.speeds else "" for c in columns)
        lines.append(f"| {name} | {kl} | {' | '.join(speeds)} |")

    for name, figures in theirs.items():
        add(f"llama.cpp {name}", figures)
    for name, figures in ours.items():
        add(f"warpcortex {name}", figures)
        cells = (ratio(figures, theirs, c) for c in columns)
        lines.append(f"| to its best | | {' | '.join(f'{c[0]:.2f} ({c[1]})' if c else '' for c in cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, nargs="+", required=True, help="the build folder of llama.cpp")
    parser.add_argument("-m", "--model", help="a trained model, as in other commands")
    parser.add_argument("--gguf", type=Path, help="the same weights for llama.cpp")
    parser.add_argument("--text", type=Path, nargs="+", default=[], help="texts for KL")
    parser.add_argument("--shape", default="Qwen2.5-0.5B", help="without a model")
    parser.add_argument("--vocab", type=Path, help="ggml-vocab-qwen2.gguf of llama.cpp, for a shape")
    parser.add_argument("--formats", default=",".join(BITS), help="ours")
    parser.add_argument("--agents", default="1,10,100")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--landmarks", type=int, default=64)
    parser.add_argument("--focus", type=int, default=64, help="tokens of each Stream's focus set")
    args = parser.parse_args()
    if (args.gguf is None) if args.model else (args.vocab is None):
        parser.error("-m needs --gguf, and a shape needs --vocab")
    agents = [int(a) for a in args.agents.split(",")]
    threads, build = os.cpu_count() or 2, args.build[0]
    load = Load(agents[-1], args.context, args.landmarks, args.tokens)
    print(f"llama.cpp: {'; '.join(map(described, args.build))}. Our kernels: by {compiler()}.\n", flush=True)
    theirs: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "F16.gguf"
        if args.model:
            quantize(build, args.gguf, base, "F16")
        else:
            write_gguf(random_prism(args.shape, LoadOptions("cpu", "bf16")).model, args.vocab, base)
        files = {"F16": base}
        for kind in KINDS[1:]:
            files[kind] = base.with_name(f"{kind}.gguf")
            quantize(build, base, files[kind], kind)
        if args.model:
            files["file"] = args.gguf
        for kind, path in files.items():
            found = [0.0 if kind == "F16" else peer_kl(args.build, base, path, text, threads) for text in args.text]
            known = tuple(kl for kl in found if kl is not None)
            theirs[kind] = Figures(known if known and len(known) == len(found) else None)
            for other in args.build:
                theirs[kind].better(peer_speeds(other, path, load, agents, threads))
            print(f"llama.cpp {kind}: {theirs[kind]}", file=sys.stderr)
    named = ["-m", args.model] if args.model else ["--random-weights", args.shape]
    faithful = our_kl(args.model, args.text) if args.model and args.text else {}
    ours: dict[str, Figures] = {}
    for kind in args.formats.split(","):
        for focus in dict.fromkeys((args.focus, 0)):
            name = f"{kind}, {load.landmarks} landmarks" + (f" and a focus set of {focus}" if focus else "")
            speeds = our_speeds(named, kind, replace(load, focus=focus), agents)
            ours[name] = Figures(faithful.get(kind), speeds)
            print(f"warpcortex {name}: {ours[name]}", file=sys.stderr)
    print(table(ours, theirs, [READING, ALONE, *map(agents_write, agents)]))


def described(build: Path) -> str:
    """A build of llama.cpp: its folder, and its target from its CMake cache."""
    cache = build / "CMakeCache.txt"
    text = cache.read_text(encoding="utf-8") if cache.exists() else ""
    found = sorted(set(re.findall(r"^GGML_(NATIVE|AVX\w*|AMX\w*|FMA|F16C|BMI2):BOOL=ON$", text, re.MULTILINE)))
    return f"{build} ({', '.join(found) if found else 'unknown target'})"


def quantize(build: Path, given: Path, to: Path, kind: str) -> None:
    """Converts a GGUF file to another format by llama.cpp."""
    command = [str(build / "bin" / "llama-quantize"), "--allow-requantize", str(given), str(to), kind]
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
