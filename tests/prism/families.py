"""Chat templates of model families, cut to what writes user, assistant and system turns, and tokenizers of each kind.

Sources: tokenizer_config.json or chat_template.jinja of the models named.
"""

# ruff: noqa: E501  (templates are easier to compare with their sources in long lines)

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

_ASK = "{% if add_generation_prompt %}"
TEMPLATES = {
    # Qwen2-, Yi-, OpenHermes-like
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        + _ASK + "{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    # Qwen/Qwen2.5-0.5B-Instruct, HuggingFaceTB/SmolLM2-135M-Instruct: a system prompt of its own
    "qwen2.5": (
        "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
        "{%- else %}{{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud.<|im_end|>\n' }}{%- endif %}"
        "{%- for m in messages %}{%- if m.role == 'user' or (m.role == 'system' and not loop.first) or m.role == "
        "'assistant' %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{%- endif %}{%- endfor %}"
        + _ASK + "{{- '<|im_start|>assistant\n' }}{%- endif %}"
    ),
    # Qwen/Qwen3-0.6B: thinking of earlier turns is dropped, and can be turned off
    "qwen3": (
        "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
        "{%- endif %}{%- set ns = namespace(last=0) %}{%- for m in messages %}{%- if m.role == 'user' %}"
        "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}{%- for m in messages %}{%- if m.role == 'user' %}"
        "{{- '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}{%- elif m.role == 'assistant' %}"
        "{%- set content = m.content %}{%- set thought = '' %}{%- if '</think>' in content %}"
        "{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
        "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
        "{%- if loop.index0 > ns.last and (loop.last or thought) %}"
        "{{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}"
        "{%- else %}{{- '<|im_start|>assistant\n' + content }}{%- endif %}{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
        + _ASK + "{{- '<|im_start|>assistant\n' }}{%- if enable_thinking is defined and enable_thinking is false %}"
        "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
    ),
    # meta-llama/Llama-2-7b-chat-hf
    "llama-2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
        "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
        "{% endif %}{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
        "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    # meta-llama/Meta-Llama-3-8B-Instruct
    "llama-3": (
        "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + "
        "message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
        "{% endif %}{{ content }}{% endfor %}"
        + _ASK + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    # mistralai/Mistral-7B-Instruct-v0.1, Mixtral-8x7B-Instruct-v0.1
    "mistral-v1": (
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
        "{{ message['content'] + eos_token + ' ' }}{% endif %}{% endfor %}"
    ),
    # mistralai/Mistral-7B-Instruct-v0.3: the system prompt goes with the last words of the user
    "mistral-v3": (
        "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
        "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}{{- bos_token }}"
        "{%- for message in loop_messages %}{%- if message['role'] == 'user' %}"
        "{%- if loop.last and system_message is defined %}"
        "{{- '[INST] ' + system_message + '\n\n' + message['content'] + '[/INST]' }}"
        "{%- else %}{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}"
        "{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content'] | trim + eos_token }}{%- endif %}"
        "{%- endfor %}"
    ),
    # google/gemma-2-2b-it: no system role
    "gemma-2": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
        "{% else %}{% set role = message['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        + _ASK + "{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    # google/gemma-3-1b-it: the system prompt stands in the first user turn
    "gemma-3": (
        "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- set first = messages[0]['content'] + '\n\n' -%}"
        "{%- set rest = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set rest = messages -%}{%- endif -%}"
        "{%- for m in rest -%}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + "
        "(first if loop.first else '') }}{{ m['content'] | trim }}{{ '<end_of_turn>\n' }}{%- endfor -%}"
        + _ASK + "{{ '<start_of_turn>model\n' }}{%- endif -%}"
    ),
    # microsoft/Phi-3-mini-4k-instruct
    "phi-3": (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
        + _ASK + "{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    # microsoft/Phi-4-mini-instruct
    "phi-4-mini": (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
        + _ASK + "{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    # ibm-granite/granite-3.3-2b-instruct
    "granite-3": (
        "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
        "{%- set loop_messages = messages[1:] %}{%- else %}{%- set system_message = 'You are Granite, developed by IBM.' %}"
        "{%- set loop_messages = messages %}{%- endif %}"
        "{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\n' }}"
        "{%- for message in loop_messages %}{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + "
        "message['content'] + '<|end_of_text|>\n' }}{%- endfor %}"
        + _ASK + "{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"
    ),
    # HuggingFaceH4/zephyr-7b-beta, TinyLlama/TinyLlama-1.1B-Chat-v1.0: the names of turns are ordinary text
    "zephyr": (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
        "{% endfor %}" + _ASK + "{{ '<|assistant|>\n' }}{% endif %}"
    ),
    # lmsys/vicuna-7b-v1.5
    "vicuna": (
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}{% else %}"
        "{{ 'A chat between a curious user and an artificial intelligence assistant. ' }}{% endif %}"
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
        "{% elif m['role'] == 'assistant' %}{{ 'ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
        + _ASK + "{{ 'ASSISTANT:' }}{% endif %}"
    ),
    # deepseek-ai/deepseek-llm-7b-chat, DeepSeek-V2-Lite-Chat
    "deepseek-v2": (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ 'User: ' + message['content'] + '\n\n' }}{% elif message['role'] == 'assistant' %}"
        "{{ 'Assistant: ' + message['content'] + eos_token }}{% elif message['role'] == 'system' %}"
        "{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}" + _ASK + "{{ 'Assistant:' }}{% endif %}"
    ),
    # deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B: the template begins the thinking, and drops it afterwards
    "deepseek-r1": (
        "{% set ns = namespace(system='') %}{% for m in messages %}{% if m['role'] == 'system' %}"
        "{% set ns.system = m['content'] %}{% endif %}{% endfor %}{{ bos_token + ns.system }}{% for m in messages %}"
        "{% if m['role'] == 'user' %}{{ '<\uff5cUser\uff5c>' + m['content'] }}{% endif %}{% if m['role'] == 'assistant' %}"
        "{% set content = m['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}"
        "{% endif %}{{ '<\uff5cAssistant\uff5c>' + content + eos_token }}{% endif %}{% endfor %}"
        + _ASK + "{{ '<\uff5cAssistant\uff5c><think>\n' }}{% endif %}"
    ),
    # CohereForAI/c4ai-command-r7b-12-2024
    "command-r": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + m['content'] + '<|END_OF_TURN_TOKEN|>' }}"
        "{% elif m['role'] == 'user' %}"
        "{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}"
        "{% elif m['role'] == 'assistant' %}"
        "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + m['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}"
        "{% endif %}{% endfor %}" + _ASK + "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
    ),
    # the shortest kind: a space before the words
    "user": (
        "{% for m in messages %}{{ m['role'] | capitalize + ': ' + m['content'] + '\n' }}{% endfor %}"
        + _ASK + "{{ 'Assistant:' }}{% endif %}"
    ),
}  # fmt: skip
NO_SYSTEM = {"mistral-v1", "gemma-2"}
NAMES = (
    *("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>"),
    *(
        "<end_of_turn>",
        "<|user|>",
        "<|assistant|>",
        "<|system|>",
        "<|end|>",
        "<\uff5cUser\uff5c>",
        "<\uff5cAssistant\uff5c>",
    ),
    *("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
)
PLAIN_NAMES = ("[INST]", "[/INST]", "<think>", "</think>")  # added with special: false
_TEXT = [
    "The ropes of Mara hang in the old mill. How many ropes are there? User: hi\n\nAssistant: hello. 47 brown.\n",
    "ASSISTANT: USER: model user assistant system [INST] << SYS >> helpful. It is 12, isn't it? \u00e9\u00e8 \u4e2d\u6587",
] * 3
_BYTES = [f"<0x{b:02X}>" for b in range(256)]


def byte_level() -> Tokenizer:
    """GPT-2, Llama-3, Qwen, SmolLM2, Phi-4."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    _train(
        made,
        trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    return made


def metaspace(scheme: str, split: bool) -> Callable[[], Tokenizer]:
    """Llama-2, Mistral, TinyLlama as transformers 4.40 and later write them, and T5-like ones."""

    def make() -> Tokenizer:
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme="never", split=True)
        _train(made, trainers.BpeTrainer(vocab_size=520, special_tokens=["<unk>", *_BYTES], show_progress=False))
        made = Tokenizer(made.model)
        made.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme=scheme, split=split)
        made.decoder = _spaces()
        return made

    return make


def prepended() -> Tokenizer:
    """Llama-2 as older files have it: a normalizer writes the spaces."""
    made = metaspace("never", True)()
    made.pre_tokenizer = None  # type: ignore[assignment]
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return made


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme="first")
    made.decoder = _spaces()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, unk_token="<unk>", special_tokens=["<unk>", "</s>"], show_progress=False
    )
    _train(made, trainer)
    return made


def word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    _train(made, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False))
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "first": metaspace("first", True),
    "first, whole": metaspace("first", False),
    "always": metaspace("always", True),
    "always, whole": metaspace("always", False),
    "never": metaspace("never", True),
    "prepended": prepended,
    "unigram": unigram,
    "wordpiece": word_piece,
}
EXACT = frozenset(KINDS) - {"unigram", "wordpiece"}  # kinds that decode to the text that was encoded


def _spaces() -> decoders.Decoder:
    return decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )


def _train(made: Tokenizer, trainer: trainers.Trainer) -> None:
    made.train_from_iterator(_TEXT, trainer)


@cache
def tokenizer(kind: str, family: str, greedy: bool = False) -> PreTrainedTokenizerFast:
    """A tiny tokenizer with a family's template. `greedy`: its control tokens take white space along, as Phi-3's do."""
    made = KINDS[kind]()
    made.add_special_tokens([AddedToken(n, normalized=False, rstrip=greedy) for n in ("<s>", "</s>", *NAMES)])
    made.add_tokens([AddedToken(n, special=False, normalized=False) for n in PLAIN_NAMES])
    made = Tokenizer.from_str(made.to_str())  # pickles and copies, as files do
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    fast.chat_template = TEMPLATES[family]
    return fast
