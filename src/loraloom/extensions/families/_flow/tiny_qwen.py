"""A small random Qwen3 and its tokenizer, for the tiny models of families.

In: widths. Out: an encoder, and a tokenizer of single bytes that knows the words of the chat template.
"""

from typing import Any

from transformers import Qwen3Config
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}{% if not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
WORDS = ("user", "assistant", "\n\n")
"""Words of the template that are one token, as in the real vocabulary: a prompt then has as many tokens left."""


def tiny_qwen(kind: Any, width: int, layers: int, num_ids: int) -> Any:
    """An encoder of four heads, of class `kind`."""
    return kind(
        Qwen3Config(
            vocab_size=num_ids,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            use_cache=False,
        )
    )


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Single bytes, and the words of the template."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    codes = dict(zip([*printable, *rest], [*printable, *range(256, 256 + len(rest))], strict=True))
    vocabulary = {chr(codes[byte]): byte for byte in range(256)}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        letters = [chr(codes[byte]) for byte in word.encode()]
        for end in range(1, len(letters)):
            merges.append(("".join(letters[:end]), letters[end]))
            vocabulary.setdefault("".join(letters[: end + 1]), len(vocabulary))
    kind: Any = Qwen2Tokenizer
    tokenizer = kind(
        vocab=vocabulary | {SPECIAL[0]: len(vocabulary)},
        merges=merges,
        model_max_length=1024,
        extra_special_tokens=list(SPECIAL[1:]),
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer
