"""One Qwen3 text encoder as the prompts room sees it.

In: prompts. Out: hidden states of the layers that a family reads; of fixed length, or of each prompt's own.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from loraloom.extensions.families._flow.qwen import QwenTokens
from loraloom.protocols.model import EncoderTokens, ModelFiles, Modules, Prompt, Tensors, Tokenizer
from loraloom.utils.atomic_files import sha256_bytes

PART = "text_encoder"


class QwenText:
    """See `protocols.model.TextModel`.

    Args:
        files: Files of the model.
        modules: Modules of the model.
        config: Config of the encoder.
        num_tokens: Tokens that it reads, the chat template among them.
        layers: Hidden states that are read, see `QwenTokens.encode`.
        thinking: See `QwenTokens`.
        padded: Whether the denoiser reads padding: embeddings then have a fixed length.
    """

    max_windows: int | None = 1

    def __init__(
        self,
        files: ModelFiles,
        modules: Modules,
        config: Mapping[str, Any],
        *,
        num_tokens: int,
        layers: Sequence[int],
        thinking: bool,
        padded: bool,
    ) -> None:
        self._modules = modules
        num_ids = int(config.get("vocab_size", 151_936))
        self._tokens = QwenTokens(files.path("tokenizer"), num_ids, num_tokens, thinking=thinking)
        self._layers = tuple(layers)
        self._padded = padded

    @property
    def tokenizer(self) -> Tokenizer:
        """The only one."""
        return self._tokens

    @property
    def fingerprint(self) -> str:
        """sha256 over the tokenizer's files, the encoder's weights, and what is read of it, read once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        read = f"{self._tokens.num_tokens} {self._layers} {self._padded}"
        return sha256_bytes(f"{self._tokens.files_sha256}\n{self._modules.fingerprint(PART)}\n{read}".encode())

    def counts(self, text: str) -> Sequence[EncoderTokens]:
        """What the encoder reads of a text."""
        return [self._tokens.counts(text)]

    def unread(self, prompt: Prompt) -> tuple[str, ...]:
        """The text beyond its tokens."""
        return self._tokens.unread(prompt.text)

    def encode(self, prompts: Sequence[Prompt]) -> list[Tensors]:
        """`text`: (l, d) embeddings of each prompt in the chat template."""
        hidden_bld, mask_bl = self._tokens.encode(self._modules.get(PART), prompts, self._layers)
        if self._padded:
            return [{"text": hidden_ld} for hidden_ld in hidden_bld]
        return [{"text": hidden_ld[mask_l]} for hidden_ld, mask_l in zip(hidden_bld, mask_bl, strict=True)]
