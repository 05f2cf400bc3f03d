"""The Prism: the one loaded model that every agent runs on."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from warpcortex_cli.errors import ModelError
from warpcortex_cli.memory.room import Stored
from warpcortex_cli.memory.tail import FIRST_CAPACITY, SLOTS, Slab, Tail, TailPool
from warpcortex_cli.phases import phase
from warpcortex_cli.prism import attention, crowding, native, trials
from warpcortex_cli.prism.adapter_files import base_of, find_adapter, read_config
from warpcortex_cli.prism.adapters import Adapters
from warpcortex_cli.prism.chat_format import ChatFormat
from warpcortex_cli.prism.compile import compile_layers, warm_up
from warpcortex_cli.prism.fingerprint import base_mark
from warpcortex_cli.prism.fused import fuse, fuse_again, fused_layers
from warpcortex_cli.prism.generation import own_sampling, own_stops
from warpcortex_cli.prism.head import Head, PlainHead, Summary, largest
from warpcortex_cli.prism.load import TOKENIZER, WEIGHTS, choose_dtype, choose_quantize, loading
from warpcortex_cli.prism.options import LoadOptions
from warpcortex_cli.prism.quantize import Packed
from warpcortex_cli.prism.quantize import quantize as quantized
from warpcortex_cli.prism.rows import Row, RowResult
from warpcortex_cli.prism.source import ModelSource
from warpcortex_cli.prism.stack import Stack
from warpcortex_cli.prism.step import PackedStep
from warpcortex_cli.prism.support import (
    check_config,
    check_tokenizer,
    check_weights,
    max_context,
    refuse,
    try_out,
)
from warpcortex_cli.prism.trials import Trials, files_of
from warpcortex_cli.prism.weights import source_of
from warpcortex_cli.process import importing

TRIALS = "trials of its layers"  # a phase of a start
__all__ = ["Prism", "Row", "RowResult"]


class Prism:
    """A model, its tokenizer, and one packed forward for rows of any kind.

    Args:
        quantize: "none", or "bf16", "int8" or "int4" for weights of that type on a CPU. It changes `model` itself.
        compiled: compiles the layers that our kernels do not serve, which takes from seconds to a minute. It changes
            `model` itself.
        files: what the model was read from, as given by `trials.files_of`. Trials are not repeated for the same files.
        dtype: the type of a quantized model's activations; None: the model's own.

    Attributes:
        quantize: how weights are stored, as given.
        model, tokenizer: as loaded by transformers; the model's attention now goes through this class.
        name: the user's name for the model.
        chat: how turns of a conversation are written.
        layout: shape, type and device of keys and values; bf16 for a quantized model.
        device, dtype: where it runs, and the type of its hidden states.
        layers, heads, kv_heads, head_dim, hidden_size, vocab_size: the model's sizes.
        scalings: each layer's factor on attention scores.
        rope: its rotary embedding, which moves keys.
        max_context: how many positions it can be run at.
        eos_ids: tokens that end a reply.
        sampling: the sampling settings of the model's own files.
        stops: the stop texts of the same files.
        adapters: its LoRA adapters.

    Raises:
        ModelError: the engine cannot serve this model, with the reason.
        RunError: nothing can be compiled here.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | Future[PreTrainedTokenizerBase],
        name: str,
        quantize: str = "none",
        compiled: bool = False,
        dtype: torch.dtype | None = None,
        files: Sequence[Sequence[object]] | None = None,
    ) -> None:
        config: Any = model.config.get_text_config(decoder=True)
        check_config(model.config, name)
        check_config(config, name)
        decoder = model.get_decoder()
        if not model._can_set_attn_implementation() or decoder is None or decoder is model:
            raise refuse(name, "its attention cannot be exchanged through transformers' attention interface")
        model.eval().requires_grad_(False)
        if source_of(model) is None:  # a source checks what it reads
            check_weights(model, name)
        if quantize != "none":
            with phase(WEIGHTS):
                quantized(model, quantize, dtype or model.dtype)
        with phase(TOKENIZER):
            tokenizer = tokenizer.result() if isinstance(tokenizer, Future) else tokenizer
            check_tokenizer(tokenizer, config.vocab_size, name)
        model.set_attn_implementation(attention.NAME)
        attention.number_layers(decoder)
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.name = name
        self.quantize = quantize
        self.max_context = max_context(config)
        with phase(TRIALS):
            key = trials.key_of(model, files, quantize) if files is not None and not compiled else None
            known = trials.known(key, decoder, config) if key is not None else None
            shape = known.shape if known is not None else try_out(model, decoder, config, name, quantize)
        self.layout, self.heads, self.scalings, self.rope = shape.layout, shape.heads, shape.scalings, shape.rope
        if quantize != "none":
            # Half the bytes of fp32. Attention is computed in this type too: queries and attention outputs are rounded.
            self.layout = replace(shape.layout, dtype=torch.bfloat16)
            if native.usable():
                with phase(TRIALS):
                    known = self._fuse(decoder, known)
        self.layers, self.kv_heads, self.head_dim = (
            self.layout.layers,
            self.layout.kv_heads,
            self.layout.head_dim,
        )
        self.device, self.dtype = shape.layout.device, shape.layout.dtype
        self.hidden_size: int = config.hidden_size
        self.vocab_size: int = config.vocab_size
        with phase(TOKENIZER):
            self.chat = ChatFormat(tokenizer)
        self.eos_ids = self._end_tokens()
        self.sampling = own_sampling(model.generation_config)
        control = set(self.chat.encoder.names.values())
        self.stops = tuple(text for text in own_stops(model.generation_config) if text not in control)
        self.adapters = Adapters(model)
        self._compiled = compiled
        self._states: list[Tensor] = []
        self._head: Head | None = None
        self._stack: Stack | None = None
        self._native = self.device.type == "cpu" and (compiled or quantize != "none") and native.usable()
        # Only our kernels give the same results for any number of threads, and torch would compile its layers again
        # for another number.
        self._crowded = quantize != "none" and not compiled and self._native and crowding.follows()
        # The model's own forward runs the head, so that its caps and scales apply. This hook keeps the head's input.
        decoder.register_forward_hook(lambda _module, _args, out: self._states.append(out[0]))
        if compiled and compile_layers(decoder, name):
            warm_up(lambda n: self.forward([Row([0] * n, list(range(n)), self.new_tail(n), logits="none")]))
        with phase(TRIALS):
            self._head = self._found_head(None if known is None else known.head)
            self._stack = self._found_stack(None if known is None else known.stack)
            if key is not None and known is None:
                found = fused_layers(decoder), self._head is not None, self._stack is not None
                trials.remember(key, Trials(shape, *found))

    @classmethod
    def load(
        cls,
        source: ModelSource,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str = "none",
        compiled: bool = False,
    ) -> Prism:
        """Loads a model; `quantize` and `compiled` as in the class.

        Quantized weights are packed straight from the files and take no other memory on the way.

        Raises:
            ModelError: not found, damaged, or not supported.
            MemoryLimitError: too little memory.
            RunError: nothing can be compiled here.
        """
        return cls.opened(source, LoadOptions(device, dtype, quantize, compiled))

    @classmethod
    def opened(cls, source: ModelSource, options: LoadOptions) -> Prism:
        """The same with the options as one value, in which `quantize` may be auto."""
        options = replace(options, quantize=choose_quantize(source, options))
        with importing():  # nor is garbage looked for among a hundred thousand tokens
            model, tokenizer = loading(source, options)
            dtype, files = choose_dtype(options.dtype, model.device), files_of(source)
            return cls(model, tokenizer, source.name, options.quantize, options.compiled, dtype, files)

    def _fuse(self, decoder: torch.nn.Module, known: Trials | None) -> Trials | None:
        """Fuses layers as remembered or, failing that, by trials. Returns `known` if it was right, else None."""
        if known is not None:
            try:
                fuse_again(decoder, known.fused, self.layout.dtype)
                return known
            except ValueError:
                pass
        fuse(decoder, self.max_context, self.layout.dtype)
        return None

    def open_adapter(self, name: str) -> None:
        """Reads a LoRA adapter, so that rows may be computed with it.

        Args:
            name: a folder as PEFT writes it, or org/name in the Hugging Face cache.

        Raises:
            ModelError: it is missing, damaged, not supported, or made for another model. Then nothing has changed.
        """
        if self._compiled:
            raise ModelError(f"adapters are not supported with --compile, and {name} is one.", "Leave --compile out.")
        folder = find_adapter(name)
        mark = base_of(folder, name)
        if mark is not None and mark != base_mark(self.model):
            base = read_config(folder, name).base_model_name_or_path or "another model"
            said = f"{name} was made for {base}, and {self.name} is another model."
            raise ModelError(said, f"Use it with -m {base}.")
        self.adapters.get(name)

    # -- the forward -----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def forward(self, rows: Sequence[Row]) -> list[RowResult]:
        """Runs all rows in one packed forward and appends their keys and values to their tails.

        Returns:
            A result for each row, in the order of the rows.

        Raises:
            ValueError: a row is empty, lacks positions or lies beyond the context; a tail is full or used
                twice.
                Whenever this raises, the tails are as long as before.
        """
        if not rows:
            return []
        for row in rows:
            if not row.tokens or len(row.tokens) != len(row.positions):
                raise ValueError(f"a row has {len(row.tokens)} tokens and {len(row.positions)} positions")
            if row.positions[-1] >= self.max_context:
                raise ValueError(
                    f"position {row.positions[-1]} is beyond the model's context of {self.max_context} tokens"
                )
        if self._crowded:
            crowding.look()
        step = PackedStep(rows, self.device, self._native)
        tokens = torch.tensor([t for r in step.rows for t in r.tokens], device=self.device)
        positions = torch.tensor([p for r in step.rows for p in r.positions], device=self.device)
        brief = [self._head is not None and not self.adapters.changes_head(row.adapter) for row in step.rows]
        wanted = _wanted(step.rows, brief)
        whole = [place for w in wanted if not w.brief for place in w.logits]
        with self.adapters.running([(row.adapter, len(row.tokens)) for row in step.rows], whole) as step.adapted:
            hidden, logits = self._computed(step, tokens, positions, whole)
        results = self._unpacked(step, wanted, hidden, logits)
        step.commit()
        if self._crowded:
            crowding.over()
        return results

    def _computed(self, step: PackedStep, tokens: Tensor, positions: Tensor, whole: list[int]) -> tuple[Tensor, Tensor]:
        """Hidden states of all tokens, and logits of the tokens at the places `whole`."""
        places = torch.tensor(whole, dtype=torch.long, device=self.device)
        hidden = self._stack.run(step, tokens, positions) if self._stack else None
        if hidden is not None:
            assert isinstance(self._head, Packed)
            return hidden, self._head(hidden[places]) if whole else hidden.new_empty(0, self.vocab_size)
        self._states.clear()
        try:
            with attention.running(step):
                logits = self.model(
                    input_ids=tokens[None], position_ids=positions[None], use_cache=False, logits_to_keep=places
                ).logits[0]
            return self._states.pop()[0], logits
        finally:
            self._states.clear()

    def _found_stack(self, known: bool | None) -> Stack | None:
        """The decoder without the model's Python, if it gives the same; `known`: whether it did before."""
        if known is False or not (self._native and isinstance(self._head, Packed) and self.quantize != "none"):
            return None
        try:
            stack = Stack(self.model.get_decoder())
            return stack if known or self._gives_the_same(stack) else None
        except (AttributeError, LookupError, RuntimeError, TypeError):
            return None
        finally:
            self._stack = None

    def _gives_the_same(self, stack: Stack) -> bool:
        found = []
        for self._stack in (None, stack):
            positions = [0, 7, self.max_context - 1]
            result = self.forward([Row([1, 2, 3], positions, self.new_tail(3), logits="all")])[0]
            found += [t for t in (result.hidden, result.logits) if t is not None]
        theirs, mine = found[:2], found[2:]
        return all(bool((a - b).norm() <= 1e-3 * a.norm()) for a, b in zip(theirs, mine, strict=True))

    def _found_head(self, known: bool | None) -> Head | None:
        """The head, if its output is the logits, so that greedy rows need not hold them all; `known`: whether it is."""
        head = self.model.get_output_embeddings()
        if known is False or not isinstance(head, (Packed, nn.Linear)):
            return None
        if known is None:
            trial = self.forward([Row([1, 2, 3], [0, 1, 2], self.new_tail(3), logits="all")])[0]
            if trial.logits is None or not torch.equal(head(trial.hidden), trial.logits):
                return None
        return head if isinstance(head, Packed) else PlainHead(head)

    def _unpacked(self, step: PackedStep, wanted: Sequence[_Wanted], hidden: Tensor, logits: Tensor) -> list[RowResult]:
        """Each row's share of hidden [T, hidden_size] and logits [wanted, vocabulary], in the caller's order."""
        results: dict[int, RowResult] = {}
        tops = largest(logits)  # for all rows at once, which is much faster than one by one
        brief = [w.logits[0] for w in wanted if w.brief]
        summaries: dict[int, Summary] = {}
        if self._head and brief:
            places = torch.tensor(brief, device=self.device)
            found = self._head.summarize(hidden[places], any(r.logsumexp for r in step.rows))
            summaries = dict(zip(brief, found, strict=True))
        place = 0
        for packed, want in enumerate(wanted):
            mine = best = logsumexp = None
            if want.brief:
                value, token, logsumexp = summaries[want.logits[0]]
                best = value, token
            elif want.logits:
                place += len(want.logits)
                mine, best = logits[place - len(want.logits) : place], tops[place - 1]
            results[step.order[packed]] = RowResult(
                logits=mine,
                largest=best,
                logsumexp=logsumexp,
                hidden=hidden[want.own.start : want.own.stop],
                queries=step.queries(packed),
            )
        return [results[i] for i in range(len(results))]

    def new_tail(self, capacity: int | None = None) -> Tail:
        """A tail with room of its own: `capacity` tokens, or growing if that is None."""
        if capacity is None:
            return Tail(Slab(self.layout, 1, FIRST_CAPACITY, apart=True), growing=True)
        return Tail(Slab(self.layout, 1, max(1, capacity)))

    def new_pool(self, capacity: int, slots: int = SLOTS, stored: Stored = "model") -> TailPool:
        """A pool of tails of `capacity` tokens each, whose slabs hold `slots` tails."""
        return TailPool(self.layout, capacity, slots, stored)

    # -- text ------------------------------------------------------------------------------------------------

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text. Names of control tokens in it are plain text unless `special` is set."""
        return self.chat.encoder.written(text) if special else self.chat.encoder.ids(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens are left out."""
        # Of the tokenizers package itself: what transformers does around it costs five times as much as the decoding,
        # twice for each token of each agent.
        text: str = self.tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    # -- sizes -----------------------------------------------------------------------------------------------

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all weights; tied ones count once."""
        return sum({t.data_ptr(): t.nbytes for t in self.model.parameters()}.values())

    def logits_bytes(self, rows: int) -> int:
        """Bytes of logits held at once in a step of this many greedy rows."""
        return self._head.logits_bytes(rows) if self._head else rows * self.vocab_size * self.dtype.itemsize

    def _end_tokens(self) -> set[int]:
        generation = getattr(self.model, "generation_config", None)
        ends = {self.tokenizer.eos_token_id, self.chat.turn_end}
        given = getattr(generation, "eos_token_id", None)
        ends.update(given if isinstance(given, list) else [given])
        stops = own_stops(generation)  # control tokens are never decoded, so they are found by number
        ends.update(token for token, name in self.chat.encoder.names.items() if name in stops)
        return {e for e in ends if e is not None}


@dataclass(frozen=True)
class _Wanted:
    """A row's places among packed tokens: all, and those whose logits are wanted. `brief`: only the largest logit."""

    own: range
    logits: range
    brief: bool


def _wanted(rows: Sequence[Row], can_be_brief: Sequence[bool]) -> list[_Wanted]:
    found = []
    end = 0
    for row, brief in zip(rows, can_be_brief, strict=True):
        own = range(end, end + len(row.tokens))
        end = own.stop
        count = {"none": 0, "all": len(own)}.get(row.logits, 1)
        found.append(_Wanted(own, own[len(own) - count :], brief and row.logits == "largest"))
    return found
