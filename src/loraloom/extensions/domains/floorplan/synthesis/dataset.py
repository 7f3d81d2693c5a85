"""Synthesise a folder of plans in the layout of the real pairs.

In: a folder, a count, a seed. Out, for n = 0 .. count - 1 and named as in JongHwa-Shim/text-to-image-generation:

    input_text/<n>.txt          structured text
    label_floorplan/<n>.png     256 x 256 RGB
    truth/<n>.json              everything known about the plan, written last: an item with it is complete
    splits.json                 numbers of train and validation, by graph

A run that was interrupted is resumed: complete items are kept, every file appears whole. The content depends on folder
seed, number, style and kind of doors only, not on the number of processes.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loraloom.utils.atomic_files import remove_leftovers, sha256_bytes, write_bytes, write_json, write_text
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.parallel import spread
from loraloom.utils.rng import derive_seed
from loraloom.utils.untrusted import MIB, read_bytes, read_json_object

from ..render.painting import png_of
from ..text.spec import print_spec, spec_of
from ..vocabulary import M_PER_PX, SIZE_PX, STYLES
from . import SynthesisedPlan, synthesise
from .graphs import coarse_hash, graph_hash, split_of

_MAX_BYTES = MIB
"""Limit of bytes of one text, image or truth file, each of which has some kilobytes."""

TEXTS, IMAGES, TRUTHS, SPLITS = "input_text", "label_floorplan", "truth", "splits.json"

Progress = Callable[[int, int], None]
"""Called with the number of items done and the number of all items."""

Key = tuple[str, str]
"""Graph hash and coarse image hash; no two items have the same pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """Parameters of a worker, the same for every item.

    Attributes:
        folder: Folder of the dataset.
        seed: Seed of the dataset; determines every plan.
        style: Key in `STYLES`.
        corner_doors: Whether doors may lie in corners; see `synthesise`.
    """

    folder: Path
    seed: int
    style: str
    corner_doors: bool

    def paths(self, number: int) -> tuple[Path, Path, Path]:
        """Paths of text, image and truth."""
        return (
            self.folder / TEXTS / f"{number}.txt",
            self.folder / IMAGES / f"{number}.png",
            self.folder / TRUTHS / f"{number}.json",
        )


def truth_of(made: SynthesisedPlan, number: int, style: str, png: bytes) -> dict[str, Any]:
    """Everything known about a synthesised plan, as JSON.

    Args:
        made: The synthesised plan.
        number: Its number in the dataset, which names its files.
        style: Key in `STYLES`.
        png: Bytes of the image's file.
    """
    plan = made.plan
    return {
        "id": number,
        "seed": made.seed,
        "size": SIZE_PX,
        "m_per_px": M_PER_PX,
        "palette": style,
        "wall_px": made.wall_px,
        "rooms": [
            {
                "type": room.id.kind,
                "n": room.id.number,
                "bbox": room.box,
                "centroid": [round(value, 3) for value in room.centroid],
                "area_px": room.area_px,
                "area_m2": round(room.area_m2, 3),
            }
            for room in plan.rooms
        ],
        "doors": [
            {"kind": opening.kind, "bbox": opening.box, "rooms": [str(room) for room in opening.rooms]}
            for opening in plan.openings
            if opening.kind != "window"
        ],
        "windows": [
            {"bbox": opening.box, "rooms": [str(room) for room in opening.rooms]}
            for opening in plan.openings
            if opening.kind == "window"
        ],
        "connections": [[str(room) for room in pair] for pair in plan.connections],
        "positions": [[str(position.subject), position.direction, str(position.object)] for position in plan.positions],
        "text": print_spec(spec_of(plan, style)),
        "sha256_png": sha256_bytes(png),
        "graph_hash": graph_hash(plan),
        "coarse_hash": coarse_hash(plan.labels),
    }


def _write_item(job: _Job, item: tuple[int, int]) -> tuple[int, Key]:
    """Synthesise item (number, attempt) and write its three files."""
    number, attempt = item
    made = synthesise(derive_seed("floor plan data set", job.seed, number, attempt), job.corner_doors)
    png = png_of(made.plan.labels, job.style)
    truth: dict[str, Any] = truth_of(made, number, job.style, png)
    truth |= {"dataset_seed": job.seed, "attempt": attempt, "corner_doors": job.corner_doors}
    text_path, image_path, truth_path = job.paths(number)
    # The truth of an earlier attempt would declare files complete that are being replaced.
    truth_path.unlink(missing_ok=True)
    write_text(text_path, truth["text"])
    write_bytes(image_path, png)
    write_json(truth_path, truth)
    return number, (truth["graph_hash"], truth["coarse_hash"])


