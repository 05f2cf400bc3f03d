"""Tokenizers out of GGUF metadata: families, how text is split, special tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter

from tests.conftest import make_tokenizer
from tests.gguf.files import _add, write_model
from warpcortex_cli.errors import ModelError
from warpcortex_cli.gguf.header import Header, read_header
from warpcortex_cli.gguf.splits import PATTERNS
from warpcortex_cli.gguf.tokenizer import built, end_tokens
from warpcortex_cli.prism.chat_format import encode

BYTES = [f"<0x{n:02X}>" for n in range(256)]
TEXTS = [
    "Mara keeps ropes: 47.",
    " two  words",
    "it's 5's",
    "\n\n12\n",
    "x = [1]\t# é 🦊",
    "",
    "  ",
    "a  b   c",
    "\r\n\r\n!",
]


def header(path: Path, metadata: dict[str, Any], architecture: str = "llama") -> Header:
    writer = GGUFWriter(path, architecture)
    for key, value in metadata.items():
        _add(writer, key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return read_header(path)


def sentencepiece(tokens: list[str], types: dict[int, int] | None = None, **more: Any) -> dict[str, Any]:
    """A vocabulary of pieces behind <unk>, <s>, </s> and the bytes; an earlier piece is a better one."""
    every = ["<unk>", "<s>", "</s>", *BYTES, *tokens]
    kinds = [2, 3, 3] + [6] * 256 + [1] * len(tokens)
    for number, kind in (types or {}).items():
        kinds[259 + number] = kind
    scores = [0.0] * 259 + [-float(n) for n in range(len(tokens))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": every,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": scores,
        **{f"tokenizer.{key}": value for key, value in more.items()},
    }


def pieces(tokenizer: Any, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_byte_level(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """The tokenizer that the file was written from."""
    write_model(model_folder("qwen2"), tmp_path / "x.gguf")
    found, given = built(read_header(tmp_path / "x.gguf")), make_tokenizer()
    assert len(found) == len(given)
    for text in [*TEXTS, "<|im_start|>user\nhi<|im_end|>\n"]:
        ids = found(text)["input_ids"]
        assert ids == given(text)["input_ids"]
        assert found.decode(ids) == text
    turn = [{"role": "user", "content": "Where?"}]
    assert found.apply_chat_template(turn, tokenize=False) == given.apply_chat_template(turn, tokenize=False)
    assert (found.bos_token, found.eos_token, found.pad_token) == ("<|bos|>", "<|im_end|>", "<|pad|>")
    words = "obey<|im_end|>"
    assert found.eos_token_id not in encode(found, words) and found.decode(encode(found, words)) == words


LINE = "a  2\n\n34 Mara's 12345 é\u0301x !!\n  5"
SPLITS = {
    "gpt-2": ["a", "Ġ", "Ġ2", "Ċ", "Ċ", "34", "ĠMara", "'s", "Ġ12345"],
    "smollm": ["a", "ĠĠ", "2", "ĊĊ", "3", "4", "ĠMara", "'s", "Ġ", "1", "2", "3", "4", "5"],
    "qwen2": ["a", "Ġ", "Ġ", "2", "ĊĊ", "3", "4", "ĠMara", "'s", "Ġ", "1", "2", "3", "4", "5"],
    "llama-bpe": ["a", "Ġ", "Ġ", "2", "ĊĊ", "34", "ĠMara", "'s", "Ġ", "123", "45"],
    "tekken": ["a", "Ġ", "Ġ", "2", "ĊĊ", "3", "4", "ĠMara", "'s", "Ġ", "1", "2", "3", "4", "5"],
    "gpt-4o": ["a", "Ġ", "Ġ", "2", "ĊĊ", "34", "ĠMara's", "Ġ", "123", "45"],
    "deepseek-coder": ["a", "ĠĠ", "2", "Ċ", "Ċ", "3", "4", "ĠMara", "'", "s", "Ġ", "1", "2", "3", "4", "5"],
}


@pytest.mark.parametrize("pre", SPLITS)
def test_how_text_is_split(pre: str, tmp_path: Path) -> None:
    """As the models' own tokenizers split it: numbers by digits or by three, blank lines before them in one."""
    alphabet = sorted(make_tokenizer().get_vocab())
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": alphabet}
    found = built(header(tmp_path / "x.gguf", {**metadata, "tokenizer.ggml.merges": ["a b"]}))
    parts = [part for part, _ in found.backend_tokenizer.pre_tokenizer.pre_tokenize_str(LINE)]
    assert parts[: len(SPLITS[pre])] == SPLITS[pre]


def test_every_pattern_can_be_used(tmp_path: Path) -> None:
    alphabet = sorted(make_tokenizer().get_vocab())
    for number, pre in enumerate(PATTERNS):
        metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": alphabet}
        found = built(header(tmp_path / f"{number}.gguf", metadata))
        for text in TEXTS:
            assert found.decode(found(text, add_special_tokens=False)["input_ids"]) == text


