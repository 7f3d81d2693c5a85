"""Many images at once, few of them in memory.

In: tasks, one an image. Out: outcomes as they are finished, in no order. Work is done in processes with a bounded
number of tasks on the way; one worker means this process. An image that kills its worker, or that holds it for minutes,
is refused, and the others are done all the same.
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing.context import BaseContext
from pathlib import Path

from PIL import Image

from loraloom.prepare.images import Decoded, Fitted, ImageSettings, decode, fit, thumbnail_bytes
from loraloom.prepare.journal import ImageRow
from loraloom.protocols.data import ImageData
from loraloom.utils.atomic_files import sha256_bytes
from loraloom.utils.errors import UserError
from loraloom.utils.image_bytes import RefusedError
from loraloom.utils.image_files import png_bytes
from loraloom.utils.parallel import end_pool, start_worker, usable_cores
from loraloom.utils.perceptual_hash import SIDE, perceptual_hashes
from loraloom.utils.safe_paths import short_hash

IN_FLIGHT_PER_WORKER = 4
FEW = 8
"""Number of images up to which one process is faster than starting several."""
TIME_LIMIT_S = 300.0
"""For one image. A JPEG of 50 megapixels and 39 scans took 5 s."""
_CRASHED = "the decoder crashed on it"
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
        data: Reads the image where it lies inside `source`.
    """

    id: str
    source: Path
    folder: Path
    image: str
    known: ImageRow | None
    thumbnail: bool
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
    """

    task: Task
    row: ImageRow | None = None
    problem: str | None = None
    reused: bool = False
    thumbnail: bytes | None = None


def prepare_one(task: Task, settings: ImageSettings) -> Outcome:
    """Read, decode, fit and write one image.

    Raises:
        UserError: The prepared file cannot be written; a source that cannot be read is an outcome instead.
    """
    try:
        data = read_image_file(task.source, settings.max_megapixels, task.data)
        source_sha256 = sha256_bytes(data)
        target = task.folder / task.image
        if (known := _still_good(task, source_sha256, settings)) is not None:
            return Outcome(task=task, row=known, reused=True, thumbnail=_thumbnail_of_file(task, target))
        decoded = decode(data, settings)
        fitted = fit(decoded, settings, task.id)
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
            hashes=perceptual_hashes(_what_is_seen(decoded, fitted, settings)),
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
    """The outcomes of all tasks, each as soon as it is finished.

    Args:
        tasks: What to do.
        settings: Settings that hold for every image.
        num_workers: Processes; 0 is one a core. One, or few tasks, are done in this process.
        time_limit_s: A process that needs longer for one image is ended, and the image refused. In this process only the
            limits of pixels and of scans hold.
    """
    workers = min(num_workers or usable_cores(), len(tasks))
    if workers <= 1 or len(tasks) <= FEW:
        yield from (prepare_one(task, settings) for task in tasks)
        return
    waiting, any_finished = iter(tasks), False
    while True:
        lost, finished = yield from _run_pool(waiting, settings, workers, time_limit_s)
        any_finished |= finished
        if not lost:
            return
        # A worker died or was ended: the tasks that were on the way are tried one at a time to learn which is to blame.
        refused: list[tuple[Task, str]] = []
        for task, _ in lost:
            lost_again, finished = yield from _run_pool(iter([task]), settings, 1, time_limit_s)
            refused += lost_again
            any_finished |= finished
        if not any_finished and sum(reason == _CRASHED for _, reason in refused) > 1:
            raise UserError(
                "worker processes end as soon as they start",
                fix='call prepare() below `if __name__ == "__main__":`, or use --num-workers 1',
            )
        yield from (Outcome(task=task, problem=reason) for task, reason in refused)


def _run_pool(
    tasks: Iterator[Task], settings: ImageSettings, workers: int, time_limit_s: float
) -> Generator[Outcome, None, tuple[list[tuple[Task, str]], bool]]:
    """Outcomes of a pool of processes; returns the tasks that were lost when a worker died or had to be ended, with the
    reason, and whether any was finished."""
    pool = ProcessPoolExecutor(workers, mp_context=_context(), initializer=start_worker)
    on_the_way: dict[Future[Outcome], Task] = {}
    lost: list[tuple[Task, str]] = []
    any_finished = False
    try:
        while True:
            for task in islice(tasks, IN_FLIGHT_PER_WORKER * workers - len(on_the_way)):
                try:
                    on_the_way[pool.submit(prepare_one, task, settings)] = task
                except BrokenProcessPool:
                    lost.append((task, _CRASHED))
                    break
            if not on_the_way:
                break
            finished = wait(on_the_way, timeout=time_limit_s, return_when=FIRST_COMPLETED).done
            if not finished:  # so every process is at one image for longer than that
                lost += [(task, f"it takes longer than {time_limit_s:g} s to decode") for task in on_the_way.values()]
                end_pool(pool)
                break
            for future in finished:
                task = on_the_way.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    lost.append((task, _CRASHED))
                    continue
                any_finished = True
                yield outcome
            if lost:
                tasks = iter(())
    except BaseException:
        end_pool(pool)  # a file is written whole or not at all, so nobody waits for what is not wanted any more
        raise
    pool.shutdown(wait=True, cancel_futures=True)
    return lost, any_finished


def _context() -> BaseContext:
    """How processes are started: by fork where this process is alone with itself, else by a clean server or anew.

    Forking copies locks that other threads hold, and what a CUDA or BLAS library thinks of its threads.
    """
    if sys.platform == "linux":
        alone = threading.active_count() == 1 and "torch" not in sys.modules
        return multiprocessing.get_context("fork" if alone else "forkserver")
    return multiprocessing.get_context("spawn")


def _what_is_seen(decoded: Decoded, fitted: Fitted, settings: ImageSettings) -> Image.Image:
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


def _thumbnail_of_file(task: Task, target: Path) -> bytes | None:
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
