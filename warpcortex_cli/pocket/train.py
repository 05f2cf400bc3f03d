"""Trains pocket: `python -m warpcortex_cli.pocket.train --out FOLDER`, resumable, on 2 CPU cores.

A second process writes the conversations; this one takes the steps. Small batches win: copying and recall appear after
some thousand steps whatever the batch.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from warpcortex_cli.pocket import conversation, tokenizer
from warpcortex_cli.pocket.conversation import Mix, Piece
from warpcortex_cli.pocket.muon import Muon
from warpcortex_cli.pocket.vocabulary import Words


@dataclass(frozen=True)
class Stage:
    """A lesson: `steps` steps of `rows` conversations over `notes` (lowest, highest) sentences, `budget` characters each."""

    steps: int
    rows: int
    notes: tuple[int, int]
    budget: int
    copying: float = 0.0
    mix: Mix = Mix()


CURRICULUM = (
    Stage(600, 6, (2, 4), 260, copying=0.6, mix=Mix(recall=9, delegated=2, streams=3, talk=0.2)),
    Stage(2500, 4, (2, 8), 550, copying=0.08, mix=Mix(recall=9, delegated=6, streams=5)),
    Stage(2900, 3, (3, 16), 1000, mix=Mix()),
    Stage(3200, 6, (2, 7), 450, mix=Mix(recall=10, delegated=7, streams=5)),
    Stage(2000, 3, (4, 20), 1100, mix=Mix()),
    Stage(1000, 2, (8, 40), 2400, mix=Mix()),
    Stage(400, 1, (20, 75), 4200, mix=Mix()),
)
MUON_LR, ADAM_LR = 0.005, 2e-3
DECAY_SHARE = 0.3


def config() -> dict[str, Any]:
    """The shape of the model, for transformers' Qwen2Config."""
    return {
        "vocab_size": tokenizer.VOCAB_SIZE, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "rope_theta": 200000.0,
        "tie_word_embeddings": True, "initializer_range": 0.02, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip


def _causal(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
    groups = query.shape[1] // key.shape[1]
    out = F.scaled_dot_product_attention(
        query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), is_causal=True, scale=scaling
    )
    return out.transpose(1, 2).contiguous(), None


def build_model():
    """A freshly initialised Qwen2 with plain causal attention, which respects virtual positions."""
    from transformers import AttentionInterface, AttentionMaskInterface, Qwen2Config, Qwen2ForCausalLM

    AttentionInterface.register("pocket_causal", _causal)
    AttentionMaskInterface.register("pocket_causal", lambda *a, **k: None)
    model = Qwen2ForCausalLM._from_config(Qwen2Config(**config()), attn_implementation="pocket_causal")
    _help_recall(model)
    return model


@torch.no_grad()
def _help_recall(model, sharpness: float = 6.0, gain: float = 0.05, match: float = 1.5) -> None:
    """Starts with the circuit of recall, which chance takes thousands of steps to find.

    Layer 0: the q and k biases of three heads make them look 1, 2 and 3 tokens back, through the fast RoPE pairs, and
    each writes what it sees into a subspace of its own. Layers 1 and 2: a query asks for what it is (or what stands
    before it), a key offers what stands one (or two) before it, so that like finds the successor of like.
    """
    c = model.config
    size, half = c.hidden_size // c.num_attention_heads, c.hidden_size // c.num_attention_heads // 2
    group = c.num_attention_heads // c.num_key_value_heads
    frequency = c.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    amplitude = torch.where(torch.arange(half) < half // 2, sharpness, 0.0)
    reads = torch.linalg.qr(torch.randn(c.hidden_size, c.hidden_size))[0][:size]
    writes = torch.linalg.qr(torch.randn(c.hidden_size, c.hidden_size))[0].split(size, dim=1)
    first = model.model.layers[0].self_attn
    first.v_proj.weight.copy_(reads.repeat(c.num_key_value_heads, 1))
    for head, back in enumerate((1, 2, 3)):
        q = first.q_proj.bias[head * size : (head + 1) * size]
        k = first.k_proj.bias[head // group * size : (head // group + 1) * size]
        k[:half] = amplitude
        q[:half], q[half:] = amplitude * torch.cos(back * frequency), -amplitude * torch.sin(back * frequency)
        first.o_proj.weight[:, head * size : (head + 1) * size] = gain * writes[head]
    slow = torch.where(torch.arange(half) < half // 3, 0.2, 1.0).repeat(2)[:, None]
    for layer in model.model.layers[1:3]:
        attention = layer.self_attn
        for kv, (asks, offers) in enumerate(((reads, writes[0].T), (writes[0].T, writes[1].T))):
            turn = torch.linalg.qr(torch.randn(size, size))[0] * slow * match
            attention.k_proj.weight[kv * size : (kv + 1) * size] = turn @ offers
            for head in range(kv * group, (kv + 1) * group):
                attention.q_proj.weight[head * size : (head + 1) * size] = turn @ asks


Sequence = tuple[list[int], list[int], list[float]]


def encode(tok: Tokenizer, pieces: list[Piece], limit: int) -> Sequence:
    """Token ids, positions and the loss weight of each token. An aside ends at the River's current position."""
    ids: list[int] = []
    positions: list[int] = []
    weights: list[float] = []
    here, after_aside = 0, False
    plain = [p.text for p in pieces if not p.special]
    encoded = iter(tok.encode_batch(plain, add_special_tokens=False))
    for p in pieces:
        new = [tok.token_to_id(p.text)] if p.special else next(encoded).ids
        if p.aside:
            positions += range(here - len(new), here)
        else:
            positions += range(here, here + len(new))
            here += len(new)
        ids += new
        # In the engine no token of the River predicts an aside, and no token of an aside predicts the River.
        weights += [0.0 if (p.aside or after_aside) and i == 0 else p.learn for i in range(len(new))]
        after_aside = p.aside
    return ids[:limit], positions[:limit], weights[:limit]


def make_batch(tok: Tokenizer, rng: random.Random, stage: Stage) -> dict[str, torch.Tensor]:
    """One batch: ids, positions [rows, tokens]; where and how much to learn."""
    rows: list[Sequence] = []
    notes = rng.randint(*stage.notes)
    for _ in range(stage.rows):
        words = Words(rng, made_up_share=rng.choice((0.3, stage.mix.made_up, 0.9)))
        if rng.random() < stage.copying:
            pieces = conversation.copying(words, rng.randint(2, 6))
        elif rng.random() < 0.02 * stage.mix.talk / 0.3:
            pieces = conversation.small_talk(words)
        else:
            pieces = conversation.conversation(words, notes, stage.budget, stage.mix)
        rows.append(encode(tok, pieces, 3600))
    width = max(len(r[0]) for r in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    weights = torch.zeros(len(rows), width)
    for i, (a, b, c) in enumerate(rows):
        ids[i, : len(a)], positions[i, : len(a)], weights[i, : len(a)] = torch.tensor(a), torch.tensor(b), torch.tensor(c)
    return {"ids": ids, "positions": positions, "weights": weights}


def _producer(tok_json: str, seed: int, start: int, queue: Any, curriculum: tuple[Stage, ...]) -> None:
    torch.set_num_threads(1)
    os.nice(5)
    tok = Tokenizer.from_str(tok_json)
    done = 0
    for stage in curriculum:
        for step in range(done, done + stage.steps):
            if step >= start:
                queue.put(make_batch(tok, random.Random(seed * 1_000_003 + step), stage))
        done += stage.steps
    queue.put(None)


def batches(tok: Tokenizer, seed: int, start: int, curriculum: tuple[Stage, ...]) -> Iterator[dict[str, torch.Tensor]]:
    """Batches from step `start` on, made by a second process."""
    context = mp.get_context("spawn")
    queue = context.Queue(maxsize=24)
    worker = context.Process(target=_producer, args=(tok.to_str(), seed, start, queue, curriculum), daemon=True)
    worker.start()
    while (batch := queue.get()) is not None:
        yield batch


def loss_of(model, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Weighted next-token loss on the learned tokens, and the share of them predicted right."""
    hidden = model.model(input_ids=batch["ids"], position_ids=batch["positions"], use_cache=False).last_hidden_state
    weights = batch["weights"][:, 1:]
    where = weights > 0
    logits = model.lm_head(hidden[:, :-1][where])
    target, w = batch["ids"][:, 1:][where], weights[where]
    loss = (F.cross_entropy(logits, target, reduction="none") * w).sum() / w.sum()
    right = ((logits.argmax(-1) == target).float() * w).sum() / w.sum()
    return loss, float(right)


def schedule(step: int, total: int) -> float:
    """Warm-up, a plateau, then linear decay to nothing."""
    warm = min(1.0, (step + 1) / 100)
    left = (total - step) / (total * DECAY_SHARE)
    return warm * min(1.0, max(left, 0.01))


def train(out: Path, seed: int, threads: int, device: str) -> None:
    """Runs the curriculum from the last checkpoint in `out`, or from the start."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    tok_file = out / "tokenizer.json"
    tok = Tokenizer.from_file(str(tok_file)) if tok_file.exists() else tokenizer.build()
    tokenizer.save(tok, out)
    model = build_model().to(device)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [Muon(matrices, lr=MUON_LR), torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.98), weight_decay=0.0)]
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for o, s in zip(optimizers, state["optimizers"], strict=True):
            o.load_state_dict(s)
        step = state["step"]
    total = sum(s.steps for s in CURRICULUM)
    started, seen, average, right = time.monotonic(), 0, None, 0.0
    log = (out / "log.jsonl").open("a")
    bar = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn())
    with bar:
        task = bar.add_task("pocket", total=total, completed=step)
        for batch in batches(tok, seed, step, CURRICULUM):
            factor = schedule(step, total)
            for o, lr in zip(optimizers, (MUON_LR, ADAM_LR), strict=True):
                for group in o.param_groups:
                    group["lr"] = lr * factor
            loss, accuracy = loss_of(model, {k: v.to(device) for k, v in batch.items()})
            loss.backward()
            torch.nn.utils.clip_grad_norm_(others, 1.0)
            for o in optimizers:
                o.step()
                o.zero_grad(set_to_none=True)
            step += 1
            seen += batch["ids"].numel()
            value = float(loss.detach())
            average = value if average is None else 0.98 * average + 0.02 * value
            right = accuracy if right == 0.0 else 0.98 * right + 0.02 * accuracy
            if step % 20 == 0:
                bar.update(task, completed=step, description=f"loss {average:.3f} right {right:.3f}")
            if step % 100 == 0:
                seconds = time.monotonic() - started
                log.write(json.dumps({"step": step, "loss": round(average, 4), "right": round(right, 4), "tokens": seen, "seconds": round(seconds, 1)}) + "\n")
                log.flush()
            if step % 500 == 0 or step == total:
                _save_checkpoint(checkpoint, model, optimizers, step)
    export(model, tok, out / "weights")


def _save_checkpoint(path: Path, model, optimizers, step: int) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step}, temporary)
    temporary.replace(path)


def export(model, tok: Tokenizer, folder: Path) -> None:
    """Writes the model folder that the package ships: half-precision safetensors, config, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    half = build_model().to(torch.float16)
    half.load_state_dict({k: v.to(torch.float16) for k, v in model.state_dict().items()})
    half.save_pretrained(folder)
    tokenizer.save(tok, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("pocket-run"), help="folder for checkpoint, log and weights")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--export", action="store_true", help="only write the weights of the last checkpoint")
    args = parser.parse_args()
    if args.export:
        model = build_model()
        model.load_state_dict(torch.load(args.out / "checkpoint.pt", weights_only=True, map_location="cpu")["model"])
        export(model, Tokenizer.from_file(str(args.out / "tokenizer.json")), args.out / "weights")
    else:
        train(args.out, args.seed, args.threads, args.device)


if __name__ == "__main__":
    main()