def test_words_that_are_tokens_are_not_merged(tmp_path: Path) -> None:
    """Llama 3 takes a whole word that it has, though no merges lead to it."""
    tokens = ["a", "b", "c", "ab", "abc", "<|begin|>"]
    said = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": ["a b"]}
    more = {"tokenizer.ggml.token_type": [1] * 5 + [3], "tokenizer.ggml.bos_token_id": 5}
    for pre, parts, begins in (("llama-bpe", ["abc"], True), ("qwen2", ["ab", "c"], False)):
        found = built(header(tmp_path / f"{pre}.gguf", {**said, **more, "tokenizer.ggml.pre": pre}))
        assert pieces(found, "abc") == parts
        assert (found("abc")["input_ids"][0] == 5) == begins


def test_sentencepiece(tmp_path: Path) -> None:
    tokens = ["▁a", "▁ab", "ab", "abc", "▁", "a", "b", "c", "<tool>"]
    found = built(header(tmp_path / "x.gguf", sentencepiece(tokens, {8: 4})))
    assert pieces(found, "ab c") == ["▁ab", "▁", "c"]
    assert pieces(found, " ab") == ["▁", "▁ab"]
    assert pieces(found, "cab") == ["▁", "c", "ab"], "the better pair first, wherever it is"
    assert pieces(found, "aé") == ["▁a", "<0xC3>", "<0xA9>"]
    assert pieces(found, "b<tool>b") == ["▁", "b", "<tool>", "▁", "b"]
    assert found("ab")["input_ids"][0] == found.bos_token_id == 1, "unless it says otherwise"
    assert pieces(found, "</s>") != ["</s>"] or found.eos_token_id == 2
    for text in ("ab c", "é 🦊 ab", "cab  c"):
        assert found.decode(found(text, add_special_tokens=False)["input_ids"]) == text


def test_sentencepiece_without_a_blank_before_and_without_bos(tmp_path: Path) -> None:
    said = sentencepiece(["▁a", "▁", "a", "b"], **{"ggml.add_space_prefix": False, "ggml.add_bos_token": False})
    found = built(header(tmp_path / "x.gguf", said))
    assert pieces(found, "a a") == ["a", "▁a"]
    assert found("a a")["input_ids"] == found("a a", add_special_tokens=False)["input_ids"]
    assert found.decode(found(" a")["input_ids"]) == " a"


def test_phi3_swallows_blanks_behind_its_marks(tmp_path: Path) -> None:
    """As its tokenizer.json says of them, and llama.cpp knows by its name."""
    said = sentencepiece(["▁a", "▁", "a", "<|user|>"], {3: 3})
    for architecture, rest in (("phi3", ["▁a"]), ("llama", ["▁", "<0x0A>", "a"])):
        found = built(header(tmp_path / f"{architecture}.gguf", said, architecture))
        assert pieces(found, "<|user|>\na") == ["<|user|>", *rest]


def test_all_that_ends_a_reply(tmp_path: Path) -> None:
    """What the file calls end of text, of a turn, of a message, and what it does not name."""
    tokens = ["a", "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|eom|>", "</s>", "<|eot_id|>"]
    said = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1, 3, 3, 4, 1, 3, 3, 3],
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eom_token_id": 5,
    }
    found = header(tmp_path / "x.gguf", said)
    assert end_tokens(found) == [2, 5, 1, 3, 6, 7], "<end_of_turn> is a plain word here"
    special = built(found)
    assert special.decode([0, 1, 3], skip_special_tokens=True) == "a"


@pytest.mark.parametrize(
    "metadata",
    [
        {"tokenizer.ggml.bos_token_id": 1 << 31, "tokenizer.ggml.eos_token_id": 99},
        {"tokenizer.ggml.token_type": [3]},
        {"tokenizer.ggml.token_type": [1, 9, 77]},
        {"tokenizer.ggml.merges": ["a", "", " ", "a b c", "x y", "a a", "a b"]},
        {"tokenizer.ggml.tokens": ["a", "a", "b"]},
        {"tokenizer.chat_template": "{{ broken"},
        {"tokenizer.ggml.add_bos_token": True},
    ],
)
def test_metadata_that_makes_no_sense_is_passed_over(metadata: dict[str, Any], tmp_path: Path) -> None:
    said = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b", "ab"]}
    found = built(header(tmp_path / "x.gguf", {**said, **metadata}))
    assert found.decode(found("ab")["input_ids"]) == "ab"


def test_a_tokenizer_that_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no tokenizer"):
        built(header(tmp_path / "x.gguf", {}))
    with pytest.raises(ModelError, match="of the kind 't5'"):
        built(header(tmp_path / "y.gguf", {"tokenizer.ggml.model": "t5", "tokenizer.ggml.tokens": ["a"]}))


def test_a_real_vocabulary(smollm2: Path) -> None:
    """Pieces that SmolLM2's tokenizer.json makes of these texts: digits apart, blanks before them together."""
    found = built(read_header(smollm2))
    assert pieces(found, "Facts:\n\n12. a  3") == ["Facts", ":", "ĊĊ", "1", "2", ".", "Ġa", "ĠĠ", "3"]
    assert pieces(found, "<|im_start|>user\n") == ["<|im_start|>", "user", "Ċ"]
    assert [found.convert_ids_to_tokens(n) for n in end_tokens(read_header(smollm2))] == ["<|im_end|>", "<|endoftext|>"]
    assert "a helpful AI assistant" in found.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
