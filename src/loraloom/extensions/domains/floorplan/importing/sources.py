"""Datasets of plans that can be imported: what a folder of each has, and one plan of it as pixel classes with its words.

In: a folder. Out: its items, and for each item a map of 256 x 256 pixel classes, the words that the source has of it, and notes
on what was read in another way. What cannot be used is refused with its reason.
"""

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from loraloom.utils.errors import UserError
from loraloom.utils.image_bytes import RefusedError
from loraloom.utils.untrusted import (
    MAX_RECORD_BYTES,
    MIB,
    is_file,
    read_bytes,
    read_json_object,
    read_text,
)

from ..vision.pixels import Labels
from ..vocabulary import CLASS_NAMES, DOOR, EXTERNAL, FRONT_DOOR, SIZE_PX, WALL
from .raster import add_opening, add_shell, enclosed, fill_gaps, instances_of

_MAX_IMAGE_BYTES = 8 * MIB
_SHELL_PX = 5
_OFF_PALETTE = 40
"""A pixel farther than this from every colour, in one channel, is in none of them."""
_MOST_OFF_PALETTE = 0.05
_LIVING_FROM_DINING = "its dining room is read as a part of the living room"


def _class(name: str) -> int:
    return CLASS_NAMES.index(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One plan of a source: its id, its file, and the file or row that has its words."""

    id: str
    file: Path
    words: str | None = None
    words_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """One plan.

    Attributes:
        labels: (256, 256) pixel classes.
        words: The source's own description; None if it has none.
        has_doors: Whether the image shows interior doors, so that connections are known.
        notes: What was read in another way than the source has it; equal causes give equal lines.
        connections: Number of doors between two rooms that the source states; None if it states none.
    """

    labels: Labels
    words: str | None = None
    has_doors: bool = True
    notes: tuple[str, ...] = ()
    connections: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset that can be imported.

    Attributes:
        name: What `--format` takes.
        expects: Its layout in one line.
        items: Its items in a folder; empty where the folder has another layout.
        read: One item; raises `RefusedError` or `UserError`.
    """

    name: str
    expects: str
    items: Callable[[Path], list[Item]]
    read: Callable[[Item], Imported]


# ---------------------------------------------------------------------------------------------------------- RPLAN

_RPLAN = {
    0: "living room",
    1: "master room",
    2: "kitchen",
    3: "bathroom",
    4: "living room",
    5: "bedroom",
    6: "bedroom",
    7: "bedroom",
    8: "bedroom",
    9: "balcony",
    10: "entrance",
    11: "storage",
    12: "storage",
    13: "external",
    14: "wall",
    15: "front door",
    16: "wall",
    17: "interior door",
}
"""Code in the second channel -> class. Dining is a part of the living room, a closet in the wall is storage."""


def _rplan_items(folder: Path) -> list[Item]:
    files = [path for path in sorted(folder.rglob("*.png")) if is_file(path)]
    return [_item(folder, path) for path in files] if any(_has_alpha(path) for path in files[:8]) else []


def _has_alpha(path: Path) -> bool:
    """Whether a PNG has four channels and RPLAN's size, by its header."""
    with path.open("rb") as file:
        head = file.read(26)
    return head[:8] == b"\x89PNG\r\n\x1a\n" and head[25] == 6 and head[16:24] == bytes([0, 0, 1, 0] * 2)


def _read_rplan(item: Item) -> Imported:
    image = _decoded(item.file)
    if image.mode != "RGBA" or image.size != (SIZE_PX, SIZE_PX):
        raise RefusedError(f"no RPLAN image: {image.mode}, {image.width} x {image.height}, expected RGBA, 256 x 256")
    pixels = np.asarray(image)
    codes = pixels[:, :, 1]
    if (most := int(codes.max())) > max(_RPLAN):
        raise RefusedError(f"no RPLAN image: its second channel has the code {most}, expected 0 to {max(_RPLAN)}")
    table = np.array([_class(_RPLAN[code]) for code in sorted(_RPLAN)], np.uint8)
    labels = table[codes]
    labels[(pixels[:, :, 0] == 255) & (labels == EXTERNAL)] = FRONT_DOOR
    notes = (_LIVING_FROM_DINING,) if (codes == 4).any() else ()
    return Imported(labels=labels, notes=notes)


# ---------------------------------------------------------------------------------------------------- Tell2Design

_TELL2DESIGN = {
    (255, 255, 255): "external",
    (0, 0, 0): "wall",
    (255, 0, 0): "front door",
    (238, 232, 170): "living room",
    (255, 165, 0): "master room",
    (255, 215, 0): "bedroom",
    (240, 128, 128): "kitchen",
    (173, 216, 230): "bathroom",
    (107, 142, 35): "balcony",
    (221, 160, 221): "storage",
    (255, 255, 0): "entrance",
    (218, 112, 214): "living room",
}
_DINING = (218, 112, 214)
_WORDS_FOLDER = "human_annotated_tags"


def _tell2design_items(folder: Path) -> list[Item]:
    images = next((path for path in sorted(folder.rglob("floorplan_image")) if path.is_dir()), None)
    if images is None:
        return []
    texts = {path.stem: path for path in sorted(images.parent.rglob(f"{_WORDS_FOLDER}/*.txt")) if is_file(path)}
    rows = _rows_of(folder)
    return [
        Item(id=path.stem, file=path, words=rows.get(path.stem), words_file=texts.get(path.stem))
        for path in sorted(images.glob("*.png"))
        if is_file(path)
    ]


def _rows_of(folder: Path) -> dict[str, str]:
    """Image id -> description, of the lists `floorplan_{train,dev,test}.json`."""
    from loraloom.utils.untrusted import parse_json

    found: dict[str, str] = {}
    for path in sorted(folder.rglob("floorplan_*.json")):
        rows: Any = parse_json(read_text(path, path.name, max_bytes=16 * MAX_RECORD_BYTES), path.name)
        for row in rows if isinstance(rows, list) else ():  # pyright: ignore[reportUnknownVariableType]
            if isinstance(row, dict) and isinstance(row.get("annotated_strings"), str) and "img_id" in row:  # pyright: ignore
                found[re.sub(r"\.png$", "", str(row["img_id"]))] = row["annotated_strings"]  # pyright: ignore
    return found


def _read_tell2design(item: Item) -> Imported:
    image = _decoded(item.file).convert("RGB")
    if image.width != image.height:
        raise RefusedError(f"no Tell2Design image: {image.width} x {image.height} is not square")
    if image.width != SIZE_PX:
        image = image.resize((SIZE_PX, SIZE_PX), Image.Resampling.NEAREST)
    palette = np.array(list(_TELL2DESIGN), np.int16)
    distance = np.abs(np.asarray(image, np.int16)[:, :, None] - palette).max(axis=3)
    nearest = distance.argmin(axis=2)
    off = float((distance.min(axis=2) > _OFF_PALETTE).mean())
    if off > _MOST_OFF_PALETTE:
        raise RefusedError(f"no Tell2Design image: {off:.0%} of it has no colour of the dataset")
    labels = np.array([_class(name) for name in _TELL2DESIGN.values()], np.uint8)[nearest]
    dining = nearest == list(_TELL2DESIGN).index(_DINING)
    numbers = instances_of(np.where(dining, 0, labels).astype(np.uint8))  # the dining room is no room of its own
    numbers[dining] = 0
    labels[enclosed(labels, labels == EXTERNAL)] = WALL
    labels = fill_gaps(labels, numbers)
    words = item.words
    if item.words_file is not None:
        words = read_text(item.words_file, item.words_file.name, max_bytes=MIB).strip() or words
    notes = [_LIVING_FROM_DINING] * bool(dining.any()) + ["the image shows no interior doors: connections are unknown"]
    return Imported(labels=labels, words=words, has_doors=False, notes=tuple(notes))


# ----------------------------------------------------------------------------------------------------- House-GAN++

_HOUSEGAN = {
    1: "living room",
    2: "kitchen",
    3: "bedroom",
    4: "bathroom",
    5: "balcony",
    6: "entrance",
    7: "living room",
    8: "bedroom",
    10: "storage",
}
_FRONT_DOOR_CODE, _DOOR_CODE, _UNKNOWN_CODE, _DINING_CODE = 15, 17, 16, 7


def _housegan_items(folder: Path) -> list[Item]:
    files = [path for path in sorted(folder.rglob("*.json")) if is_file(path)]
    return [_item(folder, path) for path in files] if any(_is_housegan(path) for path in files[:8]) else []


def _is_housegan(path: Path) -> bool:
    try:
        return {"room_type", "boxes", "edges", "ed_rm"} <= read_json_object(path, path.name).keys()
    except UserError:
        return False


def _read_housegan(item: Item) -> Imported:
    value = read_json_object(item.file, item.file.name)
    codes, boxes, edges, owners = _checked(value)
    labels = np.full((SIZE_PX, SIZE_PX), EXTERNAL, np.uint8)
    numbers = np.zeros((SIZE_PX, SIZE_PX), np.int32)
    notes: dict[str, None] = {}
    order = sorted(range(len(codes)), key=lambda place: -_area(boxes[place]))
    for place in order:
        code = codes[place]
        if code in {_DOOR_CODE, _FRONT_DOOR_CODE}:
            continue
        if code not in _HOUSEGAN:
            raise RefusedError(f"its room {place} has the type {code}, which is unknown")
        if code == _DINING_CODE:
            notes[_LIVING_FROM_DINING] = None
        outline = _outline([edge for edge, rooms in zip(edges, owners, strict=True) if place in rooms])
        if outline is None:
            notes["the outline of a room is not closed: its box is used"] = None
            outline = _corners(boxes[place])
        mask = _filled(outline)
        labels[mask] = _class(_HOUSEGAN[code])
        numbers[mask] = place + 1
    if not numbers.any():
        raise RefusedError("it has no room")
    labels = add_shell(fill_gaps(labels, numbers), _SHELL_PX)
    for code, box in zip(codes, boxes, strict=True):
        if code in {_DOOR_CODE, _FRONT_DOOR_CODE}:
            left, top, right, bottom = (round(side) for side in box)
            kind = DOOR if code == _DOOR_CODE else FRONT_DOOR
            add_opening(labels, (left, top, right + 1, bottom + 1), kind)
    return Imported(labels=labels, notes=tuple(notes), connections=codes.count(_DOOR_CODE))


_Edge = tuple[float, float, float, float]


def _checked(value: Mapping[str, Any]) -> tuple[list[int], list[_Edge], list[_Edge], list[list[int]]]:
    """The four lists of a file, every number in its range.

    Raises:
        RefusedError: One is missing, too long, or has something else than numbers in range.
    """
    codes = _whole(_list(value.get("room_type"), "room_type", 100), "room_type", 99)
    boxes = [_four(row, "boxes") for row in _list(value.get("boxes"), "boxes", 100)]
    edges = [_four(row, "edges") for row in _list(value.get("edges"), "edges", 5000)]
    owners = [
        _whole(_list(row, "ed_rm", 8), "ed_rm", len(codes) - 1) for row in _list(value.get("ed_rm"), "ed_rm", 5000)
    ]
    if len(boxes) != len(codes) or len(owners) != len(edges):
        raise RefusedError("it has not one box for each room, or not one ed_rm for each edge")
    return codes, boxes, edges, owners


def _list(value: Any, name: str, most: int) -> list[Any]:
    rows: list[Any] = [*value] if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]
    if not 0 < len(rows) <= most:
        raise RefusedError(f"{name} is no list of 1 to {most:,} entries")
    return rows


