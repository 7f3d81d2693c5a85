"""The text encoders of FLUX.1 as the prompts room sees them.

In: prompts. Out: CLIP's pooled embedding of the first window, and T5's prompt embeddings of a fixed number of tokens. T5 reads
the plain text; what is beyond its tokens is named by `unread`.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from loraloom.extensions.families._diffusers.dropping import ALL, Outputs, without
from loraloom.extensions.families._diffusers.t5 import T5Text
from loraloom.extensions.families._ldm.clip import ClipTokenizer
from loraloom.protocols.model import EncoderTokens, ModelFiles, Modules, Prompt, Tensors, Tokenizer
from loraloom.utils.atomic_files import sha256_bytes

CLIP, T5 = "text_encoder", "text_encoder_2"
OUTPUTS: Outputs = {CLIP: {"pooled": ALL}, T5: {"t5": ALL}}


class FluxText:
    """See `protocols.model.TextModel`.

    Args:
        files: Files of the model.
        modules: Modules of the model.
        configs: Folder -> config.
        t5_tokens: Tokens that T5 reads.
    """

    max_windows: int | None = 1

    def __init__(
        self, files: ModelFiles, modules: Modules, configs: Mapping[str, Mapping[str, Any]], t5_tokens: int
    ) -> None:
        self._modules = modules
        clip = configs[CLIP]
        self._clip = ClipTokenizer(
            files.path("tokenizer"),
            num_ids=int(clip.get("vocab_size", 49408)),
            num_positions=int(clip.get("max_position_embeddings", 77)),
        )
        self._t5 = T5Text(files.path("tokenizer_2"), int(configs[T5].get("vocab_size", 32128)), t5_tokens)

    @property
    def tokenizer(self) -> Tokenizer:
        """CLIP's: its window is cut."""
        return self._clip

    @property
    def fingerprint(self) -> str:
        """sha256 over both tokenizers' files, both encoders' weights and T5's text length, read once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        parts = [self._clip.files_sha256, self._t5.files_sha256, *map(self._modules.fingerprint, (CLIP, T5))]
        return sha256_bytes("\n".join([*parts, str(self._t5.num_tokens)]).encode())

    def counts(self, text: str) -> Sequence[EncoderTokens]:
        """CLIP reads 75 tokens, T5 its number; CLIP's byte tokens know every letter."""
        capacity = self._clip.window_tokens - 2
        clip = EncoderTokens(name="CLIP", capacity=capacity, tokens=len(self._clip.tokenize(text)), unknown=0)
        return [clip, self._t5.counts(text)]

    def unread(self, prompt: Prompt) -> tuple[str, ...]:
        """The text beyond T5's tokens."""
        return self._t5.unread(prompt.text)

    def encode(self, prompts: Sequence[Prompt]) -> list[Tensors]:
        """`pooled` (p,) and `t5` (l, d) of each prompt. As in the pipeline T5 attends to padding."""
        module: Any = self._modules.get(CLIP)
        ids_nk = torch.tensor([self._clip.window(prompt.windows[0].ids) for prompt in prompts])
        pooled_bp: Tensor = module(ids_nk.to(next(module.parameters()).device)).pooler_output
        hidden_bld, _ = self._t5.encode(self._modules.get(T5), prompts, masked=False)
        return [
            {"pooled": pooled_p, "t5": hidden_ld} for pooled_p, hidden_ld in zip(pooled_bp, hidden_bld, strict=True)
        ]

    def without(self, text: Tensors, empty: Tensors, encoders: Collection[str]) -> Tensors:
        """Each encoder makes one tensor."""
        return without(text, empty, encoders, OUTPUTS)
