"""The CLIP text encoder as the prompts room sees it.

In: text, or windows of ids. Out: ids, or the hidden states that the UNet was trained to read.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from torch import Tensor, nn
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from loraloom.errors import UserError
from loraloom.files import sha256_bytes, sha256_file


class ClipText:
    """Tokenizer and encoder; the encoder's weights are asked for when the first window is encoded."""

    def __init__(self, folder: Path, module: Callable[[], nn.Module], weights_fingerprint: Callable[[], str]) -> None:
        try:
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"the model's tokenizer cannot be read ({error})", got=str(folder)) from error
        self._folder = folder
        self._module = module
        self._weights_fingerprint = weights_fingerprint
        # Captions of one kind repeat their sentences, and the tokenizer takes longer to be called than to work.
        self._ids = lru_cache(1 << 14)(self._tokenized)
        self.window_tokens = min(int(self._tokenizer.model_max_length), 77)

    @property
    def fingerprint(self) -> str:
        """sha256 over the tokenizer's files and the encoder's weights, read once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        files = [file for file in sorted(self._folder.iterdir()) if file.is_file()]
        own = "".join(f"{file.name}{sha256_file(file)}" for file in files)
        return sha256_bytes((own + self._weights_fingerprint()).encode())

    def tokenize(self, text: str) -> list[int]:
        """Ids without BOS, EOS and padding, never cut."""
        return list(self._ids(text))

    def _tokenized(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])

    def detokenize(self, ids: Sequence[int]) -> str:
        """Readable text of ids."""
        return str(self._tokenizer.decode(list(ids)))

    def window(self, ids: Sequence[int]) -> list[int]:
        """BOS, ids, EOS, padding as the model was trained with (EOS for SD 1.x, `!` for 2.x)."""
        tokenizer = self._tokenizer
        assert len(ids) <= self.window_tokens - 2, len(ids)
        row = [int(tokenizer.bos_token_id), *ids, int(tokenizer.eos_token_id)]
        return row + [int(tokenizer.pad_token_id)] * (self.window_tokens - len(row))

    def encode(self, ids_nk: Tensor) -> Tensor:
        """(n, k) ids to (n, k, d): the last hidden state after the final layer norm, padding attended to."""
        module = self._module()
        return module(ids_nk.to(next(module.parameters()).device))[0]
