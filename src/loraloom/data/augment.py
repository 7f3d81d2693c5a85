"""Augmented variants of prepared images: crops that keep the subject, and changes of light and colour, a fixed number each.

In: an example, the number of a variant, and the settings. Out: an example of the same image that names what is cut and changed,
and the pixels of it. A variant is a function of (image, settings, seed, number), so its latents are cached and a resumed run
sees the same ones. Words stay true: no hue is changed and nothing of the subject is cut; where colours have a meaning
(`Domain.colours`), or a caption states the whole image, both are refused.

The subject is what stands out in the saliency map of the image (`utils.saliency`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from loraloom.protocols.data import Example
from loraloom.protocols.domain import Domain
from loraloom.utils.errors import UserError
from loraloom.utils.progress import Progress
from loraloom.utils.rng import derive_seed
from loraloom.utils.saliency import saliency_map, subject_box

Fractions = tuple[float, float, float, float]
"""left, top, right, bottom as fractions of width and height."""

WHOLE: Fractions = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentedExample(Example):
    """A variant of an example; `sha256`, `crop` and `scale` are those of the variant.

    Attributes:
        box: What is kept of the prepared image, as fractions; it is resized to the image's size.
        light: Factors of brightness, contrast and saturation; 1 changes nothing.
    """

    box: Fractions
    light: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How images are varied.

    Attributes:
        variants: Number of variants of an image beside the prepared one; 0: no augmentation.
        crop: Largest fraction of each side that a variant cuts away, 0 to 0.5.
        light: Largest change of brightness, contrast and saturation as a fraction, 0 to 0.5.
        seed: Seed of the run.
        subjects: Box of each image's subject by id; see `find_subjects`.
    """

    variants: int = 0
    crop: float = 0.0
    light: float = 0.0
    seed: int = 0
    subjects: dict[str, Fractions] = field(default_factory=dict[str, Fractions])

    def find_subjects(self, folder: Path, examples: Sequence[Example], progress: Progress | None = None) -> None:
        """Look for the subject of every image; nothing is done where no image is cropped."""
        if not self.variants or not self.crop:
            return
        for done, example in enumerate(examples, 1):
            if example.id not in self.subjects:
                with Image.open(folder / example.image, formats=["PNG", "JPEG", "WEBP"]) as image:
                    self.subjects[example.id] = subject_box(saliency_map(image), margin=0.0)
            if progress:
                progress(done, len(examples))

    def all_of(self, example: Example) -> list[Example]:
        """The example, then its variants."""
        return [example, *(self.variant(example, number) for number in range(1, self.variants + 1))]

    def variant(self, example: Example, number: int) -> Example:
        """Variant `number` of an example; 0 is the example itself."""
        if number == 0:
            return example
        rng = np.random.default_rng(derive_seed(self.seed, example.id, number, "augment"))
        shares = rng.random(6)
        box = crop_box(self.subjects.get(example.id, WHOLE), self.crop, shares[:3]) if self.crop else WHOLE
        change = tuple(float(1 + self.light * (2 * share - 1)) for share in shares[3:])
        given = {column.name: getattr(example, column.name) for column in fields(Example)}
        given |= _geometry(example, box)
        what = ",".join(f"{value:.6f}" for value in (*box, *change))
        given["sha256"] = f"{example.sha256} {what}"
        return AugmentedExample(**given, box=box, light=(change[0], change[1], change[2]))

    def refuse(self, examples: Sequence[Example], domain: Domain) -> None:
        """Raise `UserError` where an augmentation would make captions false: colours of this domain have a meaning."""
        if not self.variants or not (self.crop or self.light):
            return
        coded = [example.id for example in examples if any(domain.colours(text) for text in example.captions)]
        if coded:
            raise UserError(
                f"augment.variants is on, but the colours of {len(coded)} of {len(examples)} images have a meaning",
                got=f"domain {domain.name}: {coded[0]}",
                fix="set augment.variants=0: a crop or another colour would make their captions false",
            )


def _geometry(example: Example, box: Fractions) -> dict[str, object]:
    """Crop in source pixels and scale of a variant."""
    left, top, right, bottom = example.crop
    width, height = right - left, bottom - top
    crop = (
        round(left + box[0] * width),
        round(top + box[1] * height),
        round(left + box[2] * width),
        round(top + box[3] * height),
    )
    return {"crop": crop, "scale": example.scale / (box[2] - box[0])}


def crop_box(subject: Fractions, most: float, shares: NDArray[np.float64]) -> Fractions:
    """A box of the image's aspect ratio that has the whole subject.

    Args:
        subject: Box of the subject.
        most: Largest fraction of each side that may be cut away.
        shares: Three numbers in [0, 1): size, place across, place down.
    """
    left, top, right, bottom = subject
    least = max(1 - most, right - left, bottom - top)
    side = float(least + (1 - least) * shares[0])
    corners: list[float] = []
    for low, high, share in ((left, right, shares[1]), (top, bottom, shares[2])):
        first, last = max(0.0, high - side), min(low, 1 - side)
        corners.append(float(first + (last - first) * share))
    return corners[0], corners[1], min(1.0, corners[0] + side), min(1.0, corners[1] + side)


def augmented_pixels(image: Image.Image, example: Example) -> Image.Image:
    """An RGB image as a variant has it; other examples leave it as it is."""
    if not isinstance(example, AugmentedExample):
        return image
    if example.box != WHOLE:
        left, top, right, bottom = example.box
        box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
        image = image.resize(image.size, Image.Resampling.LANCZOS, box=box)
    for kind, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), example.light, strict=True
    ):
        if factor != 1:
            image = kind(image).enhance(factor)
    return image


def settings_line(augmentation: Augmentation) -> str:
    """What is done, for the user."""
    return (
        f"augmentation: {augmentation.variants} variants of each image beside the prepared one; crops of up to "
        f"{augmentation.crop:.0%} of a side around the subject, light and saturation changed by up to {augmentation.light:.0%}"
    )
