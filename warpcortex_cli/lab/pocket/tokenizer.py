"""pocket's tokenizer: a small byte-fallback BPE in which a word has the same tokens everywhere.

Digits are single tokens. A word always includes its leading space, also at the start of a line, and a plural `s` is a
separate token, so that `rope` and `ropes` share their stem: the model matches names by equal tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from warpcortex_cli.lab.pocket import conversation
from warpcortex_cli.pocket.vocabulary import Words

VOCAB_SIZE = 1024
PAD = "<|pad|>"
SPECIAL = [PAD, conversation.END, conversation.USER, conversation.ASSISTANT]
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}<|assistant|>{{ message['content'] }}<|end|>"
    "{%- else -%}<|user|>{{ message['content'] }}<|end|>{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
_WORDS = r"▁?\p{L}{3,}?(?=s(?!\p{L}))|s(?!\p{L})|▁?\p{L}+|\d|\n|▁?[^\p{L}\d\n▁]|▁"


def build(sample_seed: int = 7, conversations: int = 6000) -> Tokenizer:
    """Trains the BPE on generated conversations."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=None, fuse_unk=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Prepend("▁"),
            normalizers.Replace(Regex(r"\A▁(?=\s)"), ""),
            normalizers.Replace(Regex(r"\n(?!\z)"), "\n▁"),  # the end of a text does not begin a line
            normalizers.Replace(" ", "▁"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Replace("\n▁", "\n"),
            decoders.Replace("▁", " "),
            decoders.Strip(" ", 1, 0),
        ]
    )
    byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIAL] + byte_tokens,
        initial_alphabet=[chr(c) for c in range(32, 127)] + ["\n", "▁"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(sample_seed, conversations), trainer)
    return _with_plain_bytes(tokenizer, byte_tokens)


def _with_plain_bytes(tokenizer: Tokenizer, byte_tokens: list[str]) -> Tokenizer:
    """Byte tokens must be plain vocabulary, not special ones, or they would vanish from decoded text."""
    import json

    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] not in set(byte_tokens)]
    return Tokenizer.from_str(json.dumps(state))


def _sample(seed: int, conversations: int) -> Iterator[str]:
    words = Words(random.Random(seed), made_up_share=0.5)
    for _ in range(conversations):
        pieces = conversation.conversation(words, words.rng.randint(2, 8), 500, conversation.Mix(talk=2.0))
        pieces += conversation.sums(words, 40)
        if words.rng.random() < 0.3:
            pieces += conversation.reading(words, 4)
        yield "\n".join(p.text for p in pieces if not p.special)


def save(tokenizer: Tokenizer, folder: Path) -> PreTrainedTokenizerFast:
    """Writes the files that transformers reads."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=conversation.END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return fast
