"""The tokenizer of a GGUF file: vocabulary, merges, and its family's pre-tokenizer.

transformers 5.24 builds one, too, but falls back to GPT-2's pattern for families it does not know (smollm, starcoder,
command-r, glm4 and others): a blank line before a number then is two tokens, but was one in SmolLM2's training.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from warpcortex_cli.errors import ModelError
from warpcortex_cli.gguf.header import Header
from warpcortex_cli.gguf.served import check_tokenizer
from warpcortex_cli.gguf.splits import BEGIN_WITH_BOS, OWN, PATTERNS, WHOLE_WORDS_FIRST

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_BLANK = "▁"

# Tokens that end a turn in some family, whatever the file's eos is (llama.cpp has the same list).
_ENDS = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>"),
    *("</s>", "<|eom_id|>", "<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>"),
)


def built(header: Header) -> PreTrainedTokenizerFast:
    """The tokenizer, with its chat template.

    Raises:
        ModelError: it is missing, damaged, or of a kind that is not supported.
    """
    check_tokenizer(header)
    try:
        return _built(header)
    except ModelError:
        raise
    except Exception as error:  # tokenizers raises plain Exceptions
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ModelError(
            f"the tokenizer of {header.name} cannot be built: {reason}", "Copy or pull the file again."
        ) from error


def _built(header: Header) -> PreTrainedTokenizerFast:
    tokens = header.strings("tokenizer.ggml.tokens")
    given = list(map(int, header.numbers("tokenizer.ggml.token_type")))
    types = given if len(given) == len(tokens) else [_NORMAL] * len(tokens)
    vocabulary = dict(zip(reversed(tokens), range(len(tokens) - 1, -1, -1), strict=True))  # of equal ones the first
    ids = _special_ids(header, len(tokens))
    spm = header.text("tokenizer.ggml.model") == "llama"
    made = _sentencepiece(header, tokens, types, vocabulary, ids) if spm else _byte_level(header, vocabulary)
    ends = [vocabulary[t] for t in _ENDS if t in vocabulary and types[vocabulary[t]] in (_CONTROL, _USER_DEFINED)]
    special = {n for n, kind in enumerate(types) if kind == _CONTROL} | set(ids.values()) | set(ends)
    # Phi-3's swallow the white space after them, such as the line break after <|user|> in its chat template.
    swallow = special - {ids.get("bos"), ids.get("unk"), vocabulary.get("<|endoftext|>")} if _is_phi3(header) else set()
    made.add_special_tokens(
        [AddedToken(tokens[n], normalized=False, special=True, rstrip=n in swallow) for n in sorted(special)]
    )
    own = [n for n, kind in enumerate(types) if kind == _USER_DEFINED and n not in special]
    made.add_tokens([AddedToken(tokens[n], normalized=False, special=False) for n in own])
    bos = ids.get("bos")
    begins = header.metadata.get("tokenizer.ggml.add_bos_token")
    if begins is None:
        begins = spm or header.text("tokenizer.ggml.pre") in BEGIN_WITH_BOS
    if begins and bos is not None:
        pair = f"{tokens[bos]}:0 $A:0 {tokens[bos]}:1 $B:1"
        made.post_processor = processors.Sequence([
            made.post_processor or processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(f"{tokens[bos]}:0 $A:0", pair, [(tokens[bos], bos)]),
        ])  # fmt: skip
    fast = _Built(
        made,
        vocabulary,
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": tokens[n] for name, n in ids.items()},
    )
    fast.chat_template = header.text("tokenizer.chat_template") or None
    return fast


class _Built(PreTrainedTokenizerFast):
    """Takes a tokenizer as it is, in the way of transformers' own classes; `tokenizer_object` would be copied.

    Args:
        vocabulary: all its tokens, which it would have to be asked for otherwise.
    """

    def __init__(self, made: Tokenizer, vocabulary: dict[str, int], **kwargs: Any) -> None:
        self._tokenizer, self._vocabulary = made, vocabulary
        super().__init__(**kwargs)

    def get_vocab(self) -> dict[str, int]:
        return self._vocabulary


def _is_phi3(header: Header) -> bool:
    return header.text("general.architecture") == "phi3" and header.text("tokenizer.ggml.model") == "llama"


def end_tokens(header: Header) -> list[int]:
    """Ids that end a reply: the file's end of text, turn or message, and known end tokens of other families."""
    tokens = header.strings("tokenizer.ggml.tokens")
    types = header.numbers("tokenizer.ggml.token_type")
    ids = _special_ids(header, len(tokens))
    found = [ids["eos"]] if "eos" in ids else []
    for name in ("eot", "eom"):
        number = header.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if type(number) is int and 0 <= number < len(tokens):
            found.append(number)
    if len(types) == len(tokens):
        kinds = np.asarray(types)
        special = np.flatnonzero((kinds == _CONTROL) | (kinds == _USER_DEFINED)).tolist()
        found += [n for n in special if tokens[n] in _ENDS]
    return list(dict.fromkeys(found))


