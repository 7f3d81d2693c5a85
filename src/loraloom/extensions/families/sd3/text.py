"""The text encoders of Stable Diffusion 3 as the prompts room sees them.

In: prompts. Out: for each the penultimate states of both CLIP encoders side by side (77 positions), T5's states (256
positions), and both pooled embeddings. CLIP reads the first window, T5 the plain text; what is beyond both is named by
`unread`. Without T5 a prompt ends after CLIP's window.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from loraloom.extensions.families._diffusers.dropping import ALL, Outputs, without
from loraloom.extensions.families._diffusers.t5 import T5Text
from loraloom.extensions.families._diffusers.windows import encode_windows
from loraloom.extensions.families._ldm.clip import ClipTokenizer, encode
from loraloom.extensions.families.sd3.source import T5_PART
from loraloom.protocols.model import EncoderTokens, ModelFiles, Modules, Prompt, Tensors, Tokenizer
from loraloom.utils.atomic_files import sha256_bytes

CLIPS = ("text_encoder", "text_encoder_2")
PENULTIMATE = 2


class Sd3Text:
    """See `protocols.model.TextModel`.

    Args:
        files: Files of the model.
        modules: Modules of the model.
        configs: Folder -> config; T5 is read where its config is there.
        t5_tokens: Tokens that T5 reads.
    """

    max_windows: int | None = 1

    def __init__(
        self, files: ModelFiles, modules: Modules, configs: Mapping[str, Mapping[str, Any]], t5_tokens: int
    ) -> None:
        self._modules = modules
        self._clips = [
            ClipTokenizer(
                files.path(folder),
                num_ids=int(configs[encoder].get("vocab_size", 49408)),
                num_positions=int(configs[encoder].get("max_position_embeddings", 77)),
            )
            for folder, encoder in zip(("tokenizer", "tokenizer_2"), CLIPS, strict=True)
        ]
        width, pooled = (int(configs[CLIPS[0]].get(key) or 512) for key in ("hidden_size", "projection_dim"))
        self._outputs: Outputs = {
            CLIPS[0]: {"clip": slice(width), "pooled": slice(pooled)},
            CLIPS[1]: {"clip": slice(width, None), "pooled": slice(pooled, None)},
            T5_PART: {"t5": ALL},
        }
        num_ids = int(configs[T5_PART].get("vocab_size", 32128)) if T5_PART in configs else 0
        self.t5 = T5Text(files.path("tokenizer_3"), num_ids, t5_tokens) if num_ids else None
        self._t5_tokens = t5_tokens

    @property
    def tokenizer(self) -> Tokenizer:
        """The first CLIP encoder's."""
        return self._clips[0]

    @property
    def fingerprint(self) -> str:
        """sha256 over all tokenizers' files, all encoders' weights and T5's text length, read once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        files = [clip.files_sha256 for clip in self._clips] + ([self.t5.files_sha256] if self.t5 else [])
        parts = [*CLIPS, *([T5_PART] if self.t5 else [])]
        weights = [self._modules.fingerprint(part) for part in parts]
        return sha256_bytes("\n".join([*files, *weights, str(self._t5_tokens if self.t5 else 0)]).encode())

    def counts(self, text: str) -> Sequence[EncoderTokens]:
        """CLIP reads 75 tokens, T5 its number; CLIP's byte tokens know every letter."""
        capacity = self.tokenizer.window_tokens - 2
        clip = EncoderTokens(name="CLIP", capacity=capacity, tokens=len(self.tokenizer.tokenize(text)), unknown=0)
        return [clip, self.t5.counts(text)] if self.t5 else [clip]

    def unread(self, prompt: Prompt) -> tuple[str, ...]:
        """The text beyond T5's tokens; without T5 the text beyond CLIP's window."""
        if self.t5:
            return self.t5.unread(prompt.text)
        rest = self.tokenizer.tokenize(prompt.text)[self.tokenizer.window_tokens - 2 :]
        return (self.tokenizer.detokenize(rest),) if rest else ()

    def encode(self, prompts: Sequence[Prompt]) -> list[Tensors]:
        """`clip` (77, d1 + d2), `pooled` (p1 + p2,) and, with T5, `t5` (l, d)."""
        sides = [self._clip(number, prompts) for number in range(len(CLIPS))]
        encoded: list[dict[str, Tensor]] = [
            {"clip": torch.cat([first_kd, second_kd], dim=-1), "pooled": torch.cat([first_p, second_p])}
            for (first_kd, first_p), (second_kd, second_p) in zip(*sides, strict=True)
        ]
        if self.t5:
            # As the pipeline: padding is attended to.
            hidden_bld, _ = self.t5.encode(self._modules.get(T5_PART), prompts, masked=False)
            for one, hidden_ld in zip(encoded, hidden_bld, strict=True):
                one["t5"] = hidden_ld
        return list(encoded)

    def without(self, text: Tensors, empty: Tensors, encoders: Collection[str]) -> Tensors:
        """Both CLIP encoders share their tensors by columns."""
        return without(text, empty, encoders, self._outputs)

    def _clip(self, number: int, prompts: Sequence[Prompt]) -> list[tuple[Tensor, Tensor]]:
        """Prompt embeddings (k, d) and pooled embedding (p,) of one CLIP encoder, for the window of each prompt."""
        module = self._modules.get(CLIPS[number])
        pooled: list[Tensor] = []

        def states(ids_nk: Tensor) -> Tensor:
            said = encode(module, ids_nk, PENULTIMATE, final_norm=False)
            assert said.pooled_nd is not None
            pooled.extend(said.pooled_nd)
            return said.hidden_nkd

        hidden = encode_windows(prompts, self._clips[number], states)
        return [(hidden_nkd[0], pooled_p) for hidden_nkd, pooled_p in zip(hidden, pooled, strict=True)]
