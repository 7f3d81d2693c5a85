"""Which examples of a dataset are held out: as the source says, or by groups of near-duplicates.

In: examples and the near-duplicate group of each. Out: the examples with their split, and lines for the user.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from loraloom.config.prepare import PrepareConfig
from loraloom.prepare.duplicates import SPLITS_FILE, held_out
from loraloom.protocols.data import Example

_FEWEST_TO_SPLIT = 10


def split_examples(
    examples: Sequence[Example],
    labels: list[int],
    given: frozenset[str] | None,
    config: PrepareConfig,
    console: Callable[[str], None],
) -> tuple[list[int], list[Example]]:
    """The near-duplicate group of every example, and the examples with their split."""
    asked = "validation_share" in config.model_fields_set
    share = config.validation_share if asked or len(examples) >= _FEWEST_TO_SPLIT else 0.0
    if given is not None and config.validation_share > 0:
        console(f"  held out: what {SPLITS_FILE} of the source says")
        return labels, [
            replace(example, split="validation" if example.id in given else "train") for example in examples
        ]
    if share == 0 and config.validation_share > 0:
        console(f"  nothing is held out of fewer than {_FEWEST_TO_SPLIT} images; --validation-share asks for it")
    chosen = held_out(labels, [example.source_sha256 for example in examples], share, config.seed)
    if share > 0 and not any(chosen):
        console("  nothing is held out: all images are near-duplicates of each other")
    return labels, [
        replace(example, split="validation" if held else "train")
        for example, held in zip(examples, chosen, strict=True)
    ]


def ids_by_label(examples: Sequence[Example], labels: Sequence[int]) -> list[list[str]]:
    """Ids of the examples of each near-duplicate group."""
    groups: dict[int, list[str]] = {}
    for example, label in zip(examples, labels, strict=True):
        groups.setdefault(label, []).append(example.id)
    return list(groups.values())
