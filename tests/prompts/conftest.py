"""A tokenizer of words, the real CLIP tokenizer where its merges are present, and the tiny model's encoder."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from loraloom.protocols.model import ModelSource


class WordText:
    """A token a word: window lengths can be reasoned about by counting words."""

    window_tokens = 12
    fingerprint = "words"

    def __init__(self) -> None:
        self.words: list[str] = []

    def tokenize(self, text: str) -> list[int]:
        ids: list[int] = []
        for word in text.split():
            if word not in self.words:
                self.words.append(word)
            ids.append(self.words.index(word))
        return ids

    def detokenize(self, ids: Sequence[int]) -> str:
        return " ".join(self.words[i] for i in ids)

    def window(self, ids: Sequence[int]) -> list[int]:
        return [9000, *ids, 9001] + [9002] * (self.window_tokens - 2 - len(ids))

    max_windows = None

    @property
    def tokenizer(self) -> "WordText":
        return self

    def encode_windows(self, ids_nk: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        table = torch.randn(10000, 8, generator=generator)
        return table[ids_nk]


@pytest.fixture
def words() -> WordText:
    return WordText()


@pytest.fixture(scope="session")
def tiny_text(tiny_model: Path):
    from loraloom.models.loading import open_model

    return open_model(ModelSource(location=str(tiny_model))).text


@pytest.fixture(scope="session")
def clip_text(shared_data: Path, tmp_path_factory: pytest.TempPathFactory):
    """SD 1.x's own tokenizer, made from OpenAI's published merges."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    from loraloom.extensions.families.stable_diffusion.text import ClipText

    with gzip.open(shared_data / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(rest))]
    vocabulary = [*letters, *(x + "</w>" for x in letters), *("".join(m.split()) for m in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder = tmp_path_factory.mktemp("clip")
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=77
    ).save_pretrained(folder)
    return ClipText(folder, lambda: torch.nn.Linear(1, 1), lambda: "none", num_ids=49408, num_positions=77)
