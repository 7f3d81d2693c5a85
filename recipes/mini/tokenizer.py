"""A byte-pair vocabulary in CLIP's format, learned from captions.

In: captions. Out: a tokenizer folder that `CLIPTokenizer` reads: lower case, words end in `</w>`, and any text can be
encoded, if necessary byte by byte. Merging: Sennrich et al. 2016, with CLIP's rules of where words end.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, trainers
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from loraloom.utils.atomic_files import write_text
from recipes.mini.layout import WINDOW_TOKENS

_START, _END = "<|startoftext|>", "<|endoftext|>"


def byte_letters() -> list[str]:
    """The 256 letters for bytes, in CLIP's order: printable ones, then the others from code point 256 up."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(rest))]


def train_tokenizer(captions: Iterable[str], num_tokens: int, folder: Path) -> CLIPTokenizer:
    """Learn merges and write `vocab.json` and `merges.txt`.

    Args:
        captions: Captions; iterated once.
        num_tokens: Size of the vocabulary with bytes and the two special tokens; smaller if the captions have no more pairs.
        folder: Folder to write; created if missing.
    """
    letters = byte_letters()
    first = [*letters, *(letter + "</w>" for letter in letters)]
    template = _open(folder / ".template", first, [])
    rules: Any = getattr(template, "_tokenizer")  # noqa: B009 - the library's access to its Rust part
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    learner.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=num_tokens - 2, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False,
            special_tokens=[],
        ),
    )  # fmt: skip
    merges = [
        " ".join(pair) if not isinstance(pair, str) else pair
        for pair in json.loads(learner.to_str())["model"]["merges"]
    ]
    words = [*first, *("".join(merge.split(" ")) for merge in merges)][: num_tokens - 2]
    merges = merges[: num_tokens - 2 - len(first)]
    for file in (folder / ".template").iterdir():
        file.unlink()
    (folder / ".template").rmdir()
    return _open(folder, words, merges)


def _open(folder: Path, words: list[str], merges: list[str]) -> CLIPTokenizer:
    vocabulary = {word: index for index, word in enumerate([*words, _START, _END])}
    assert len(vocabulary) == len(words) + 2, "a merge made an existing word"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False))
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=WINDOW_TOKENS
    )
