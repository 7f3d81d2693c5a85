"""A Qwen3 language model as a text encoder: its config's limits, its chat template, its prompt embeddings.

In: prompts. Out: hidden states of chosen layers, of the prompt in Qwen3's chat template, and the text beyond its tokens. The
template is written here: one that comes with a model is a program, and is not run. That both give the same tokens is
tested against the pipelines.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

from loraloom.extensions.families._diffusers.limits import (
    MAX_VOCABULARY,
    MAX_WIDTH,
    Rule,
    check_config,
    each,
    flag,
    keys,
    make_config,
    nothing,
    number,
    one_of,
    one_or_each,
    or_null,
    text,
    whole,
)
from loraloom.extensions.families._diffusers.tokenizers import files_sha256, open_tokenizer
from loraloom.extensions.families._diffusers.windows import emphasise
from loraloom.protocols.model import EncoderTokens, ModelFiles, Prompt
from loraloom.utils.errors import UserError

_IDS = or_null(one_or_each(whole(-1, MAX_VOCABULARY), 8))
QWEN3: Mapping[str, Rule] = {
    "model_type": one_of("qwen3"),
    "architectures": or_null(each(text, 4)),
    "vocab_size": whole(2, MAX_VOCABULARY),
    "hidden_size": whole(1, MAX_WIDTH),
    "intermediate_size": whole(1, 8 * MAX_WIDTH),
    "num_hidden_layers": whole(2, 128),
    "num_attention_heads": whole(1, 256),
    "num_key_value_heads": or_null(whole(1, 256)),
    "head_dim": whole(2, 1024),
    "hidden_act": one_of("silu"),
    "max_position_embeddings": whole(64, 1 << 22),
    "initializer_range": number(0, 100),
    "rms_norm_eps": number(1e-12, 1),
    "rope_theta": or_null(number(1, 1e12)),
    "rope_parameters": or_null(keys({"rope_type": one_of("default"), "rope_theta": number(1, 1e12)})),
    "rope_scaling": nothing,
    "tie_word_embeddings": flag,
    "attention_bias": flag,
    "attention_dropout": number(0, 1),
    "bos_token_id": _IDS,
    "eos_token_id": _IDS,
    "pad_token_id": _IDS,
}
_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
CLASSES = {"Qwen3Model", "Qwen3ForCausalLM"}
TOKENIZERS = {"Qwen2Tokenizer", "Qwen2TokenizerFast"}
BEFORE, AFTER = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
WITHOUT_THINKING = "<think>\n\n</think>\n\n"
"""What the template adds where the model is to answer at once."""


def check_qwen3(config: Mapping[str, Any], folder: str) -> None:
    """Raise `UserError` for a config that is out of range."""
    where = f"{folder}/config.json"
    check_config(config, QWEN3, where)
    if config.get("use_sliding_window"):
        raise UserError(f"{where}: use_sliding_window", got=True, expected="false, as every published Qwen3 encoder")
    heads, groups = config.get("num_attention_heads", 32), config.get("num_key_value_heads") or 1
    if heads % groups:
        raise UserError(f"{where}: num_key_value_heads", got=groups, expected=f"a divisor of {heads} heads")
    if config.get("head_dim", 128) % 2:
        raise UserError(f"{where}: head_dim", got=config["head_dim"], expected="an even number, for rotary tables")


def qwen3_config(config: Mapping[str, Any]) -> Any:
    """A config of the keys that are known; others could name code or kernels to fetch."""
    from transformers import Qwen3Config

    theta = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta") or 1_000_000
    return make_config(
        Qwen3Config,
        {key: config[key] for key in _KEYS if key in config},
        "the text encoder's config.json",
        rope_parameters={"rope_type": "default", "rope_theta": float(theta)},
        use_cache=False,
    )


def qwen3_class(files: ModelFiles, folder: str) -> Any:
    """The class of the encoder: as model_index.json names it, else as its config does."""
    from transformers import Qwen3ForCausalLM, Qwen3Model

    index = files.config("model_index.json") if files.has("model_index.json") else {}
    named = index.get(folder) or ["", (files.config(f"{folder}/config.json").get("architectures") or [""])[0]]
    return Qwen3ForCausalLM if named[-1] == "Qwen3ForCausalLM" else Qwen3Model


class QwenTokens:
    """The tokenizer of a Qwen3 encoder that reads a fixed number of tokens, the chat template among them.

    Implements `protocols.model.Tokenizer`: a window is what of a prompt one call reads, and two places.

    Args:
        folder: The tokenizer's folder.
        num_ids: Vocabulary size of the encoder.
        num_tokens: Tokens that the encoder reads.
        thinking: Whether the template leaves the model to think; else it ends after an empty thought.
    """

    def __init__(self, folder: Path, num_ids: int, num_tokens: int, *, thinking: bool) -> None:
        self._tokenizer: Any = open_tokenizer(folder, Qwen2Tokenizer, num_ids, ("tokenizer.json", "vocab.json"))
        self._folder = folder
        self._after = AFTER if thinking else AFTER + WITHOUT_THINKING
        self.num_tokens = num_tokens
        self._ids = lru_cache(1 << 14)(self._tokenized)
        template = len(self._tokenized(BEFORE)) + len(self._tokenized(self._after))
        self.capacity = num_tokens - template
        self.window_tokens = self.capacity + 2
        if self.capacity < 1:
            raise UserError(
                "no token is left for the prompt",
                got=f"{num_tokens} tokens, {template} of them the chat template",
                fix="raise --model-option text_tokens",
            )

    @property
    def files_sha256(self) -> str:
        """Names and sums of the tokenizer's files."""
        return files_sha256(self._folder)

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text without the template, never cut."""
        return list(self._ids(text))

    def _tokenized(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of ids."""
        return str(self._tokenizer.decode(list(ids)))

    def window(self, ids: Sequence[int]) -> list[int]:
        """The ids between the first and the last token of the template, padded."""
        assert len(ids) <= self.capacity, len(ids)
        row = [self._tokenized(BEFORE)[0], *ids, self._tokenized(self._after)[0]]
        return row + [int(self._tokenizer.pad_token_id)] * (self.window_tokens - len(row))

    def counts(self, text: str) -> EncoderTokens:
        """The tokens of a text; its byte tokens know every letter."""
        return EncoderTokens(name="Qwen3", capacity=self.capacity, tokens=len(self.tokenize(text)), unknown=0)

    def read(self, text: str) -> str:
        """The beginning of a text that is read."""
        if len(self.tokenize(text)) <= self.capacity:
            return text
        places = self._places(text)
        for count in range(self.capacity, 0, -1):  # a beginning may have more tokens than it has within the whole
            kept = text[: places[count - 1][1]]
            if len(self.tokenize(kept)) <= self.capacity:
                return kept
        return ""

    def unread(self, text: str) -> tuple[str, ...]:
        """The text beyond the tokens that are read."""
        rest = text[len(self.read(text)) :]
        return (rest,) if rest else ()

    def encode(self, module: Any, prompts: Sequence[Prompt], layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(b, l, n d) hidden states of some layers side by side, and (b, l) bool, true where there is text.

        Args:
            module: `Qwen3Model`, or a `Qwen3ForCausalLM`, whose head is not computed.
            prompts: The prompts; a text beyond the capacity is cut there, and the template stays whole.
            layers: Indices of hidden states: 0 the embeddings, -1 the last, normalised ones.
        """
        device = next(module.parameters()).device
        inner = getattr(module, "model", module)
        texts = [f"{BEFORE}{self.read(prompt.text)}{self._after}" for prompt in prompts]
        inputs = self._tokenizer(
            texts, padding="max_length", max_length=self.num_tokens, truncation=True, return_tensors="pt"
        )
        mask_bl = inputs["attention_mask"].to(device)
        said = inner(
            input_ids=inputs["input_ids"].to(device),
            attention_mask=mask_bl,
            output_hidden_states=True,
            use_cache=False,
        )
        hidden_bld = torch.cat([said.hidden_states[layer] for layer in layers], dim=-1)
        for row, prompt in enumerate(prompts):
            if any(weight != 1.0 for _, weight in prompt.spans):
                weights_l = self._weights(prompt, texts[row], mask_bl[row])
                hidden_bld[row] = emphasise(hidden_bld[row][None], weights_l[None])[0]
        return hidden_bld, mask_bl.bool()

    def _weights(self, prompt: Prompt, text: str, mask_l: Tensor) -> Tensor:
        """(l,) the weight of the run that each token of the prompt begins in, one at the template and padding."""
        before = [1.0] * len(BEFORE)
        of_char = before + [weight for run, weight in prompt.spans for _ in run]
        of_char = of_char[: len(text) - len(self._after)] + [1.0] * len(self._after)
        weights_l = torch.ones(self.num_tokens)
        first = int(mask_l.nonzero()[0])
        for index, (start, _) in enumerate(self._places(text)[: self.num_tokens - first]):
            weights_l[first + index] = of_char[start]
        return weights_l

    def _places(self, text: str) -> list[tuple[int, int]]:
        """Where each token begins and ends in a text."""
        found = self._tokenizer(
            text, add_special_tokens=False, truncation=False, verbose=False, return_offsets_mapping=True
        )
        return found["offset_mapping"]
