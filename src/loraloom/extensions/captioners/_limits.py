"""What the files of a captioning model may say before a library reads them: sane numbers, weights that fit the config.

In: a model's folder. Out: nothing, or a `UserError` with file, key and range. Captioners open models of many kinds, so a
number has its range by the name of its key: what counts layers, what is a width, what is the side of an image.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# torch and transformers are not typed.

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from loraloom.utils.errors import UserError
from loraloom.utils.memory import total_memory_bytes
from loraloom.utils.safetensors_io import read_header
from loraloom.utils.untrusted import Shown, check_range, is_there, read_json_object

_COUNTS = re.compile(
    r"layers|depth|heads|blocks|groups|stages|experts|num_hidden|num_beams|num_return|queries|query_tokens"
)
_SIDES = re.compile(
    r"^(height|width|shortest_edge|size|crop_size|image_size|patch_size|temporal_patch_size|merge_size)$"
)
_EDGES = re.compile(r"^(longest_edge|min_pixels|max_pixels)$")
_WIDTHS = re.compile(r"size|dim|width|channels|hidden|positions|length|tokens")
_LIMITS = ((_COUNTS, 2048), (_SIDES, 8192), (_EDGES, 1 << 25), (_WIDTHS, 1 << 24))
_MOST = 1 << 40
"""Any other whole number."""
_SLACK = 1_000_000
"""Numbers that a config may require beyond its files; missing tensors are named later."""


def check_folder(folder: Path) -> dict[str, Any]:
    """The config of a captioning model; all numbers in it, and in the files beside it, are in their ranges.

    Raises:
        UserError: A file cannot be read, or says a number that no captioning model has.
    """
    config = _checked(folder, "config.json")
    for name in ("generation_config.json", "preprocessor_config.json", "processor_config.json"):
        if is_there(folder / name):
            _checked(folder, name)
    return config


def check_fit(kind: Any, folder: Path, weights: list[Path]) -> None:
    """Build the model without memory, and compare it with what its weight files hold and with this machine.

    Args:
        kind: Class of transformers with `from_config` or `_from_config`.
        folder: Its folder.
        weights: Its safetensors files.

    Raises:
        UserError: A file is damaged, the machine is too small, or the weights are not those of the config.
    """
    import torch
    import transformers

    stored = sum(math.prod(info.shape) for file in weights for info in read_header(file).tensors.values())
    memory = total_memory_bytes()
    if memory is not None and 2 * stored > memory:
        raise UserError(
            "the captioning model needs more memory than this machine has",
            got=Shown(f"{stored:,} weights"),
            fix="name a smaller --caption-model",
        )
    config: Any = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    make = getattr(kind, "from_config", None) or kind._from_config
    with torch.device("meta"):
        asked = sum(weight.numel() for weight in make(config).parameters())
    if asked > 1.5 * stored + _SLACK:
        raise UserError(
            "the captioning model's config does not belong to its weights",
            got=Shown(f"a config of {asked:,} numbers"),
            expected=f"{stored:,} as in its files",
            fix="download it again",
        )


def _checked(folder: Path, name: str) -> dict[str, Any]:
    what = f"{name} of the captioning model {folder.name}"
    config = read_json_object(folder / name, what)
    for key, value in _whole_numbers(config):
        most = next((limit for pattern, limit in _LIMITS if pattern.search(key)), _MOST)
        check_range(value, f"{what}: {key}", -_MOST if most == _MOST else -1, most)
    return config


def _whole_numbers(config: Mapping[str, Any], key: str = "") -> Iterator[tuple[str, int]]:
    """Every whole number with its key; those of a list have the key of the list."""
    for name, value in config.items():
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        for one in values:
            if isinstance(one, dict):
                yield from _whole_numbers(cast("dict[str, Any]", one), name)
            elif isinstance(one, int) and not isinstance(one, bool):
                yield (key if name in {"min", "max"} else name), one
