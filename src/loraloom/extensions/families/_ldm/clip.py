"""A CLIP tokenizer whose files are checked, and the layers of a CLIP text encoder that a UNet reads.

In: text, or windows of ids. Out: ids; hidden states, and the pooled embedding of encoders with a projection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from loraloom.extensions.families._diffusers.limits import make_config
from loraloom.models.files import refuse_foreign
from loraloom.utils.atomic_files import sha256_file
from loraloom.utils.errors import UserError
from loraloom.utils.quiet import quiet
from loraloom.utils.untrusted import (
    MAX_TOKENIZER_BYTES,
    check_range,
    check_regular_file,
    library_errors,
    read_json_object,
    read_text,
    shown,
)

MAX_IDS = 1_000_000
MIN_IDS = 256 + 2
"""Smallest vocabulary: every byte and two special tokens; with fewer, some texts could not be tokenized."""
MAX_ADDED = 10_000
_CONFIG_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
    "initializer_range",
    "initializer_factor",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
_END = "</w>"
"""Suffix of a token at the end of a word."""
_TRIED_WORDS = 64


def check_tokenizer_files(folder: Path) -> None:
    """Raise `UserError` unless all files of a tokenizer are regular files of plausible size and content."""
    if not folder.is_dir():
        raise UserError("the model has no tokenizer", got=str(folder), fix="point to a complete diffusers folder")
    with library_errors("the model's tokenizer", folder):
        entries = sorted(entry for entry in folder.iterdir() if not entry.is_dir())
    for entry in entries:
        what = f"{folder.name}/{entry.name} of the model"
        if entry.suffix != ".json":
            check_regular_file(entry, what, max_bytes=MAX_TOKENIZER_BYTES)
        elif entry.name in {"vocab.json", "tokenizer.json"}:
            _check_vocabulary(read_json_object(entry, what, max_bytes=MAX_TOKENIZER_BYTES), entry.name, what)
        else:
            value = read_json_object(entry, what)
            refuse_foreign(value, what)
            _check_counts(value, what)
        if entry.name == "merges.txt":
            read_text(entry, what, max_bytes=MAX_TOKENIZER_BYTES)
    names = {entry.name for entry in entries}
    if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
        raise UserError(
            "the model's tokenizer is incomplete",
            got=", ".join(sorted(names)) or "an empty folder",
            expected="tokenizer.json, or vocab.json and merges.txt",
            fix="download the model again",
        )


def _check_vocabulary(value: dict[str, Any], name: str, what: str) -> None:
    if name == "tokenizer.json":
        refuse_foreign(value, what)
        _check_counts(value, what)
        model = value.get("model")
        kind = model.get("type", "BPE") if isinstance(model, dict) else None
        if kind is not None and kind != "BPE":
            raise UserError(
                f"{what}: the kind of tokenizer",
                got=shown(kind),
                expected="BPE, as in CLIP",
                fix="the tokenizer belongs to another model: get the model's own",
            )
        value = model.get("vocab") if isinstance(model, dict) else None  # pyright: ignore[reportAssignmentType]
    if not isinstance(value, dict) or not MIN_IDS <= len(value) <= MAX_IDS:
        expected = f"{MIN_IDS} to {MAX_IDS:,} tokens with their ids"
        got = f"{len(value):,} tokens" if isinstance(value, dict) else shown(value)
        raise UserError(f"{what}: vocabulary", got=got, expected=expected, fix="get the model's own tokenizer")
    for token, index in value.items():
        check_range(index, f"{what}: {shown(token)}", 0, MAX_IDS)


def _check_counts(value: dict[str, Any], what: str) -> None:
    for key in ("added_tokens", "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"):
        if isinstance(value.get(key), (list, dict)) and len(value[key]) > MAX_ADDED:
            raise UserError(f"{what}: {key}", got=f"{len(value[key]):,} tokens", expected=f"at most {MAX_ADDED:,}")
    if "model_max_length" in value:
        check_range(value["model_max_length"], f"{what}: model_max_length", 3, 10**31, whole=False)


class ClipTokenizer:
    """A tokenizer of one text encoder; see `protocols.model.Tokenizer`."""

    def __init__(self, folder: Path, *, num_ids: int, num_positions: int) -> None:
        check_tokenizer_files(folder)
        with library_errors("the model's tokenizer", folder), quiet():
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            vocabulary = self._tokenizer.get_vocab()
            largest = max(vocabulary.values())
        length = check_range(self._tokenizer.model_max_length, f"{folder.name}: model_max_length", 3, 10**31)
        self.window_tokens = min(length, 77)
        if self.window_tokens > num_positions:
            raise UserError(
                f"{folder.name}: model_max_length",
                got=length,
                expected=f"at most the text encoder's max_position_embeddings ({num_positions})",
            )
        if largest >= num_ids:
            raise UserError(
                "the model's tokenizer has ids that its text encoder does not have",
                got=largest,
                expected=f"below vocab_size ({num_ids:,})",
                fix="tokenizer and text encoder belong to different models",
            )
        if 2 * len(vocabulary) < num_ids:
            raise UserError(
                "the model's tokenizer has less than half of its text encoder's tokens",
                got=f"{len(vocabulary):,}",
                expected=f"about vocab_size ({num_ids:,})",
                fix="tokenizer and text encoder belong to different models",
            )
        with library_errors("the model's tokenizer", folder):
            self._check_words(vocabulary)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            check_range(getattr(self._tokenizer, name), f"{folder.name}: {name}", 0, num_ids - 1)
        self._folder = folder
        # Captions of one kind repeat their sentences, and a call of the tokenizer costs more than its work.
        self._ids = lru_cache(1 << 14)(self._tokenized)

    def _check_words(self, vocabulary: dict[str, int]) -> None:
        """Raise `UserError` unless words of the vocabulary are single tokens: without its merges a BPE gives letters."""
        if not all(letter + _END in vocabulary for letter in "aeiou"):
            raise UserError(
                "the model's tokenizer is not a BPE as in CLIP",
                expected=f"tokens that end in {_END}",
                fix="get the model's own tokenizer",
            )
        ends = (word.removesuffix(_END) for word in sorted(vocabulary) if word.endswith(_END))
        words = [word for word in ends if len(word) > 1 and word.isascii() and word.isalpha() and word.islower()]
        tried = words[:: max(1, len(words) // _TRIED_WORDS)]
        split = [word for word in tried if self._tokenized(word) != (vocabulary[word + _END],)]
        if 2 * len(split) > len(tried):
            raise UserError(
                "the model's tokenizer splits words that are in its vocabulary: its merges are missing or foreign",
                got=f"{len(self._tokenized(split[0]))} tokens for {split[0]!r}",
                expected="1",
                fix="download the model's tokenizer again (merges.txt or tokenizer.json)",
            )

    @cached_property
    def files_sha256(self) -> str:
        """Over the names and contents of the tokenizer's files."""
        files = [file for file in sorted(self._folder.iterdir()) if file.is_file()]
        return "".join(f"{file.name}{sha256_file(file)}" for file in files)

    def same_vocabulary(self, other: "ClipTokenizer") -> bool:
        """Whether both give every token the same id."""
        return self._tokenizer.get_vocab() == other._tokenizer.get_vocab()

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text without BOS, EOS and padding, never truncated."""
        return list(self._ids(text))

    def _tokenized(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of ids."""
        return str(self._tokenizer.decode(list(ids)))

    def window(self, ids: Sequence[int]) -> list[int]:
        """BOS, ids, EOS, and the padding of training (EOS for SD 1.x, `!` for 2.x)."""
        tokenizer = self._tokenizer
        assert len(ids) <= self.window_tokens - 2, len(ids)
        row = [int(tokenizer.bos_token_id), *ids, int(tokenizer.eos_token_id)]
        return row + [int(tokenizer.pad_token_id)] * (self.window_tokens - len(row))


