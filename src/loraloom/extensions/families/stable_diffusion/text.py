"""The text encoder of Stable Diffusion 1.x and 2.x as the prompts room sees it.

In: prompts that are cut into windows. Out: the hidden states that the UNet was trained to read.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from loraloom.extensions.families._diffusers.windows import encode_windows
from loraloom.extensions.families._ldm.clip import ClipTokenizer, encode
from loraloom.protocols.model import EncoderTokens, Prompt, Tensors, Tokenizer
from loraloom.utils.atomic_files import sha256_bytes


class ClipText(ClipTokenizer):
    """Tokenizer and encoder; the encoder's weights are read when the first window is encoded."""

    max_windows: int | None = None

    def __init__(
        self,
        folder: Path,
        module: Callable[[], nn.Module],
        weights_fingerprint: Callable[[], str],
        *,
        num_ids: int,
        num_positions: int,
        clip_skip: int = 1,
    ) -> None:
        super().__init__(folder, num_ids=num_ids, num_positions=num_positions)
        self._module = module
        self._weights_fingerprint = weights_fingerprint
        self._clip_skip = clip_skip

    @property
    def fingerprint(self) -> str:
        """sha256 over the tokenizer's files, the encoder's weights and the layer that is read, read once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        layer = f"\nclip skip {self._clip_skip}" if self._clip_skip > 1 else ""
        return sha256_bytes((self.files_sha256 + self._weights_fingerprint() + layer).encode())

    @property
    def tokenizer(self) -> Tokenizer:
        """The object itself, because there is one tokenizer."""
        return self

    def encode(self, prompts: Sequence[Prompt]) -> list[Tensors]:
        """`hidden`: the (n, k, d) prompt embedding of each prompt."""
        return [{"hidden": hidden_nkd} for hidden_nkd in encode_windows(prompts, self, self.encode_windows)]

    def counts(self, text: str) -> Sequence[EncoderTokens]:
        """Nothing to compare: one encoder reads any number of windows."""
        return ()

    def unread(self, prompt: Prompt) -> tuple[str, ...]:
        """Empty: any number of windows is encoded."""
        return ()

    def encode_windows(self, ids_nk: Tensor) -> Tensor:
        """(n, k) ids to (n, k, d): the hidden state of the layer that is read, after the final layer norm."""
        return encode(self._module(), ids_nk, self._clip_skip, final_norm=True).hidden_nkd
