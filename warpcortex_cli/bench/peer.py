"""llama.cpp beside us, on the same shape and weights, in one run: `python -m warpcortex_cli.bench.peer --build FOLDER`.

llama.cpp is built outside this repository, once:

    pip download llama-cpp-python --no-binary :all: --no-deps   # its source holds llama.cpp in vendor/
    tar xzf llama_cpp_python-*.tar.gz
    cmake -S llama_cpp_python-*/vendor/llama.cpp -B peer -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF
    cmake --build peer --target llama-batched-bench llama-quantize
    pip install gguf
    python -m warpcortex_cli.bench.peer --build peer --vocab \\
        llama_cpp_python-*/vendor/llama.cpp/models/ggml-vocab-qwen2.gguf

Where a CPU has AMX, build it a second time without (`-DCMAKE_C_FLAGS="-mno-amx-int8 -mno-amx-tile -mno-amx-bf16"`, and
the same for CXX), and give both folders: of each kind and number of agents the better one counts, and a build that
crashes, as llama.cpp's AMX kernels do on Q8_0 and Q4_0 of this shape, is said and left out.

llama-batched-bench reads one shared prompt (`-pps`) and decodes a number of sequences behind it, as our Streams do
behind one River. Speeds are tokens per second of all agents together; what counts is their ratio, in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from warpcortex_cli.bench.measure import Run
from warpcortex_cli.bench.shapes import random_prism
from warpcortex_cli.bench.workload import Load
from warpcortex_cli.prism.quantize import BITS

KINDS = ("F16", "Q8_0", "Q4_0")
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
    """The name that llama.cpp gives to a parameter of Qwen2."""
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
    for field in GGUFReader(vocabulary).fields.values():
        if field.name.startswith("tokenizer."):
            kind = field.types[0]
            inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    for name, parameter in model.named_parameters():
        plain = parameter.detach().to(torch.float16 if parameter.ndim == 2 else torch.float32)
        writer.add_tensor(gguf_name(name), plain.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def peer_speeds(build: Path, model: Path, load: Load, agents: list[int], threads: int) -> dict[int, float]:
    """Tokens per second of llama-batched-bench by number of sequences: of those that it did before it ended."""
    room = load.context + max(agents) * (load.tokens + 1)
    command = [
        str(build / "bin" / "llama-batched-bench"), "-m", str(model), "-c", str(room), "-b", "2048", "-ub", "512",
        "-npp", str(load.context), "-ntg", str(load.tokens), "-npl", ",".join(map(str, agents)),
        "-pps", "-kvu", "-t", str(threads), "--output-format", "jsonl",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        print(f"{model.stem} by {build}: it ended with {done.returncode} and said: {said}", flush=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["pl"]: row["speed_tg"] for row in rows}


def our_runs(shape: str, kind: str, load: Load, agents: list[int]) -> list[Run]:
    """The program's own bench, in a process of its own, as a user starts it: a run for each of `agents`."""
    command = [
        sys.executable, "-m", "warpcortex_cli", "bench", "--random-weights", shape, "--device", "cpu",
        "--quantize", kind, "--agents", ",".join(map(str, agents)), "--context", str(load.context),
        "--landmarks", str(load.landmarks), "--tokens", str(load.tokens), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [Run(**run) for run in json.loads(done.stdout)["runs"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, nargs="+", required=True, help="where llama.cpp was built")
    parser.add_argument("--vocab", type=Path, required=True, help="ggml-vocab-qwen2.gguf of llama.cpp")
    parser.add_argument("--shape", default="Qwen2.5-0.5B")
    parser.add_argument("--agents", default="1,10,100")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--landmarks", type=int, default=64)
    args = parser.parse_args()
    agents = [int(a) for a in args.agents.split(",")]
    threads = os.cpu_count() or 2
    load = Load(agents[-1], args.context, args.landmarks, args.tokens)
    speeds: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "F16.gguf"
        write_gguf(random_prism(args.shape, "cpu", "bf16").model, args.vocab, base)
        for kind in KINDS:
            path = base if kind == "F16" else base.with_name(f"{kind}.gguf")
            if kind != "F16":
                quantize = [str(args.build[0] / "bin" / "llama-quantize"), str(base), str(path), kind]
                subprocess.run(quantize, check=True, capture_output=True)
            found = [peer_speeds(build, path, load, agents, threads) for build in args.build]
            print(kind, *found, flush=True)
            speeds[f"llama.cpp {kind}"] = {n: max(f.get(n, 0.0) for f in found) for n in agents}
    alone = []
    for kind in BITS:
        runs = our_runs(args.shape, kind, load, agents)
        speeds[f"warpcortex {kind}"] = {r.agents: r.total_tokens_per_second for r in runs}
        alone.append(f"{kind} {max(r.river_solo_tokens_per_second for r in runs):.1f}")
    print(f"| tokens per second | {' | '.join(f'{n} agents' for n in agents)} |\n|{'---|' * (1 + len(agents))}")
    for name, row in speeds.items():
        print(f"| {name} | {' | '.join(f'{row[n]:.1f}' for n in agents)} |")
    ours, best = (
        {n: max(row[n] for name, row in speeds.items() if name.startswith(who)) for n in agents}
        for who in ("warpcortex", "llama.cpp")
    )
    ratios = (f"{ours[n] / best[n]:.2f}" if best[n] else "" for n in agents)
    print(f"| our best to its best | {' | '.join(ratios)} |")
    print(f"\nRiver alone, tokens per second: {'; '.join(alone)}")


if __name__ == "__main__":
    main()
