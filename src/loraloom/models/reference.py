"""Open the base that people usually train of a family from the configs of its card: no weights, no download.

In: a family's name and its card. Out: a `DiffusionModel` whose `info` and skeletons are those of the real base, but for the
vocabularies: a card brings no tokenizers, so those of the family's tiny model and their sizes stay.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loraloom import plugins
from loraloom.models.loading import resolve
from loraloom.protocols.family_card import FamilyCard
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.utils.atomic_files import write_json
from loraloom.utils.untrusted import read_json_object

_OF_TOKENIZERS = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""Keys of a text encoder's config that belong to its tokenizer."""


@contextmanager
def reference_model(name: str, card: FamilyCard) -> Iterator[DiffusionModel]:
    """The usual base of a family, opened from its card's configs, which lie in a temporary folder meanwhile."""
    family = plugins.load("families", name)
    with TemporaryDirectory() as place:
        folder: Path = family.build_tiny(Path(place) / "model")
        for weights in folder.rglob("*.safetensors"):
            weights.unlink()
        for file, config in card.configs.items():
            write_json(folder / file, _with_tokenizer(folder / file, config))
        files = resolve(ModelSource(location=str(folder)))
        yield family.open(replace(files, source=ModelSource(location=card.base)))


def num_parameters(model: DiffusionModel, card: FamilyCard, part: str) -> int:
    """The numbers of a part of the base that `reference_model` opened, its real vocabulary counted."""
    config: Mapping[str, Any] = card.configs.get(f"{model.lora_format.component(part)}/config.json", {})
    skeleton: Any = model.modules.skeleton(part)
    tiny = getattr(getattr(skeleton, "config", None), "vocab_size", None)
    total = 0
    for weight in skeleton.parameters():
        rows = config.get("vocab_size", weight.shape[0]) if tiny and weight.shape[0] == tiny else None
        total += weight.numel() if rows is None else rows * weight.numel() // weight.shape[0]
    return total


def _with_tokenizer(file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of a card with what belongs to the tiny model's tokenizer kept."""
    if "vocab_size" not in config or not file.is_file():
        return dict(config)
    tiny = read_json_object(file, file.name)
    return {key: value for key, value in config.items() if key not in _OF_TOKENIZERS} | {
        key: tiny[key] for key in _OF_TOKENIZERS if key in tiny
    }
