"""Trains pocket: `python -m warpcortex_cli.lab.pocket.train --out FOLDER`, resumable, on 2 CPU cores.

A second process generates the conversations; this one trains. Small batches win: copying and recall appear after some
thousand steps, whatever the batch size.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, Full
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from warpcortex_cli.lab.pocket import conversation, tokenizer
from warpcortex_cli.lab.pocket.conversation import DEFAULT_MIX, Mix, Piece
from warpcortex_cli.pocket.vocabulary import ADJECTIVES, COLOURS, PLACES, Words


@dataclass(frozen=True)
class Stage:
    """A lesson: `steps` of `rows` conversations of about `budget` characters over `notes` (from, to) sentences.

    Attributes:
        mostly_few: half as many notes come up as often as twice as many, instead of each number as often.
        rates: the learning rate at its beginning and end, of the highest; CURRICULUM and FINISH have their own.
        warm: steps in which the rate rises from nothing.
    """

    steps: int
    rows: int
    notes: tuple[int, int]
    budget: int
    sums: int  # characters of Streams that calculate, beside the conversations
    readings: int = 1  # Streams that read a focus set
    copying: float = 0.0
    mostly_few: bool = False
    rates: tuple[float, float] = (1.0, 1.0)
    warm: int = 1
    mix: Mix = DEFAULT_MIX
    shares: tuple[float, float, float] = (0.5, 0.3, 0.2)  # of conversations, calculations, readings in a step's loss

    def draw_notes(self, rng: random.Random) -> int:
        fewest, most = self.notes
        return round(fewest * (most / fewest) ** rng.random()) if self.mostly_few else rng.randint(fewest, most)


CURRICULUM = (
    Stage(700, 6, (2, 6), 320, 900, readings=2, copying=0.15, mix=Mix(recall=8, delegated=4, talk=0.2)),
    Stage(2200, 5, (2, 9), 520, 900, mix=Mix(recall=7, delegated=8)),
    Stage(1100, 3, (3, 16), 950, 700),
    Stage(1300, 3, (3, 16), 950, 700, mix=Mix(chopped=0.5)),
    Stage(1700, 2, (5, 26), 1600, 600, mix=Mix(chopped=0.5)),
    Stage(1100, 1, (12, 45), 2600, 1500, readings=2, mix=Mix(chopped=0.5), shares=(0.35, 0.45, 0.2)),
    Stage(500, 1, (25, 75), 4000, 1250, readings=2, mix=Mix(chopped=0.5), shares=(0.35, 0.45, 0.2)),
)
# A short second round at a low rate, with more of what is learnt last: reading Streams.
FINISH = Stage(4700, 1, (10, 45), 2600, 1000, readings=3, mix=Mix(chopped=0.5), shares=(0.35, 0.25, 0.4))
FINISH_RATE = 0.4
# Sums of two to five terms in any wording, mixed with the earlier lessons. The loss weighs the choice of a sum's next
# term more. The second part also asks in meaningless words. The third repeats what suffers from so many sums: above all
# reading Streams.
_SUMS = Stage(
    1400, 1, (3, 45), 2500, 500, readings=2, mostly_few=True, rates=(0.6, 0.367), warm=50, shares=(0.45, 0.2, 0.35),
    mix=Mix(recall=4, delegated=12, totals=14, chopped=0.5, chosen=5.0),
)  # fmt: skip
_INVENTED = replace(
    _SUMS, steps=900, rates=(0.4, 0.0), warm=1, mix=replace(_SUMS.mix, recall=5, totals=9, invented=0.3)
)
_AGAIN = replace(
    _INVENTED, steps=1500, readings=3, rates=(0.3, 0.0), warm=20, shares=(0.4, 0.2, 0.4),
    mix=replace(_INVENTED.mix, totals=12, invented=0.15, chosen=3.0),
)  # fmt: skip
SUMS = (_SUMS, _INVENTED, _AGAIN)
# The same sums in many more wordings, and Streams that add more numbers: four and five were their weakness.
_WORDED = replace(
    _SUMS, steps=1600, budget=3400, sums=750, readings=1, rates=(0.5, 0.3), shares=(0.5, 0.25, 0.25),
    mix=replace(_SUMS.mix, recall=3, totals=30, invented=0.2, worded=0.6, numbers=(2, 2, 3, 5)),
)  # fmt: skip
_SETTLED = replace(
    _WORDED, steps=1200, budget=2800, readings=3, rates=(0.3, 0.0), warm=1, shares=(0.4, 0.2, 0.4),
    mix=replace(_WORDED.mix, recall=5, totals=14, invented=0.15, chosen=3.0),
)  # fmt: skip
WORDS = (_WORDED, _SETTLED)
# Lessons for finished weights. The result is averaged with the initial weights, which have the share KEPT: without it,
# reading for a place falls to 83 % after SUMS.
LATER = {"sums": SUMS, "words": WORDS}
KEPT = 0.25
LESSONS = (*CURRICULUM, FINISH, *(stage for lesson in LATER.values() for stage in lesson))


def span(lesson: str) -> tuple[int, int]:
    """The steps, from and to, of a lesson of LATER."""
    start = sum(stage.steps for stage in (*CURRICULUM, FINISH))
    for name, stages in LATER.items():
        end = start + sum(stage.steps for stage in stages)
        if name == lesson:
            return start, end
        start = end
    raise KeyError(lesson)


MATRIX_LR, CIRCUIT_LR, EMBEDDING_LR, VECTOR_LR = 0.005, 0.0012, 5e-4, 2e-3
DECAY_SHARE = 0.5


def config() -> dict[str, Any]:
    """The shape of the model, for transformers' Qwen2Config."""
    return {
        "vocab_size": tokenizer.VOCAB_SIZE,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "rope_theta": 1e8,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }


