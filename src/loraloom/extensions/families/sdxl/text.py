"""Both text encoders of Stable Diffusion XL as the prompts room sees them.

In: prompts that are cut into windows. Out: for each prompt the penultimate hidden states of both encoders side by side, and
the pooled embedding of the second.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from loraloom.extensions.families._diffusers.dropping import ALL, Outputs, without
from loraloom.extensions.families._diffusers.windows import encode_windows
from loraloom.extensions.families._ldm.clip import ClipTokenizer, encode
from loraloom.protocols.model import EncoderTokens, ModelFiles, Modules, Prompt, Tensors, Tokenizer
from loraloom.utils.atomic_files import sha256_bytes
from loraloom.utils.errors import UserError

ENCODERS = ("text_encoder", "text_encoder_2")
PENULTIMATE = 2


class SdxlText:
    """See `protocols.model.TextModel`. Any number of windows is read, each by both encoders.

    The two tokenizers have one vocabulary and pad differently, so a prompt is cut once.
    """

    max_windows: int | None = None

    def __init__(self, files: ModelFiles, modules: Modules, configs: Mapping[str, Mapping[str, Any]]) -> None:
        self._modules = modules
        self._tokenizers = [
            ClipTokenizer(
                files.path(folder),
                num_ids=int(configs[encoder].get("vocab_size", 49408)),
                num_positions=int(configs[encoder].get("max_position_embeddings", 77)),
            )
            for folder, encoder in zip(("tokenizer", "tokenizer_2"), ENCODERS, strict=True)
        ]
        width = int(configs[ENCODERS[0]].get("hidden_size", 512))
        self._outputs: Outputs = {
            ENCODERS[0]: {"hidden": slice(width)},
            ENCODERS[1]: {"hidden": slice(width, None), "pooled": ALL},
        }
        first, second = self._tokenizers
        if first.window_tokens != second.window_tokens or not first.same_vocabulary(second):
            raise UserError(
                "the two tokenizers of this model differ",
                got="tokenizer and tokenizer_2 with other vocabularies or lengths",
                expected="one vocabulary and one length, as Stable Diffusion XL has them",
                fix="the parts are of different models: download the model again",
            )

    @property
    def tokenizer(self) -> Tokenizer:
        """The first encoder's."""
        return self._tokenizers[0]

    @property
    def fingerprint(self) -> str:
        """sha256 over both tokenizers' files and both encoders' weights, read once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        files = [tokenizer.files_sha256 for tokenizer in self._tokenizers]
        weights = [self._modules.fingerprint(encoder) for encoder in ENCODERS]
        return sha256_bytes("\n".join([*files, *weights]).encode())

    def encode(self, prompts: Sequence[Prompt]) -> list[Tensors]:
        """`hidden`: (n, k, d) embeddings of each prompt, d the sum of both widths; `pooled`: (p,) of its first window."""
        hidden = [self._hidden(number, prompts) for number in range(len(ENCODERS))]
        return [
            {"hidden": torch.cat([first_nkd, second_nkd], dim=-1), "pooled": pooled_p}
            for (first_nkd, _), (second_nkd, pooled_p) in zip(*hidden, strict=True)
        ]

    def without(self, text: Tensors, empty: Tensors, encoders: Collection[str]) -> Tensors:
        """Half of the hidden states is each encoder's, the pooled embedding the second one's."""
        return without(text, empty, encoders, self._outputs)

    def counts(self, text: str) -> Sequence[EncoderTokens]:
        """Nothing to compare: both encoders read any number of windows of one vocabulary."""
        return ()

    def unread(self, prompt: Prompt) -> tuple[str, ...]:
        """Empty: any number of windows is encoded."""
        return ()

    def _hidden(self, number: int, prompts: Sequence[Prompt]) -> list[tuple[Tensor, Tensor | None]]:
        """One encoder's windows (n, k, d) of each prompt, and the pooled embedding (p,) of its first window."""
        module = self._modules.get(ENCODERS[number])
        pooled: list[Tensor | None] = []

        def states(ids_nk: Tensor) -> Tensor:
            said = encode(module, ids_nk, PENULTIMATE, final_norm=False)
            pooled.extend(said.pooled_nd if said.pooled_nd is not None else [None] * len(ids_nk))
            return said.hidden_nkd

        hidden = encode_windows(prompts, self._tokenizers[number], states)
        firsts = [0]
        for prompt in prompts[:-1]:
            firsts.append(firsts[-1] + len(prompt.windows))
        return [(hidden_nkd, pooled[first]) for hidden_nkd, first in zip(hidden, firsts, strict=True)]
