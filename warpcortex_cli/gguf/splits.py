"""Pre-tokenizer patterns of byte-level vocabularies, by their names in GGUF files.

The patterns are those of the models' own tokenizer.json, as llama.cpp quotes them (src/llama-vocab.cpp).
"""

from __future__ import annotations

_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_REST}"
_QWEN2 = rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_REST}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|{_CASED_REST}"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENGLISH}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENGLISH}?"
    rf"|\p{{N}}{{1,3}}|{_CASED_REST}"
)
OWN = "own"  # ByteLevel's own pattern, GPT-2's
_HAN = "[一-龥ࠀ-一가-퟿]+"
_GPT2, _DIGITS = (OWN,), (r"\p{N}", OWN)
_DEEPSEEK_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, r"\p{N}")

_FALCON3 = "falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"
PATTERNS = {
    # Each splits what those before it have left.
    **dict.fromkeys(f"llama3 llama-v3 llama-bpe {_FALCON3} dbrx smaug-bpe chatglm-bpe glm4".split(), (_LLAMA3,)),
    **dict.fromkeys("qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan".split(), (_QWEN2,)),
    "tekken": (_TEKKEN,),
    **dict.fromkeys("gpt-4o llama4 kanana2 talkie".split(), (_GPT4O,)),
    **dict.fromkeys("smollm starcoder refact command-r codeshell exaone minerva-7b".split(), _DIGITS),
    **dict.fromkeys("default gpt-2 gpt2 phi-2 mpt olmo jais trillion exaone4 gigachat a.x-4.0 mellum".split(), _GPT2),
    "deepseek-coder": _DEEPSEEK_CODER,
    "": _GPT2,
}
WHOLE_WORDS_FIRST = {*f"llama3 llama-v3 llama-bpe {_FALCON3} tekken glm4".split()}
BEGIN_WITH_BOS = WHOLE_WORDS_FIRST - {"glm4"}
