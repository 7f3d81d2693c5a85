"""Prepare one image in a worker process: read, decode, fit, hash and write it.

In: a task, one an image, and the settings of all of them. Out: its row for the journal, or the reason why it is refused.
"""

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image

from loraloom.prepare.images import Decoded, Fitted, ImageSettings, decode, fit, thumbnail_bytes
from loraloom.prepare.journal import ImageRow
from loraloom.prepare.pool import TIME_LIMIT_S, work_on_files
from loraloom.protocols.data import ImageData
from loraloom.utils.atomic_files import sha256_bytes
from loraloom.utils.errors import UserError
from loraloom.utils.image_bytes import RefusedError
from loraloom.utils.image_files import png_bytes
from loraloom.utils.perceptual_hash import SIDE, perceptual_hashes
from loraloom.utils.safe_paths import short_hash

_BYTES_PER_PIXEL = 16
_SMALLEST_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One image to prepare.

    Attributes:
        id: As in `SourceItem`.
        source: The file that is read.
        folder: The dataset.
        image: Path of the file that is written, relative to the dataset.
        known: What an earlier run made of it.
        thumbnail: Whether a small JPEG is wanted for the report.
        item: Id of the `SourceItem`.
        number: Its place among the items that can be used.
        size: Side in pixels of a further size of the image; such an image is never enlarged.
        side: Side in pixels of its first size; None is that of the settings.
        data: Reads the image where it lies inside `source`.
    """

    id: str
    source: Path
    folder: Path
    image: str
    known: ImageRow | None
    thumbnail: bool
    item: str = ""
    number: int = 0
    size: int | None = None
    side: int | None = None
    data: ImageData | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a task: a row, or the reason why there is none.

    Attributes:
        task: What was asked.
        row: The prepared image; None when it was refused.
        problem: Why it was refused.
        reused: Whether the row is an earlier run's.
        thumbnail: JPEG bytes when they were wanted.
        too_small: Whether it is left out at a further size because it would be enlarged.
    """

    task: Task
    row: ImageRow | None = None
    problem: str | None = None
    reused: bool = False
    thumbnail: bytes | None = None
    too_small: bool = False


def prepare_one(task: Task, settings: ImageSettings) -> Outcome:
    """Read, decode, fit and write one image.

    Raises:
        UserError: The prepared file cannot be written; a source that cannot be read is an outcome instead.
    """
    settings = replace(settings, size=task.size or task.side or settings.size)
    try:
        data = read_image_file(task.source, settings.max_megapixels, task.data)
        source_sha256 = sha256_bytes(data)
        target = task.folder / task.image
        if (known := _still_good(task, source_sha256, settings)) is not None:
            check_enlargement(known.scale, (known.source_width, known.source_height), settings)
            return Outcome(task=task, row=known, reused=True, thumbnail=thumbnail_of_file(task, target))
        decoded = decode(data, settings)
        fitted = fit(decoded, settings, task.item or task.id)
        check_enlargement(fitted.scale, (decoded.width, decoded.height), settings)
        if task.size is not None and fitted.scale > 1:
            return Outcome(task=task, too_small=True)
        png = png_bytes(fitted.image, level=1)
        row = ImageRow(
            id=task.id,
            settings=settings.fingerprint(),
            image=task.image,
            source_sha256=source_sha256,
            sha256=sha256_bytes(png),
            width=fitted.image.width,
            height=fitted.image.height,
            source_width=decoded.width,
            source_height=decoded.height,
            crop=fitted.crop,
            scale=fitted.scale,
            hashes=perceptual_hashes(what_is_hashed(decoded, fitted, settings)),
            notes=decoded.notes + fitted.notes,
        )
        thumbnail = thumbnail_bytes(fitted.image) if task.thumbnail else None
    except RefusedError as error:
        return Outcome(task=task, problem=str(error))
    except MemoryError:
        return Outcome(task=task, problem="there is not enough memory to decode it")
    _write(target, png)
    return Outcome(task=task, row=row, thumbnail=thumbnail)


def run_tasks(
    tasks: Sequence[Task], settings: ImageSettings, num_workers: int, time_limit_s: float = TIME_LIMIT_S
) -> Generator[Outcome, None, None]:
    """The outcomes of all tasks, each as soon as it is finished; see `pool.work_on_files`."""
    work = partial(prepare_one, settings=settings)
    yield from work_on_files(work, _refused, tasks, num_workers, time_limit_s)


def _refused(task: Task, reason: str) -> Outcome:
    return Outcome(task=task, problem=reason)


def check_enlargement(scale: float, size: tuple[int, int], settings: ImageSettings) -> None:
    """Raise `RefusedError` when an image is enlarged more than the settings allow."""
    if settings.max_enlargement is not None and scale > settings.max_enlargement:
        times = f"{scale:.1f} times, the limit is {settings.max_enlargement:g} (--max-enlargement)"
        raise RefusedError(f"too small: {size[0]} x {size[1]} would be enlarged {times}")


def what_is_hashed(decoded: Decoded, fitted: Fitted, settings: ImageSettings) -> Image.Image:
    """The image that near-duplicates are found by: the prepared image, which is faster to hash, unless a random crop,
    borders or the rounding of a small crop have changed it (at 64 px mirrored copies were 8 bits off instead of 5)."""
    changed = settings.crop in {"random", "pad"} or min(fitted.image.size) < 8 * SIDE
    return decoded.image if changed else fitted.image


def read_image_file(path: Path, max_megapixels: float, data: ImageData | None = None) -> bytes:
    """The bytes of an image file, or of `data` inside it; raises `RefusedError` where they cannot be read or no such image
    needs as many."""
    limit = max(_SMALLEST_LIMIT_BYTES, int(max_megapixels * 1e6 * _BYTES_PER_PIXEL))
    try:
        if data is not None:
            return data.read(limit)
        if (size := path.stat().st_size) > limit:
            raise RefusedError(f"the file has {size / 1e6:,.0f} MB, more than any image within --max-megapixels needs")
        return path.read_bytes()
    except OSError as error:
        raise RefusedError(f"cannot be read: {error.strerror}") from error
    except UserError as error:
        raise RefusedError(f"cannot be read: {error.what}") from error


def _still_good(task: Task, source_sha256: str, settings: ImageSettings) -> ImageRow | None:
    """The earlier row when source, settings and prepared file are what they were."""
    known = task.known
    if known is None or (known.source_sha256, known.settings) != (source_sha256, settings.fingerprint()):
        return None
    if known.image != task.image:
        return None
    try:
        return known if sha256_bytes((task.folder / known.image).read_bytes()) == known.sha256 else None
    except OSError:
        return None


def thumbnail_of_file(task: Task, target: Path) -> bytes | None:
    if not task.thumbnail:
        return None
    with Image.open(target, formats=["PNG"]) as image:
        return thumbnail_bytes(image)


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all. Not forced to disk one by one: the manifest has the sum of every file."""
    temporary = path.with_name(f".{short_hash(path.name)}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            "a prepared image cannot be written", got=f"{path}: {error.strerror}", fix="make room"
        ) from error