def _kept_item(job: _Job, number: int) -> Key | None:
    """The key of a complete item; None when it must be synthesised."""
    text_path, image_path, truth_path = job.paths(number)
    try:
        truth = read_json_object(truth_path, str(truth_path), max_bytes=_MAX_BYTES)
        text, png = (read_bytes(path, str(path), max_bytes=_MAX_BYTES) for path in (text_path, image_path))
        if truth["sha256_png"] != sha256_bytes(png) or truth["text"].encode() != text:
            return None
        # Datasets that record no choice have corner doors.
        origin = truth["dataset_seed"], truth["palette"], truth.get("corner_doors", True)
        key = truth["graph_hash"], truth["coarse_hash"]
    except (UserError, KeyError, TypeError, AttributeError):
        return None
    wanted = job.seed, job.style, job.corner_doors
    if origin != wanted:
        raise UserError(
            f"the folder {job.folder} holds another data set",
            got=f"{_settings_line(*origin)} at number {number}",
            expected=_settings_line(*wanted),
            fix="choose another folder or the same settings",
        )
    return key


def _settings_line(seed: int, style: str, corner_doors: bool) -> str:
    return f"seed {seed} in style {style!r} with{'' if corner_doors else 'out'} corner doors"


def _refuse_fewer(job: _Job, count: int) -> None:
    """Refuse a count below that of the existing dataset: the items beyond it would belong to no side of the split."""
    found = [
        int(path.stem)
        for name in (TEXTS, IMAGES, TRUTHS)
        for path in (job.folder / name).iterdir()
        if path.stem.isdecimal()
    ]
    if found and max(found) >= count:
        raise UserError(
            f"the folder {job.folder} holds more plans than asked for",
            got=f"number {max(found)}",
            expected=f"numbers below {count}",
            fix=f"choose another folder, or a count of {max(found) + 1} or more",
        )


def write_dataset(
    folder: Path,
    count: int,
    seed: int,
    style: str = "sjh",
    progress: Progress | None = None,
    workers: int = 1,
    validation_share: float = 0.1,
    corner_doors: bool = False,
) -> dict[str, list[int]]:
    """Write, complete or extend a dataset of synthesised plans; returns the numbers of each side of the split.

    Args:
        folder: Folder of the dataset; created when missing.
        count: Number of items, not fewer than the folder already has.
        seed: Seed of the dataset; determines every plan.
        style: Key in `STYLES`: palette and header.
        progress: Called after each item with items done and all items.
        workers: Number of processes.
        validation_share: Expected share of the validation side, 0 .. 1.
        corner_doors: Whether doors may lie in corners; see `synthesise`.

    Raises:
        UserError: A setting is out of range, or the folder holds another dataset or a larger one.
    """
    if style not in STYLES:
        raise UserError("unknown style", got=style, fix=did_you_mean(style, STYLES))
    if count < 1 or workers < 1:
        raise UserError("count and workers must be positive", got=f"count {count}, workers {workers}")
    if not 0 <= validation_share <= 1:
        raise UserError("validation_share is out of range", got=validation_share, expected="0 .. 1")
    job = _Job(folder=Path(folder), seed=seed, style=style, corner_doors=corner_doors)
    for name in (TEXTS, IMAGES, TRUTHS):
        (job.folder / name).mkdir(parents=True, exist_ok=True)
        remove_leftovers(job.folder / name)
    kept = {number: _kept_item(job, number) for number in range(count)}
    _refuse_fewer(job, count)
    missing = [number for number, key in kept.items() if key is None]
    several = min(workers, len(missing))
    chunk = max(1, min(16, len(missing) // workers))
    keys: dict[Key, int] = {}
    first_attempts = spread(partial(_write_item, job), [(number, 0) for number in missing], several, chunk=chunk)
    with closing(first_attempts) as fresh:
        for number in range(count):
            key = kept[number] or next(fresh)[1]
            attempt = 0
            while key in keys:  # the same graph and nearly the same image: synthesised again
                attempt += 1
                key = _write_item(job, (number, attempt))[1]
            keys[key] = number
            if progress is not None:
                progress(number + 1, count)
    splits: dict[str, list[int]] = {"train": [], "validation": []}
    for (graph, _), number in keys.items():
        splits[split_of(graph, validation_share)].append(number)
    settings = {"seed": seed, "style": style, "corner_doors": corner_doors, "count": count}
    write_json(job.folder / SPLITS, settings | {"validation_share": validation_share} | splits)
    return splits
