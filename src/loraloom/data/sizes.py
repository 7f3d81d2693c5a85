"""Sizes of the images of a dataset: the most common one, and whether a model takes them all."""

from collections.abc import Callable, Sequence

from loraloom.protocols.data import Example
from loraloom.protocols.model import DiffusionModel
from loraloom.utils.errors import UserError

Say = Callable[[str], None]


def common_size(examples: Sequence[Example]) -> tuple[int, int]:
    """The most frequent (width, height); the smallest of equally frequent ones."""
    counts: dict[tuple[int, int], int] = {}
    for example in examples:
        counts[example.width, example.height] = counts.get((example.width, example.height), 0) + 1
    return min(counts, key=lambda size: (-counts[size], size))


def check_sizes(model: DiffusionModel, examples: Sequence[Example]) -> None:
    """Raise `UserError` when a prepared image does not fall on whole latents."""
    step = model.info.size_multiple
    for example in examples:
        if example.width % step or example.height % step:
            raise UserError(
                f"image {example.id} has sides that are no multiples of {step}",
                got=f"{example.width}x{example.height}",
                fix=f"prepare again with --size and --bucket-step multiples of {step}",
            )
