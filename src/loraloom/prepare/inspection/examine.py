"""Examine one image in a worker process: what the file is, how it would be cropped, how sharp and bright it is.

In: a task, one an image, and the settings that `prepare` would use. Out: an `Examination`: facts and numbers, no verdict; or
the reason why the file cannot be used. It reads, decodes, crops and hashes by the same functions as `prepare`.
"""

import io
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw

from loraloom.prepare.images import Box, Decoded, ImageSettings, decode, fit
from loraloom.prepare.inspection.quality import Quality, measure
from loraloom.prepare.pool import work_on_files
from loraloom.prepare.source_facts import PLAIN, SourceFacts
from loraloom.prepare.workers import read_image_file, what_is_hashed
from loraloom.protocols.data import ImageData
from loraloom.protocols.domain import Domain
from loraloom.utils.atomic_files import sha256_bytes
from loraloom.utils.errors import UserError
from loraloom.utils.image_bytes import RefusedError
from loraloom.utils.perceptual_hash import perceptual_hashes

THUMBNAIL_PX = 200
_SHADE = (255, 255, 255, 150)
_OUTLINE = (214, 40, 40)


@dataclass(frozen=True, slots=True)
class ExamineTask:
    """One image: its id, its file, whether a thumbnail is wanted, and how it is read where it lies inside the file.

    `side` is that of its first prepared size, pixels; None is that of the settings.
    """

    id: str
    source: Path
    thumbnail: bool
    data: ImageData | None = None
    side: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What was found of one image.

    Attributes:
        id: As in `SourceItem`.
        problem: Why the file cannot be used; all numbers are then zero.
        sha256: Hash of the file, hex.
        width, height: Upright, pixels.
        facts: What the file is.
        target: Size that it would be prepared to, pixels.
        crop: What would be kept, in source pixels.
        scale: Prepared pixels for one source pixel.
        quality: Blur and exposure of what would be kept.
        hashes: 8 perceptual hashes of 64 bits.
        notes: What `prepare` would say of it.
        fault: Why its domain cannot use it as it is; None when it can.
        thumbnail: JPEG bytes with the crop outlined, when they were wanted.
    """

    id: str
    problem: str | None = None
    sha256: str = ""
    width: int = 0
    height: int = 0
    facts: SourceFacts = PLAIN
    target: tuple[int, int] = (0, 0)
    crop: Box = (0, 0, 0, 0)
    scale: float = 0.0
    quality: Quality | None = None
    hashes: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    fault: str | None = None
    thumbnail: bytes | None = None

    @property
    def cut(self) -> float:
        """Share of the image that the crop takes away, 0 to 1."""
        left, top, right, bottom = self.crop
        return 1.0 - (right - left) * (bottom - top) / max(1, self.width * self.height)


def examine_all(
    tasks: Sequence[ExamineTask], settings: ImageSettings, domain: Domain, num_workers: int
) -> Generator[Examination, None, None]:
    """Examine all images in several processes; in no order."""
    yield from work_on_files(partial(examine, settings=settings, domain=domain), _refused, tasks, num_workers)


def examine(task: ExamineTask, settings: ImageSettings, domain: Domain) -> Examination:
    """Examine one image; whatever is wrong with the file is in the result."""
    settings = replace(settings, size=task.side or settings.size)
    try:
        data = read_image_file(task.source, settings.max_megapixels, task.data)
        decoded = decode(data, settings)
        fitted = fit(decoded, settings, task.id)
        # Enlarged pixels are soft by nature: an image is measured at its own size where that is the smaller one.
        seen = fitted.image if fitted.scale <= 1 else _cropped(decoded, fitted.crop)
        return Examination(
            id=task.id,
            sha256=sha256_bytes(data),
            width=decoded.width,
            height=decoded.height,
            facts=decoded.facts,
            target=fitted.image.size,
            crop=fitted.crop,
            scale=fitted.scale,
            quality=measure(seen),
            hashes=perceptual_hashes(what_is_hashed(decoded, fitted, settings)),
            notes=decoded.notes + fitted.notes,
            fault=domain.check_image(fitted.image),
            thumbnail=outlined(decoded, fitted.crop) if task.thumbnail else None,
        )
    except RefusedError as error:
        return _refused(task, str(error))
    except MemoryError:
        return _refused(task, "there is not enough memory to decode it")
    except UserError as error:
        return _refused(task, error.what)


def _cropped(decoded: Decoded, crop: Box) -> Image.Image:
    across, down = decoded.image.width / decoded.width, decoded.image.height / decoded.height
    left, top, right, bottom = crop
    return decoded.image.crop((round(left * across), round(top * down), round(right * across), round(bottom * down)))


def outlined(decoded: Decoded, crop: Box) -> bytes:
    """The whole image as a small JPEG; what the crop cuts off is pale, and what it keeps is outlined."""
    factor = max(1, round(max(decoded.image.size) / THUMBNAIL_PX))
    small = decoded.image.reduce(factor).convert("RGB")
    across, down = small.width / decoded.width, small.height / decoded.height
    box = (round(crop[0] * across), round(crop[1] * down), round(crop[2] * across), round(crop[3] * down))
    if box != (0, 0, *small.size):
        kept = small.crop(box)
        shade = Image.new("RGBA", small.size, _SHADE)
        small = Image.alpha_composite(small.convert("RGBA"), shade).convert("RGB")
        small.paste(kept, box[:2])
        ImageDraw.Draw(small).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=_OUTLINE, width=2)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _refused(task: ExamineTask, reason: str) -> Examination:
    return Examination(id=task.id, problem=reason)