@dataclass(frozen=True, slots=True)
class ClipStates:
    """What a CLIP text encoder says of some windows.

    Attributes:
        hidden_nkd: (n, k, d) hidden states.
        pooled_nd: (n, p) projected state at the end of each window; None for an encoder without projection.
    """

    hidden_nkd: Tensor
    pooled_nd: Tensor | None


def clip_config(config: Mapping[str, Any]) -> Any:
    """A text encoder's config of the keys that are known; others could name code or kernels to fetch."""
    from transformers import CLIPTextConfig

    return make_config(
        CLIPTextConfig, {key: config[key] for key in _CONFIG_KEYS if key in config}, "a CLIP's config.json"
    )


def encode(module: Any, ids_nk: Tensor, layer: int, *, final_norm: bool) -> ClipStates:
    """Hidden states after a layer, padding attended to.

    Args:
        module: `CLIPTextModel` or `CLIPTextModelWithProjection`.
        ids_nk: (n, k) ids of whole windows.
        layer: Counted from the end: 1 is the last one, 2 the one before it.
        final_norm: Apply the final layer norm, as the last layer always has it.
    """
    ids_nk = ids_nk.to(next(module.parameters()).device)
    outputs = module(ids_nk, output_hidden_states=layer > 1 or not final_norm)
    pooled_nd = outputs.text_embeds if "text_embeds" in outputs else None
    if layer == 1 and final_norm:
        return ClipStates(outputs.last_hidden_state, pooled_nd)
    hidden_nkd = outputs.hidden_states[-layer]
    inner = getattr(module, "text_model", module)
    return ClipStates(inner.final_layer_norm(hidden_nkd) if final_norm else hidden_nkd, pooled_nd)