def _causal(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    groups = query.shape[1] // key.shape[1]
    out = F.scaled_dot_product_attention(
        query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), is_causal=True, scale=scaling
    )
    return out.transpose(1, 2).contiguous(), None


def build_model() -> Any:
    """A newly initialised Qwen2 with plain causal attention, which respects virtual positions."""
    from transformers import AttentionInterface, AttentionMaskInterface, Qwen2Config, Qwen2ForCausalLM

    AttentionInterface.register("pocket_causal", _causal)
    AttentionMaskInterface.register("pocket_causal", lambda *a, **k: None)
    return Qwen2ForCausalLM._from_config(Qwen2Config(**config()), attn_implementation="pocket_causal")


TOKEN_DIMS, WORD_DIMS, HEAD_WRITES = 96, 40, 40


_FRAME = """One s costs price coins keeps has have do does did The the of in at behind under near on about About How
many Where are is What what colour number total more than Does True or false true it that Who else things
where Tell me say notes know recall math check who beside yes no That In They cost
' : , . ? = [ ] + - * > < 0 1 2 3 4 5 6 7 8 9"""


def word_weights(tok: Tokenizer) -> torch.Tensor:
    """How well each token identifies its note, [vocab_size], 0..1.

    Names and things identify notes; digits, colours, places and the frame of sentences do not. The first token of a
    word counts more than the others, or a long name would outweigh a short thing.
    """
    starts = torch.tensor([(tok.id_to_token(i) or "").startswith("▁") for i in range(tok.get_vocab_size())])
    weights = torch.where(starts, 0.95, 0.6)
    weights[: len(tokenizer.SPECIAL)] = 0.0
    for word in (*_FRAME.split(), *COLOURS, *ADJECTIVES, *PLACES):
        ids = tok.encode(word).ids
        for quiet in ids if not word.isalpha() else ids[: len(ids) == 1]:
            weights[quiet] = 0.0
    for mark in ("▁", "\n", "s"):
        weights[tok.token_to_id(mark)] = 0.0
    return weights