def _whole(values: list[Any], name: str, most: int) -> list[int]:
    if not all(_is_number(one, 0, most) and one == int(one) for one in values):
        raise RefusedError(f"{name} has something else than whole numbers from 0 to {most}")
    return [int(one) for one in values]


def _four(value: Any, name: str) -> _Edge:
    row = _list(value, name, 16)
    if len(row) < 4 or not all(_is_number(one, 0, SIZE_PX) for one in row[:4]):
        raise RefusedError(f"{name} has something else than four numbers from 0 to {SIZE_PX}")
    return float(row[0]), float(row[1]), float(row[2]), float(row[3])


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _area(box: _Edge) -> float:
    return abs(box[2] - box[0]) * abs(box[3] - box[1])


def _corners(box: _Edge) -> list[tuple[float, float]]:
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _outline(edges: list[_Edge]) -> list[tuple[float, float]] | None:
    """The corners of a closed chain of edges, in any order and direction; None where they are no such chain."""
    if len(edges) < 4:
        return None
    first, *rest = edges
    corners, end = [(first[0], first[1])], (first[2], first[3])
    while rest:
        place = next((k for k, edge in enumerate(rest) if end in (edge[:2], edge[2:])), None)
        if place is None:
            return None
        edge = rest.pop(place)
        corners.append(end)
        end = (edge[2], edge[3]) if end == edge[:2] else (edge[0], edge[1])
    return corners if end == corners[0] else None


