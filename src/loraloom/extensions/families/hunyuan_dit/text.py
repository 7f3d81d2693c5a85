"""The two text encoders of HunyuanDiT as the prompts room sees them.

In: prompts. Out: for each the embeddings of BERT ("CLIP" in the paper: 77 positions) and of mT5 (256 positions) with their
masks. BERT reads one window of its own tokenizer, or more by an option, and knows English and Chinese; mT5 reads the whole
text in any language, up to 255 tokens. What is beyond both is named by `unread`.
"""

from collections.abc import Callable, Collection, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.bert.tokenization_bert import BertTokenizer

from loraloom.extensions.families._diffusers.dropping import ALL, Outputs, without
from loraloom.extensions.families._diffusers.t5 import T5Text
from loraloom.extensions.families._diffusers.tokenizers import files_sha256, open_tokenizer
from loraloom.extensions.families._diffusers.windows import encode_windows
from loraloom.extensions.families.hunyuan_dit.limits import CLIP_TOKENS, T5_TOKENS
from loraloom.protocols.model import EncoderTokens, Prompt, Tensors, Tokenizer
from loraloom.utils.atomic_files import sha256_bytes

OUTPUTS: Outputs = {
    "text_encoder": {"clip": ALL, "clip_mask": ALL},
    "text_encoder_2": {"t5": ALL, "t5_mask": ALL},
}


class HunyuanText:
    """Both tokenizers and encoders; an encoder's weights are asked for when the first prompt is encoded.

    Args:
        folder: The model's folder, with `tokenizer` and `tokenizer_2`.
        module: Part name to its module.
        weights_fingerprint: Part name to the sum of its weights.
        num_ids: Vocabulary size of both encoders, by part.
        num_windows: Windows that the first encoder reads. Every prompt gets as many rows, whatever its length: the denoiser
            attends to padding too, so that the number must not depend on the batch.
    """

    window_tokens = CLIP_TOKENS

    def __init__(
        self,
        folder: Path,
        module: Callable[[str], nn.Module],
        weights_fingerprint: Callable[[str], str],
        num_ids: dict[str, int],
        num_windows: int = 1,
    ) -> None:
        self.max_windows: int | None = num_windows
        self._clip: Any = open_tokenizer(
            folder / "tokenizer", BertTokenizer, num_ids["text_encoder"], ("vocab.txt", "tokenizer.json")
        )
        self._t5 = T5Text(folder / "tokenizer_2", num_ids["text_encoder_2"], T5_TOKENS, "mT5")
        self._folder = folder
        self._module = module
        self._weights_fingerprint = weights_fingerprint
        # Captions of one kind repeat their sentences, and the tokenizer takes longer to be called than to work.
        self._ids = lru_cache(1 << 14)(self._tokenized)

    @property
    def tokenizer(self) -> Tokenizer:
        """BERT's: its window is cut."""
        return self

    @property
    def fingerprint(self) -> str:
        """sha256 over the files of both tokenizers, the weights of both encoders and the number of windows."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        own = files_sha256(self._folder / "tokenizer") + self._t5.files_sha256
        weights = "".join(self._weights_fingerprint(part) for part in ("text_encoder", "text_encoder_2"))
        return sha256_bytes(f"{own}{weights}{self.max_windows}".encode())

    def tokenize(self, text: str) -> list[int]:
        """BERT's ids without [CLS], [SEP] and padding, never cut."""
        return list(self._ids(text))

    def _tokenized(self, text: str) -> tuple[int, ...]:
        return tuple(self._clip(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])

    def detokenize(self, ids: Sequence[int]) -> str:
        """Readable text of BERT's ids."""
        return str(self._clip.decode(list(ids)))

    def window(self, ids: Sequence[int]) -> list[int]:
        """[CLS], ids, [SEP], padding."""
        assert len(ids) <= self.window_tokens - 2, len(ids)
        row = [int(self._clip.cls_token_id), *ids, int(self._clip.sep_token_id)]
        return row + [int(self._clip.pad_token_id)] * (self.window_tokens - len(row))

    def counts(self, text: str) -> Sequence[EncoderTokens]:
        """BERT reads 75 tokens a window, mT5 255; letters that one does not know are [UNK] or <unk> to it."""
        ids = self._clip(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        clip = EncoderTokens(
            name="CLIP (BERT)",
            capacity=(self.max_windows or 1) * (self.window_tokens - 2),
            tokens=len(ids),
            unknown=sum(index == self._clip.unk_token_id for index in ids),
        )
        return [clip, self._t5.counts(text)]

    def unread(self, prompt: Prompt) -> tuple[str, ...]:
        """The text beyond mT5's 255 tokens."""
        return self._t5.unread(prompt.text)

    def encode(self, prompts: Sequence[Prompt]) -> list[Tensors]:
        """`clip` (75 n + 2, d) and `t5` (256, d5) embeddings, `clip_mask` (75 n + 2,) and `t5_mask` (256,) bool."""
        clip = self._encode_clip(prompts)
        t5_bld, mask_bl = self._t5.encode(self._module("text_encoder_2"), prompts, masked=True)
        return [
            {"clip": own, "clip_mask": clip_mask, "t5": t5_ld, "t5_mask": mask_l}
            for (own, clip_mask), t5_ld, mask_l in zip(clip, t5_bld, mask_bl, strict=True)
        ]

    def without(self, text: Tensors, empty: Tensors, encoders: Collection[str]) -> Tensors:
        """Each encoder makes its embeddings and their mask."""
        return without(text, empty, encoders, OUTPUTS)

    def _encode_clip(self, prompts: Sequence[Prompt]) -> list[tuple[Tensor, Tensor]]:
        module = self._module("text_encoder")
        device = next(module.parameters()).device
        places = torch.arange(self.window_tokens)
        lengths_n = torch.tensor([len(window.ids) + 2 for prompt in prompts for window in prompt.windows])
        mask_nk = places < lengths_n[:, None]

        def encode(ids_nk: Tensor) -> Tensor:
            return module(ids_nk.to(device), attention_mask=mask_nk.long().to(device))[0]

        embeddings = encode_windows(prompts, self, encode)
        return [
            self._join(hidden_nkd, (places < torch.tensor([[len(window.ids) + 2] for window in prompt.windows])))
            for prompt, hidden_nkd in zip(prompts, embeddings, strict=True)
        ]

    def _join(self, hidden_nkd: Tensor, mask_nk: Tensor) -> tuple[Tensor, Tensor]:
        """A prompt's windows to one row of embeddings and mask: [CLS] of the first, 75 of each, the last of the last one.

        kohya's hydit branch joins them so; windows that a prompt does not fill are masked, as padding is.
        """
        lacking = (self.max_windows or 1) - len(hidden_nkd)
        if mask_nk.shape[0] != hidden_nkd.shape[0]:  # windows that were combined to one
            mask_nk = mask_nk.any(dim=0, keepdim=True)
        hidden_nkd = torch.cat([hidden_nkd, hidden_nkd.new_zeros(lacking, *hidden_nkd.shape[1:])])
        mask_nk = torch.cat([mask_nk, mask_nk.new_zeros(lacking, mask_nk.shape[1])]).to(hidden_nkd.device)
        return (
            torch.cat([hidden_nkd[0, :1], hidden_nkd[:, 1:-1].flatten(0, 1), hidden_nkd[-1, -1:]]),
            torch.cat([mask_nk[0, :1], mask_nk[:, 1:-1].flatten(), mask_nk[-1, -1:]]),
        )