@torch.no_grad()
def help_recall(model: Any, words: torch.Tensor, sharpness: float = 6.0, match: float = 1.3, copy: float = 0.1) -> None:
    """Starts with the circuit of recall, which chance takes thousands of steps to find.

    Embeddings have their own subspace, with identifying words in a part of it. Layer 0, through q and k biases on RoPE
    pairs alone: two heads attend exactly 1 and 2 tokens back; two average the identifying words of about the last 16
    and the last 24 tokens, so that `Mara keeps ropes:` matches `The ropes of Mara:`. Each writes into its own subspace.
    Layers 1 and 2: a query matches its own token as predecessor and its averaged words, in RoPE pairs too slow to
    rotate within a long context, and copies what it finds. One head of layer 2 matches tokens with the same two
    predecessors as its own: is the place just read the wanted one?

    Args:
        words: `word_weights` of the tokenizer.
    """
    c = model.config
    size, half, hidden = c.head_dim, c.head_dim // 2, c.hidden_size
    group = c.num_attention_heads // c.num_key_value_heads
    frequency = c.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    basis = torch.linalg.qr(torch.randn(hidden, hidden))[0]
    telling, other, writes = basis.split((WORD_DIMS, TOKEN_DIMS - WORD_DIMS, hidden - TOKEN_DIMS), dim=1)
    token_space, writes = basis[:, :TOKEN_DIMS], writes.split(HEAD_WRITES, dim=1)
    embeddings = model.model.embed_tokens.weight
    norm = 0.4
    for layer in model.model.layers:  # the random part must not drown the built circuit
        layer.mlp.down_proj.weight *= 0.2
        layer.self_attn.o_proj.weight *= 0.2
    inside, outside = (F.normalize(torch.randn(len(words), d)) for d in (WORD_DIMS, TOKEN_DIMS - WORD_DIMS))
    embeddings.copy_(norm * (words[:, None] * inside @ telling.T + (1 - words**2).sqrt()[:, None] * outside @ other.T))
    copies = (token_space @ torch.linalg.qr(torch.randn(TOKEN_DIMS, size))[0]).T  # [size, hidden]
    reads = (token_space @ torch.linalg.qr(torch.randn(TOKEN_DIMS, HEAD_WRITES))[0]).T

    first = model.model.layers[0].self_attn
    sharp, soft = frequency > 0.03, (frequency < 0.12) & (frequency > 0.009)
    looks = (
        (1.0, sharp, sharpness),
        (2.0, sharp, sharpness),
        (8.0, soft, 0.7 * sharpness),
        (12.0, soft, 0.5 * sharpness),
    )
    for kv, read in enumerate((reads, telling.T)):
        first.v_proj.weight[kv * size : kv * size + HEAD_WRITES] = read
        first.k_proj.weight[kv * size : (kv + 1) * size] *= 0.1
        first.k_proj.bias[kv * size : kv * size + half] = sharpness
    for head, (back, pairs, strength) in enumerate(looks):
        rows = slice(head * size, (head + 1) * size)
        turned = strength * pairs * torch.stack((torch.cos(back * frequency), -torch.sin(back * frequency)))
        first.q_proj.weight[rows] *= 0.1
        first.q_proj.bias[rows] = turned.flatten()
        gain = 0.05 if head < 2 else 0.2
        first.o_proj.weight[:, head * size : head * size + HEAD_WRITES] = gain * writes[head]

    slow = torch.cat([torch.arange(half - HEAD_WRITES // 2, half)] * 2)
    slow[HEAD_WRITES // 2 :] += half

    def rotation() -> torch.Tensor:
        return torch.linalg.qr(torch.randn(HEAD_WRITES, HEAD_WRITES))[0] * match

    def attend(
        layer: int, kv: int, asks: torch.Tensor, offers: torch.Tensor, takes: torch.Tensor, gives: torch.Tensor
    ) -> None:
        """Sets one KV head and its query heads: query, key, value and output projections, all [n, hidden]."""
        attention = model.model.layers[layer].self_attn
        attention.k_proj.weight[kv * size + slow] = offers
        attention.v_proj.weight[kv * size : kv * size + len(takes)] = takes
        for head in range(kv * group, (kv + 1) * group):
            attention.q_proj.weight[head * size + slow] = asks
            attention.o_proj.weight[:, head * size : head * size + len(gives)] = copy * gives.T

    for layer, kv in ((1, 0), (1, 1), (2, 1)):
        by_token, by_words, gathered = rotation(), rotation(), writes[2 + kv].T
        asks, offers = 2 * by_token @ reads + by_words @ gathered, by_token @ writes[0].T + by_words @ gathered
        attend(layer, kv, asks, offers, copies, copies)
    same = rotation() @ writes[0].T + rotation() @ writes[1].T
    attend(2, 0, same, same, copies, copies)


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
        new: list[int] = [tok.token_to_id(p.text)] if p.special else next(encoded).ids  # type: ignore[list-item]
        if p.keep is not None:
            kept = sorted(random.Random(sum(new)).sample(range(len(new)), min(p.keep, len(new))))
            positions += [here + i for i in kept]
            here += len(new)
            new = [new[i] for i in kept]
        elif p.aside:
            positions += range(here - len(new), here)
        else:
            positions += range(here, here + len(new))
            here += len(new)
        ids += new
        # In the engine no River token predicts an aside, and no aside token predicts the River.
        weights += [0.0 if (p.aside or after_aside) and i == 0 else p.learn for i in range(len(new))]
        after_aside = p.aside
    return ids[:limit], positions[:limit], weights[:limit]


Batch = list[dict[str, torch.Tensor]]


def make_batch(tok: Tokenizer, rng: random.Random, stage: Stage, inline: bool = False) -> Batch:
    """The batch of one step: conversations, and calculating Streams, which are shorter.

    `inline`: the same questions for a River that writes the Streams' steps itself.
    """
    rows: list[Sequence] = []
    notes = stage.draw_notes(rng)
    for _ in range(stage.rows):
        words = Words(rng, "train", rng.choice((0.3, stage.mix.made_up, 0.9)), stage.mix.chopped)
        if rng.random() < stage.copying:
            pieces = conversation.copying(words, rng.randint(2, 6))
        elif rng.random() < 0.02 * stage.mix.talk / 0.3:
            pieces = conversation.small_talk(words)
        else:
            pieces = conversation.conversation(words, notes, stage.budget, stage.mix, inline)
        rows.append(encode(tok, pieces, 3600))
    each = 250
    words = Words(rng, "train", stage.mix.made_up, stage.mix.chopped)
    sums = [encode(tok, conversation.sums(words, each, stage.mix.numbers), 600) for _ in range(stage.sums // each)]
    readings = [encode(tok, conversation.reading(words, notes), 3600) for _ in range(stage.readings)]
    return [_pad(part) for part in (rows, sums, readings)]


def _pad(rows: list[Sequence]) -> dict[str, torch.Tensor]:
    """ids, positions and loss weights, [rows, tokens]."""
    width = max(len(r[0]) for r in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    weights = torch.zeros(len(rows), width)
    for i, (a, b, c) in enumerate(rows):
        ids[i, : len(a)], positions[i, : len(a)], weights[i, : len(a)] = (
            torch.tensor(a),
            torch.tensor(b),
            torch.tensor(c),
        )
    return {"ids": ids, "positions": positions, "weights": weights}


def _producer(tok_json: str, seed: int, steps: range, queue: Any, curriculum: tuple[Stage, ...], inline: bool) -> None:
    torch.set_num_threads(1)
    os.nice(5)
    tok = Tokenizer.from_str(tok_json)
    for step in steps:
        parts = make_batch(tok, random.Random(seed * 1_000_003 + step), _stage_at(step, curriculum), inline)
        # By value: tensors are sent as handles, which die with this process while batches are still queued.
        _put(queue, [{name: tensor.numpy() for name, tensor in part.items()} for part in parts])
    _put(queue, None)


def _put(queue: Any, item: Any) -> None:
    """Waits for room in the queue, but not if the trainer was killed."""
    trainer = mp.parent_process()
    while True:
        try:
            return queue.put(item, timeout=5)
        except Full:
            if trainer is not None and not trainer.is_alive():
                queue.cancel_join_thread()
                sys.exit()


def batches(
    tok: Tokenizer, seed: int, steps: range, curriculum: tuple[Stage, ...], inline: bool = False
) -> Iterator[Batch]:
    """The batches of these steps, generated by a second process."""
    context = mp.get_context("spawn")
    queue = context.Queue(maxsize=24)
    arguments = (tok.to_str(), seed, steps, queue, curriculum, inline)
    worker = context.Process(target=_producer, args=arguments, daemon=True)
    worker.start()
    while True:
        try:
            batch = queue.get(timeout=5)
        except Empty:
            if worker.is_alive():
                continue
            raise RuntimeError("the process that generates the batches has ended") from None
        if batch is None:
            return
        yield [{name: torch.from_numpy(values) for name, values in part.items()} for part in batch]


def loss_of(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
    """The weighted next-token loss, and the share of learned tokens predicted right."""
    hidden = model.model(input_ids=batch["ids"], position_ids=batch["positions"], use_cache=False).last_hidden_state
    weights = batch["weights"][:, 1:]
    where = weights > 0
    logits = model.lm_head(hidden[:, :-1][where])
    target, w = batch["ids"][:, 1:][where], weights[where]
    loss = (F.cross_entropy(logits, target, reduction="none") * w).sum() / w.sum()
    right = ((logits.argmax(-1) == target).float() * w).sum() / w.sum()
    return loss, float(right)


def _orthogonalised(
    gradient: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """Newton-Schulz steps towards the nearest orthogonal matrix, as torch's Muon takes them, but in fp32.

    torch takes them in bfloat16. On a CPU without it (AVX2) a step of pocket's training then takes 11 s instead of 2.
    """
    a, b, c = coefficients
    tall = gradient.shape[0] > gradient.shape[1]
    x = gradient.T if tall else gradient
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def optimizers_of(model: Any) -> list[torch.optim.Optimizer]:
    """Muon for matrices, AdamW for the rest. What `help_recall` built has a low rate, or it would soon be undone.

    Recall and copying appear as sudden drops after some number of steps; with Muon (Jordan et al., 2024,
    https://kellerjordan.github.io/posts/muon) after fewer of them than with AdamW.
    """
    built = {f"layers.{n}.self_attn.{p}.weight" for n in range(3) for p in ("q_proj", "k_proj", "v_proj", "o_proj")}
    groups: dict[str, list[torch.nn.Parameter]] = {"matrix": [], "circuit": [], "embedding": [], "vector": []}
    for name, parameter in model.model.named_parameters():
        kind = "embedding" if "embed" in name else "circuit" if name in built else "matrix"
        groups[kind if parameter.ndim == 2 else "vector"].append(parameter)
    rates = {"matrix": MATRIX_LR, "circuit": CIRCUIT_LR, "embedding": EMBEDDING_LR, "vector": VECTOR_LR}
    named = {k: {"params": v, "lr": rates[k], "initial_lr": rates[k]} for k, v in groups.items()}
    torch.optim._muon._zeropower_via_newtonschulz = _orthogonalised  # type: ignore[assignment]
    return [
        torch.optim.Muon([named["matrix"], named["circuit"]], momentum=0.95, weight_decay=0.01, ns_steps=4),
        torch.optim.AdamW([named["embedding"], named["vector"]], betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _stage_at(step: int, curriculum: tuple[Stage, ...]) -> Stage:
    for stage in curriculum:
        if step < stage.steps:
            return stage
        step -= stage.steps
    return curriculum[-1]


def schedule(step: int) -> float:
    """Warm-up, a plateau, linear decay to 0; then the same decay again, lower; then the rates of LATER."""
    total = sum(stage.steps for stage in CURRICULUM)
    if step < total:
        warm = min(1.0, (step + 1) / 100)
        left = (total - step) / (total * DECAY_SHARE)
        return warm * min(1.0, max(left, 0.01))
    step -= total
    if step < FINISH.steps:
        return FINISH_RATE * (1 - step / FINISH.steps)
    step -= FINISH.steps
    for stage in LESSONS[len(CURRICULUM) + 1 :]:
        if step < stage.steps:
            first, last = stage.rates
            return min(1.0, (step + 1) / stage.warm) * (first + (last - first) * step / stage.steps)
        step -= stage.steps
    return 0.0


def train(
    out: Path,
    seed: int,
    threads: int,
    device: str,
    start: Path | None = None,
    lesson: str = "words",
    inline: bool = False,
) -> None:
    """Runs the lessons from the last checkpoint in `out`, or from the start.

    `start`: a folder of weights from which one `lesson` of LATER is learnt. `inline`: see `make_batch`.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    tok_file = (start or out) / "tokenizer.json"
    tok = Tokenizer.from_file(str(tok_file)) if tok_file.exists() else tokenizer.build()
    tokenizer.save(tok, out)
    model, step, total = build_model(), 0, sum(stage.steps for stage in LESSONS)
    if start:
        load_weights(model, start)
        step, total = span(lesson)
    else:
        help_recall(model, word_weights(tok))
    model.to(device)
    optimizers = optimizers_of(model)
    others = [p for group in optimizers[1].param_groups for p in group["params"]]
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for o, s in zip(optimizers, state["optimizers"], strict=True):
            o.load_state_dict(s)
        step = state["step"]
    started, seen, resumed = time.monotonic(), 0, step
    loss_mean, right = [0.0] * 3, [0.0] * 3  # by conversations, sums, readings
    log = (out / "log.jsonl").open("a")
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with bar:
        task = bar.add_task("pocket", total=total, completed=step)
        for batch in batches(tok, seed, range(step, total), LESSONS, inline):
            factor = schedule(step)
            for o in optimizers:
                for group in o.param_groups:
                    group["lr"] = group["initial_lr"] * factor
            losses, accuracies = [], []
            for part, share in zip(batch, _stage_at(step, LESSONS).shares, strict=True):
                loss, accuracy = loss_of(model, {k: v.to(device) for k, v in part.items()})
                (loss * share).backward()
                losses.append(float(loss.detach()))
                accuracies.append(accuracy)
            torch.nn.utils.clip_grad_norm_(others, 1.0)
            for o in optimizers:
                o.step()
                o.zero_grad(set_to_none=True)
            step += 1
            seen += sum(part["ids"].numel() for part in batch)
            newest = max(0.02, 1 / (step - resumed))
            loss_mean = [a + newest * (b - a) for a, b in zip(loss_mean, losses, strict=True)]
            right = [a + newest * (b - a) for a, b in zip(right, accuracies, strict=True)]
            if step % 20 == 0:
                bar.update(
                    task,
                    completed=step,
                    description=f"loss {loss_mean[0]:.3f} right " + " ".join(f"{r:.3f}" for r in right),
                )
            if step % 50 == 0:
                seconds = time.monotonic() - started
                log.write(
                    json.dumps({"step": step, "loss": loss_mean, "right": right, "tokens": seen, "seconds": seconds})
                    + "\n"
                )
                log.flush()
            if step % 100 == 0 or step == total:
                _save_checkpoint(checkpoint, model, optimizers, step)
    finish(model, start)
    export(model, tok, out / "weights")


@torch.no_grad()
def finish(model: Any, start: Path | None) -> None:
    """Averages the weights with those before the lesson, so that less is forgotten.

    Wortsman et al., "Robust fine-tuning of zero-shot models", 2022.
    """
    if start is None:
        return
    before = build_model()
    load_weights(before, start)
    for now, then in zip(model.parameters(), before.parameters(), strict=True):
        now.lerp_(then.to(now.device), KEPT)


def load_weights(model: Any, folder: Path) -> None:
    """The weights of a model folder, as `export` writes it."""
    from safetensors.torch import load_file

    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)  # the tied head is stored once


def _save_checkpoint(path: Path, model: Any, optimizers: list[torch.optim.Optimizer], step: int) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(
        {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step}, temporary
    )
    temporary.replace(path)


def export(model: Any, tok: Tokenizer, folder: Path) -> None:
    """Writes the model folder that the package ships: half-precision safetensors, config, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    half = build_model().to(torch.float16)
    half.load_state_dict({k: v.to(torch.float16) for k, v in model.state_dict().items()})
    half.save_pretrained(folder)
    tokenizer.save(tok, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("pocket-run"), help="folder for checkpoint, log and weights")
    parser.add_argument("--from", dest="start", type=Path, help="weights to start one lesson from")
    parser.add_argument("--lesson", choices=list(LATER), default="words", help="the lesson of --from")
    parser.add_argument("--inline", action="store_true", help="the control: the River writes the Streams' steps itself")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--export", action="store_true", help="only write the weights of the last checkpoint")
    args = parser.parse_args()
    if args.export:
        model = build_model()
        model.load_state_dict(torch.load(args.out / "checkpoint.pt", weights_only=True, map_location="cpu")["model"])
        finish(model, args.start)
        export(model, Tokenizer.from_file(str(args.out / "tokenizer.json")), args.out / "weights")
    else:
        train(args.out, args.seed, args.threads, args.device, args.start, args.lesson, args.inline)


if __name__ == "__main__":
    main()
