"""Tokenizers of a diffusers folder other than CLIP's: files of sane size, and ids that the encoder knows.

In: a tokenizer's folder, its class and the encoder's vocabulary size. Out: the tokenizer, or a `UserError`.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

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
)

SENTENCEPIECE = ("spiece.model", "tokenizer.json")
"""Files of a SentencePiece tokenizer, of which one must be there."""


def open_tokenizer(folder: Path, kind: Any, num_ids: int, one_of: Collection[str]) -> Any:
    """A tokenizer whose files are of sane size and whose ids the encoder knows.

    Args:
        folder: The tokenizer's folder.
        kind: Class of transformers with `from_pretrained`.
        num_ids: Vocabulary size of the encoder.
        one_of: Files of which one must be there.

    Raises:
        UserError: A file is missing, too large or unreadable, or an id is beyond the vocabulary.
    """
    if not folder.is_dir():
        raise UserError(
            f"the model lacks {folder.name}", got=str(folder.parent), fix="point to a complete diffusers folder"
        )
    entries = sorted(entry for entry in folder.iterdir() if not entry.is_dir())
    for entry in entries:
        what = f"{folder.name}/{entry.name} of the model"
        check_regular_file(entry, what, max_bytes=MAX_TOKENIZER_BYTES)
        if entry.suffix == ".json":
            value = read_json_object(entry, what, max_bytes=MAX_TOKENIZER_BYTES)
            refuse_foreign(value, what)
            check_range(value.get("model_max_length") or 1, f"{what}: model_max_length", 1, 10**31, whole=False)
    names = {entry.name for entry in entries}
    if not names & set(one_of):
        raise UserError(
            f"the model's {folder.name} is not whole",
            got=", ".join(sorted(names)) or "an empty folder",
            expected=" or ".join(one_of),
            fix="download the model again",
        )
    if "tokenizer.json" not in names and "spiece.model" in names:
        _require_sentencepiece(folder)
    with library_errors(f"the model's {folder.name}", folder), quiet():
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
        largest = max(index for word, index in tokenizer.get_vocab().items() if not word.startswith("<extra_id_"))
    if largest >= num_ids:
        raise UserError(
            f"the model's {folder.name} has ids that its text encoder does not know",
            got=largest,
            expected=f"below vocab_size ({num_ids:,})",
            fix="tokenizer and text encoder are of different models",
        )
    return tokenizer


def files_sha256(folder: Path) -> str:
    """Names and sums of the files of a tokenizer's folder."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    return "".join(f"{folder.name}/{file.name}{sha256_file(file)}" for file in files)


def _require_sentencepiece(folder: Path) -> None:
    """transformers reads a SentencePiece model by two packages that nothing else here needs."""
    from importlib.util import find_spec

    missing = [
        name
        for name, module in (("sentencepiece", "sentencepiece"), ("protobuf", "google.protobuf"))
        if not _found(find_spec, module)
    ]
    if missing:
        raise UserError(
            f"the model's {folder.name} is a SentencePiece model, which needs more packages",
            got=f"{' and '.join(missing)} not installed",
            fix=f"pip install {' '.join(missing)}",
        )


def _found(find_spec: Callable[[str], object], module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it
        return False
