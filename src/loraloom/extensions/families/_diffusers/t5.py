"""A T5 text encoder of fixed text length: its config's limits, its tokenizer, its prompt embeddings.

In: prompts. Out: hidden states of a fixed number of tokens, the text beyond them, and counts. T5 reads the plain text, in as
many languages as its tokenizer knows; the weight of a run of the text scales the states of its tokens.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.models.t5.tokenization_t5 import T5Tokenizer

from loraloom.extensions.families._diffusers.limits import (
    MAX_VOCABULARY,
    MAX_WIDTH,
    Rule,
    check_config,
    each,
    flag,
    make_config,
    number,
    one_of,
    one_or_each,
    or_null,
    text,
    whole,
)
from loraloom.extensions.families._diffusers.tokenizers import SENTENCEPIECE, files_sha256, open_tokenizer
from loraloom.extensions.families._diffusers.windows import emphasise
from loraloom.protocols.model import EncoderTokens, Prompt

_IDS = or_null(one_or_each(whole(-1, MAX_VOCABULARY), 8))
T5: Mapping[str, Rule] = {
    "model_type": one_of("t5", "mt5"),
    "architectures": or_null(each(text, 4)),
    "vocab_size": whole(2, MAX_VOCABULARY),
    "d_model": whole(1, MAX_WIDTH),
    "d_kv": whole(1, 1024),
    "d_ff": whole(1, 8 * MAX_WIDTH),
    "num_layers": whole(1, 64),
    "num_decoder_layers": or_null(whole(1, 64)),
    "num_heads": whole(1, 256),
    "relative_attention_num_buckets": whole(2, 1024),
    "relative_attention_max_distance": whole(2, 8192),
    "dropout_rate": number(0, 1),
    "layer_norm_epsilon": number(1e-12, 1),
    "initializer_factor": number(0, 100),
    "feed_forward_proj": one_of("relu", "gelu", "gated-gelu", "gated-silu", "gated-relu"),
    "is_encoder_decoder": flag,
    "use_cache": flag,
    "pad_token_id": _IDS,
    "eos_token_id": _IDS,
}
_KEYS = (
    "vocab_size",
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_heads",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
    "dropout_rate",
    "layer_norm_epsilon",
    "initializer_factor",
    "feed_forward_proj",
    "pad_token_id",
    "eos_token_id",
)


def check_t5(config: Mapping[str, Any], folder: str) -> None:
    """Raise `UserError` for a config that is out of range."""
    check_config(config, T5, f"{folder}/config.json")


def t5_config(config: Mapping[str, Any]) -> Any:
    """A config of the keys that are known; others could name code or kernels to fetch."""
    from transformers import T5Config

    known = {key: config[key] for key in _KEYS if key in config}
    return make_config(T5Config, known, "the T5's config.json", is_encoder_decoder=False, use_cache=False)


class T5Text:
    """The tokenizer of a T5 that reads a fixed number of tokens.

    Args:
        folder: The tokenizer's folder.
        num_ids: Vocabulary size of the encoder.
        num_tokens: Tokens that the encoder reads, `</s>` included; shorter texts are padded.
        name: What reports call the encoder.
    """

    def __init__(self, folder: Path, num_ids: int, num_tokens: int, name: str = "T5") -> None:
        self._tokenizer: Any = open_tokenizer(folder, T5Tokenizer, num_ids, SENTENCEPIECE)
        self._folder = folder
        self.num_tokens = num_tokens
        self._name = name

    @property
    def files_sha256(self) -> str:
        """Names and sums of the tokenizer's files."""
        return files_sha256(self._folder)

    def counts(self, text: str) -> EncoderTokens:
        """The tokens of a text, `</s>` left out, and those that stand for unknown letters."""
        ids = self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        unknown = sum(index == self._tokenizer.unk_token_id for index in ids)
        return EncoderTokens(name=self._name, capacity=self.num_tokens - 1, tokens=len(ids), unknown=unknown)

    def unread(self, text: str) -> tuple[str, ...]:
        """The text beyond the tokens that are read."""
        places = self._places(text)
        if len(places) <= self.num_tokens - 1:
            return ()
        return (text[places[self.num_tokens - 1][0] :],)

    def encode(self, module: Any, prompts: Sequence[Prompt], *, masked: bool) -> tuple[Tensor, Tensor]:
        """(b, l, d) hidden states and (b, l) bool, true where there is text; `masked`: padding is not attended to."""
        device = next(module.parameters()).device
        texts = [prompt.text for prompt in prompts]
        inputs = self._tokenizer(
            texts, padding="max_length", max_length=self.num_tokens, truncation=True, return_tensors="pt"
        )
        mask_bl = inputs["attention_mask"].to(device)
        hidden_bld = module(inputs["input_ids"].to(device), attention_mask=mask_bl if masked else None)[0]
        for row, prompt in enumerate(prompts):
            if any(weight != 1.0 for _, weight in prompt.spans):
                hidden_bld[row] = emphasise(hidden_bld[row][None], self._weights(prompt)[None])[0]
        return hidden_bld, mask_bl.bool()

    def _weights(self, prompt: Prompt) -> Tensor:
        """(l,) the weight of the run that each token begins in, one at `</s>` and padding."""
        of_char = [weight for text, weight in prompt.spans for _ in text]
        weights_l = torch.ones(self.num_tokens)
        for index, (start, _) in enumerate(self._places(prompt.text)[: self.num_tokens - 1]):
            weights_l[index] = of_char[start]
        return weights_l

    def _places(self, text: str) -> list[tuple[int, int]]:
        """Where each token begins and ends in the text, `</s>` left out."""
        found = self._tokenizer(
            text, add_special_tokens=False, truncation=False, verbose=False, return_offsets_mapping=True
        )
        return found["offset_mapping"]
