"""Near-duplicates, and a split that does not tear them apart.

In: images, as 64-bit perceptual hashes (`utils.perceptual_hash`) of all eight flips and quarter turns. Out: groups of
images that are nearly the same, and the choice of groups that are held out. Without the eight a mirrored copy looks like
another image and leaks into validation.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loraloom.config.prepare import PrepareConfig
from loraloom.protocols.data import Example
from loraloom.utils.errors import UserError
from loraloom.utils.perceptual_hash import NUM_VARIANTS
from loraloom.utils.untrusted import MAX_TABLE_BYTES, is_there, read_json_object

SPLITS_FILE = "splits.json"
"""A source that has this file decides itself what is held out."""

_FEWEST_TO_SPLIT = 10


def near_duplicate_groups(hashes: npt.NDArray[np.uint64], max_bits: int) -> npt.NDArray[np.int64]:
    """Group number of every image; images linked by a chain of near pairs share one.

    Two images are near when the least Hamming distance between one and the eight variants of the other is at most
    `max_bits`. One row of the distance matrix is in memory at a time: 20,000 images need 4 MB and some seconds.

    Args:
        hashes: (n, 8) uint64 from `utils.perceptual_hash.perceptual_hashes`.
        max_bits: 0 .. 64.

    Returns:
        (n,) int64 labels, not consecutive.
    """
    assert hashes.ndim == 2 and hashes.shape[1] == NUM_VARIANTS, hashes.shape
    unique, inverse = np.unique(hashes, axis=0, return_inverse=True)
    labels = np.arange(len(unique))
    own = np.ascontiguousarray(unique[:, 0])
    for row in range(len(unique) - 1):
        distances = _popcount(unique[row][:, None] ^ own[None, row + 1 :])
        near = np.flatnonzero((distances <= max_bits).any(axis=0)) + row + 1
        for label in np.unique(labels[near]):
            if label != labels[row]:
                labels[labels == label] = labels[row]
    return labels[inverse.reshape(-1)]


def _popcount(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    bitwise_count: Any = getattr(np, "bitwise_count", None)
    if bitwise_count is not None:
        return bitwise_count(values)
    # numpy 1.x: the usual folding of bits into sums.
    values = values - ((values >> np.uint64(1)) & np.uint64(0x5555555555555555))
    values = (values & np.uint64(0x3333333333333333)) + ((values >> np.uint64(2)) & np.uint64(0x3333333333333333))
    values = (values + (values >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return ((values * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.uint8)


def given_split(source: Path) -> frozenset[str] | None:
    """Ids that the source itself holds out, from its `splits.json` (`{"train": [...], "validation": [...]}`); None without.

    Raises:
        UserError: The file is there and says something else.
    """
    file = source / SPLITS_FILE
    if not is_there(file):
        return None
    sides = read_json_object(file, str(file), max_bytes=MAX_TABLE_BYTES, unique_keys=True)
    try:
        train, held = ({str(id_) for id_ in sides[side]} for side in ("train", "validation"))
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{file} is no split ({type(error).__name__}: {error})",
            expected='{"train": [ids], "validation": [ids]}',
            fix="correct it, or move it away to split by content",
        ) from None
    if both := train & held:
        raise UserError(f"{file} has ids on both sides", got=", ".join(sorted(both)[:5]), fix="correct it")
    return frozenset(held)


def held_out(labels: Sequence[int], contents: Sequence[str], share: float, seed: int) -> list[bool]:
    """Which images are held out for validation.

    Groups stand in the order of a hash of (seed, smallest content sha256 of the group) and are taken while they fit
    into `share` of the images. The order of a group does not depend on the others, so an image that is added moves
    the border by little and reshuffles nothing.

    Args:
        labels: Group of every image.
        contents: sha256 of every source file.
        share: Share of all images that is held out, 0 to 1; above 0 at least one image is wanted. One always stays for
            training.
        seed: Another seed holds out other groups.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        groups[int(label)].append(index)
    wanted = min(max(1, round(share * len(labels))), len(labels) - 1) if share > 0 else 0

    def order(members: list[int]) -> str:
        return hashlib.sha256(f"{seed}:{min(contents[index] for index in members)}".encode()).hexdigest()

    chosen = [False] * len(labels)
    for members in sorted(groups.values(), key=order):
        if len(members) <= wanted:
            wanted -= len(members)
            for index in members:
                chosen[index] = True
    return chosen


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