def _filled(corners: list[tuple[float, float]]) -> NDArray[np.bool_]:
    """The pixels of a polygon, its edges included, as the dataset has them."""
    image = Image.new("1", (SIZE_PX, SIZE_PX))
    ImageDraw.Draw(image).polygon([(round(x), round(y)) for x, y in corners], fill=1, outline=1)
    return np.asarray(image, np.bool_)


# ------------------------------------------------------------------------------------------------------------- all


def _item(folder: Path, path: Path) -> Item:
    return Item(id=path.relative_to(folder).with_suffix("").as_posix(), file=path)


def _decoded(path: Path) -> Image.Image:
    data = read_bytes(path, path.name, max_bytes=_MAX_IMAGE_BYTES)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.width * image.height > 4096 * 4096:
                raise RefusedError(f"too large: {image.width} x {image.height}")
            image.load()
            return image.copy()
    except RefusedError:
        raise
    except Exception as error:  # decoders meet hostile bytes with nearly every exception there is
        raise RefusedError(f"broken: {' '.join(str(error).split())[:80]}") from error


SOURCES = {
    source.name: source
    for source in (
        Source(
            "tell2design",
            "floorplan_image/*.png, and human_annotated_tags/*.txt or floorplan_*.json beside it",
            _tell2design_items,
            _read_tell2design,
        ),
        Source("rplan", "PNG files of 256 x 256 pixels and four channels", _rplan_items, _read_rplan),
        Source("housegan", "JSON files with room_type, boxes, edges and ed_rm", _housegan_items, _read_housegan),
    )
}
"""By name, the least mistakable first."""
