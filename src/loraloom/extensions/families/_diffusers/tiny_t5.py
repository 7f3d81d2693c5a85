"""A small random T5 encoder and its tokenizer, for the tiny models of families.

In: a width and letters. Out: an encoder of two layers, and a tokenizer of single letters.
"""

import string

from transformers import T5Config, T5EncoderModel
from transformers.models.t5.tokenization_t5 import T5Tokenizer


def tiny_t5(num_ids: int, width: int) -> T5EncoderModel:
    """An encoder of two layers and four heads for a vocabulary of `num_ids`."""
    return T5EncoderModel(
        T5Config(
            vocab_size=num_ids,
            d_model=width,
            d_kv=8,
            d_ff=2 * width,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


def t5_tokenizer(letters: str) -> T5Tokenizer:
    """Unigram over single letters: a token a letter, one more for each space, and `<unk>` for other letters."""
    known = dict.fromkeys(string.ascii_letters + string.digits + string.punctuation + letters)
    vocabulary = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("\u2581", -2.0),
        *((letter, -3.0) for letter in known),
    ]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=256)