def _special_ids(header: Header, count: int) -> dict[str, int]:
    """bos, eos, unk and pad, from the file or its family's defaults."""
    usual = {"bos": 1, "eos": 2, "unk": 0} if header.text("tokenizer.ggml.model") == "llama" else {}
    found = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        number = header.metadata.get(f"tokenizer.ggml.{key}_token_id", usual.get(name))
        if type(number) is int and 0 <= number < count:
            found[name] = number
    return found


# -- families ------------------------------------------------------------------------------------------------


def _byte_level(header: Header, vocabulary: dict[str, int]) -> Tokenizer:
    pre = header.text("tokenizer.ggml.pre")
    made = Tokenizer(_merging(header, vocabulary, ignore_merges=pre in WHOLE_WORDS_FIRST))
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in PATTERNS[pre] if pattern != OWN]
    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=OWN in PATTERNS[pre])
    made.pre_tokenizer = pre_tokenizers.Sequence([*splits, bytes_of_words])
    made.decoder = decoders.ByteLevel()
    return made


def _merging(header: Header, vocabulary: dict[str, int], ignore_merges: bool) -> models.BPE:
    """Without merges of tokens that the vocabulary lacks, which some files hold."""
    pairs = header.pairs("tokenizer.ggml.merges")
    if pairs is not None:
        with suppress(Exception):  # it raises plain ones
            return models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=ignore_merges)
    merges = []
    for merge in header.strings("tokenizer.ggml.merges"):
        at = merge.find(" ", 1)
        left, right = merge[:at], merge[at + 1 :]
        if at > 0 and left in vocabulary and right in vocabulary and left + right in vocabulary:
            merges.append((left, right))
    return models.BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges)


def _sentencepiece(
    header: Header, tokens: list[str], types: list[int], vocabulary: dict[str, int], ids: dict[str, int]
) -> Tokenizer:
    made = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges(header, tokens, types, vocabulary),
            unk_token=tokens[ids["unk"]] if "unk" in ids else None,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    replaced = [normalizers.Replace(" ", _BLANK)]
    prefix = header.metadata.get("tokenizer.ggml.add_space_prefix", True)
    made.normalizer = normalizers.Sequence([normalizers.Prepend(_BLANK), *replaced] if prefix else replaced)
    steps = [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return made


def _merges(header: Header, tokens: list[str], types: list[int], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """All pairs of pieces that form a piece, best result first, as sentencepiece merges.

    Scores rank the results, except for Gemma, whose vocabulary is in that order.
    """
    scores = header.numbers("tokenizer.ggml.scores")
    by_score = len(scores) == len(tokens) and not header.architecture.startswith("gemma")
    order = sorted(range(len(tokens)), key=lambda n: (-scores[n], n)) if by_score else range(len(tokens))
    found = []
    for number in order:
        if types[number] not in (_NORMAL, _USER_DEFINED, _UNUSED):
            continue
        piece = tokens[number]
        for at in range(1, len(piece)):
            if piece[:at] in vocabulary and piece[at:] in vocabulary:
                found.append((piece[:at], piece[at:]))
    return found
