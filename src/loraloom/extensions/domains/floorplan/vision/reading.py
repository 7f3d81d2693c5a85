"""Read a plan from an image: exact on exact images, robust on noisy, blurred, compressed and generated ones.

In: an RGB image of any size and a style. Out: `Reading`: the plan, and the distance of the image from the palette.

The nearest palette colour alone is wrong at every soft edge: bedroom is halfway between master room and wall, window is
halfway between wall and living room. So colour decides only the unambiguous pixels:

1. *Cores*: pixels whose 3x3 mean snaps to one room colour or to the outside in a whole 5x5 neighbourhood. Rooms are at
   least seven pixels wide, so each has one; soft edges have none.
2. *Traces*: pixels near the colour of a thin class (wall, door, window), nearer than any mixture of two other colours.
3. Every other pixel is compared only with the colours of nearby cores and traces, which splits soft edges in the middle.
4. Open pixels take the class of the core that they are connected to. Specks take the class around them, and outside
   pixels within a room become part of the room. In a soft image a line of low contrast through a room is a wall
   (`thin_walls`).
5. The remaining errors are edges that are off by a pixel. Walls of plans are straight: borders become straight, and
   openings become rectangles through their wall, unless a room would be lost. A blob of the door's class is a door only
   if part of it has the door's colour: a soft wall between two rooms of saturated colours also comes near it.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..plan import NEAR_PX, Plan, annotate
from ..vocabulary import (
    BALCONY,
    DOOR,
    EXTERNAL,
    FRONT_DOOR,
    NUM_CLASSES,
    ROOM_CLASSES,
    SIZE_PX,
    STYLES,
    WALL,
    WINDOW,
    Style,
)
from .pixels import Labels, Where, components, dilate, flat
from .straightening import (
    openings_of,
    raggedness,
    segments_of,
    straight_walls,
    through_wall,
    wall_thickness,
    without_specks,
)
from .thin_walls import add_thin_walls, close_leaks

OFF_PALETTE = 24.0
"""A pixel farther than this from every colour of the palette (Euclidean, 0 .. 442) counts as off it."""

_DOOR_LIKENESS = 0.62
"""A blob is a door if a fifth of its pixels is beyond this, from 0 (the wall's colour) to 1 (the door's). Of 1,088 doors in
images from an autoencoder 99 % have a fifth beyond 0.83; of 11 walls that looked like doors none has one beyond 0.58."""

_SOFT = 0.25
"""An image is soft if a larger share of its borders are steps of one or two pixels: 0.3 to 0.7 after an autoencoder, below
0.21 in noisy and enlarged images."""

_STRAIGHT_PX = 2
"""A border at most this far from a better supported one is merged with it."""

_MOST_OPENINGS = 64
"""An image with more openings is noise and not a plan; it is not straightened."""

_BITS = 6
_OPEN = (EXTERNAL, *ROOM_CLASSES)
_THIN = (WALL, FRONT_DOOR, DOOR, WINDOW)
_CORE_REACH, _TRACE_REACH = 5, 2
_OUTSIDE_REACH = 8
"""Largest distance of windows and front doors from a core of the outside: three pixels of edge and a thick wall."""
_BLOCK_PX = 8
_PLAIN = 4.0
"""A block whose mean differs from the outside's colour by less than this in every channel is empty."""
_GAP_RUN = 5
"""A gap between door and room is closed if it is at least this long."""
_SURE_WALL = 12
"""A pixel whose channels all differ from the wall's by at most this is wall, whatever is beside it."""
_THICK_CONTACT_PX = 12
"""Pixels of contact that a position requires in a plan of thick walls; soft edges of a thick wall leave fewer."""
_SPREAD = 6
"""Steps that a core grows over open pixels: from three pixels inside an edge to the edge, with a margin."""

Rgb = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """The result of reading an image.

    Attributes:
        plan: The plan that the image shows.
        off_palette: Share of the original pixels that are near no colour of the palette, 0 .. 1.
        exact: Whether every pixel had a palette colour.
    """

    plan: Plan
    off_palette: float
    exact: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Tables:
    """Look-up tables over RGB cut to 6 bits a channel: nearest class, squared distance to it, trace bits of thin classes."""

    nearest: NDArray[np.uint8]
    off: NDArray[np.bool_]
    traces: NDArray[np.uint16]


@cache
def _tables(style: Style) -> _Tables:
    palette = style.palette.astype(np.float32)
    steps = (np.arange(1 << _BITS, dtype=np.float32) + 0.5) * (256 >> _BITS) - 0.5
    cells = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    # |a - b|^2 as a product: the plain difference would take a quarter of a gigabyte.
    squared = (cells**2).sum(-1, keepdims=True) - 2 * cells @ palette.T + (palette**2).sum(-1)
    nearest = squared.argmin(-1).astype(np.uint8)
    traces = np.zeros(len(cells), np.uint16)
    for label in _THIN:
        close = (nearest == label) & (squared[:, label] < _trace_radius(palette, label) ** 2)
        traces[close] |= np.uint16(1 << label)
    return _Tables(nearest, squared.min(-1) > OFF_PALETTE**2, traces)


def _trace_radius(palette: NDArray[np.float32], label: int) -> float:
    """Largest distance of a trace from a thin class's colour: below that of the nearest mixture of wall and an open colour."""
    if label == WALL:
        apart = np.linalg.norm(palette - palette[WALL], axis=1)
        return float(apart[apart > 0].min()) * 0.55  # classes that the palette lacks have the wall's colour
    reach = 90.0
    for other in _OPEN:
        along = palette[other] - palette[WALL]
        place = float(np.clip(np.dot(palette[label] - palette[WALL], along) / np.dot(along, along), 0, 1))
        reach = min(reach, float(np.linalg.norm(palette[WALL] + place * along - palette[label])))
    return reach * 0.85


def _cell(rgb: Rgb) -> NDArray[np.uint32]:
    """Index into the tables."""
    cut = (rgb >> (8 - _BITS)).astype(np.uint32)
    return np.asarray((cut[..., 0] << (2 * _BITS)) | (cut[..., 1] << _BITS) | cut[..., 2], np.uint32)


def snap(rgb: Rgb, style: Style) -> Labels:
    """The nearest palette colour of each pixel, (h, w), at 6 bits a channel."""
    return _tables(style).nearest[_cell(rgb)]


def off_palette(rgb: Rgb, style: Style) -> float:
    """Share of pixels that are near no colour of the style, 0 .. 1."""
    return float(_tables(style).off[_cell(rgb)].mean())


def as_array(image: Image.Image) -> Rgb:
    """(256, 256, 3) uint8. Whole multiples are reduced by the median of each block, other sizes by area."""
    image = image.convert("RGB")
    width, height = image.size
    if (width, height) == (SIZE_PX, SIZE_PX):
        return np.asarray(image)
    if width == height and width % SIZE_PX == 0:
        factor = width // SIZE_PX
        blocks = np.asarray(image).reshape(SIZE_PX, factor, SIZE_PX, factor, 3)
        return np.median(blocks, axis=(1, 3)).astype(np.uint8)
    return np.asarray(image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX))


def read(image: Image.Image, style: Style = STYLES["sjh"]) -> Reading:
    """Read a plan image.

    Args:
        image: Any size and mode; plans are read on a grid of 256 x 256.
        style: The style whose palette the image has.
    """
    rgb = as_array(image)
    tables = _tables(style)
    labels = np.full(rgb.shape[:2], EXTERNAL, np.uint8)
    used = _not_empty(rgb, style)
    part = np.ascontiguousarray(rgb[used])
    snapped = tables.nearest[_cell(part)]
    if np.array_equal(style.palette[snapped], part):
        labels[used] = snapped
        return Reading(annotate(labels), 0.0, True)
    cells = _cell(rgb)
    where = _content(rgb, style)
    found = _without_pockets(without_specks(_classified(rgb[where], cells[where], tables, style)))
    soft = raggedness(found) > _SOFT
    if soft:
        add_thin_walls(found, rgb[where], style.palette)
    inside = _straightened(found, rgb[where], style, soft)
    labels[where] = inside
    near_px, contact_px = NEAR_PX, 1
    if wall_thickness(inside >= WALL) > 3:
        # Rooms beside a thick wall are 6 px apart, one too far for a position; with soft edges 6 is easily read as 5, and as
        # 4 where both rooms' colours run into the wall. Only a sharp image shows a thin wall among thick ones.
        near_px, contact_px = NEAR_PX - (2 if soft else 1), _THICK_CONTACT_PX
    plan = annotate(labels, soft=True, near_px=near_px, contact_px=contact_px)
    return Reading(plan, float(tables.off[cells].mean()), False)


def _not_empty(rgb: Rgb, style: Style) -> Where:
    """The smallest part of the image outside which every pixel has exactly the outside's colour."""
    other = rgb != style.palette[EXTERNAL]
    rows, columns = np.flatnonzero(other.any((1, 2))), np.flatnonzero(other.any(0).any(-1))
    if not len(rows):
        return slice(0, 1), slice(0, 1)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _content(rgb: Rgb, style: Style) -> Where:
    """The part of the image that is not plain outside, with a margin: a plan covers a third of its image."""
    cells = SIZE_PX // _BLOCK_PX
    means = rgb.reshape(cells, _BLOCK_PX, cells, _BLOCK_PX, 3).mean((1, 3), dtype=np.float32)
    used = np.abs(means - style.palette[EXTERNAL]).max(-1) > _PLAIN
    bounds: list[slice] = []
    for axis in (1, 0):
        found = np.flatnonzero(used.any(axis))
        first, last = (int(found[0]), int(found[-1])) if len(found) else (0, cells - 1)
        bounds.append(slice(max(0, first - 2) * _BLOCK_PX, min(cells, last + 3) * _BLOCK_PX))
    return bounds[0], bounds[1]


def _classified(rgb: Rgb, cells: NDArray[np.uint32], tables: _Tables, style: Style) -> Labels:
    """Steps 1 to 4 of the module's method."""
    cores = _cores(rgb, tables)
    open_bits = _spread_bits(np.where(cores == _NONE, 0, 1 << cores.astype(np.uint16)).astype(np.uint16), _CORE_REACH)
    traces = tables.traces[cells]
    outside = _spread_bits((cores == EXTERNAL).astype(np.uint16), _OUTSIDE_REACH)
    traces[outside == 0] &= np.uint16(~(1 << WINDOW | 1 << FRONT_DOOR) & 0xFFFF)
    thin_bits = _spread_bits(traces, _TRACE_REACH)
    undecided = np.nonzero(cores == _NONE)
    bits = (open_bits | thin_bits)[undecided]
    colours = rgb[undecided].astype(np.float32)
    palette = style.palette.astype(np.float32)
    squared = (colours**2).sum(-1, keepdims=True) - 2 * colours @ palette.T + (palette**2).sum(-1)
    allowed = (bits[:, None] >> np.arange(NUM_CLASSES, dtype=np.uint16)) & 1
    allowed[bits == 0] = 1
    choice = np.where(allowed == 1, squared, np.inf).argmin(-1).astype(np.uint8)
    labels = cores.copy()
    labels[undecided] = choice
    _widen_openings(labels, rgb, style)
    _close_gaps(labels)
    _follow_cores(labels, cores)
    close_leaks(labels)
    return labels


def _widen_openings(labels: Labels, rgb: Rgb, style: Style) -> None:
    """Turn each wall pixel between an opening and a room, which is the opening's soft edge, into opening, in place.

    Door and balcony mix to exactly the grey of walls, so colour does not decide. Position does: a door fills its wall.
    """
    padded = np.pad(labels, 1)  # the frame is outside
    rows, columns = np.nonzero(labels == WALL)
    off = np.abs(rgb[rows, columns].astype(np.int16) - style.palette[WALL].astype(np.int16)).max(-1)
    unsure = off > _SURE_WALL
    rows, columns = rows[unsure], columns[unsure]
    around = np.stack([padded[rows + 1 + y, columns + 1 + x] for y, x in ((-1, 0), (1, 0), (0, -1), (0, 1))])
    opposite = around[[1, 0, 3, 2]]
    edge = (around > WALL) & (opposite < WALL)
    found = np.where(edge, around, 0).max(0)
    there = found > 0
    labels[rows[there], columns[there]] = found[there]


def _close_gaps(labels: Labels) -> None:
    """Turn two rows of wall pixels between a door and a room into door, where they are `_GAP_RUN` long, in place.

    JPEG halves the resolution of colour, and a door differs from a wall almost only in colour: the last pixel of a door
    and the first of a blue room both become grey.
    """
    for view in (labels, labels[::-1], labels.T, labels.T[::-1]):
        gap = (view[:-3] == DOOR) & (view[1:-2] == WALL) & (view[2:-1] == WALL)
        gap &= (view[3:] < WALL) & (view[3:] != EXTERNAL)
        run = gap.copy()
        for shift in range(1, _GAP_RUN):
            run[:, :-shift] &= gap[:, shift:]
        run[:, -_GAP_RUN + 1 :] = False
        whole = run.copy()
        for shift in range(1, _GAP_RUN):
            whole[:, shift:] |= run[:, :-shift]
        view[1:-2][whole] = DOOR
        view[2:-1][whole] = DOOR


_NONE = 255


def _cores(rgb: Rgb, tables: _Tables) -> Labels:
    """Class of each core pixel, 255 elsewhere."""
    padded = np.pad(rgb, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(np.uint16)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    mean = ((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) // 9).astype(np.uint8)
    snapped = tables.nearest[_cell(mean)]
    wide = flat(snapped, 5) & (snapped < WALL)
    narrow = flat(snapped, 3) & (snapped == BALCONY)
    return np.where(wide | narrow, snapped, _NONE).astype(np.uint8)


def _spread_bits(bits: NDArray[np.uint16], reach: int) -> NDArray[np.uint16]:
    """The union of the bits of all pixels within a Chebyshev distance, for each pixel."""
    for _ in range(2):
        spread = bits.copy()
        for shift in range(1, reach + 1):
            spread[shift:] |= bits[:-shift]
            spread[:-shift] |= bits[shift:]
        bits = spread.T
    return bits


def _follow_cores(labels: Labels, cores: Labels) -> None:
    """Give open pixels outside cores the class of the core that they are connected to, in place."""
    grown = cores.copy()
    _fill(grown, (labels < WALL) & (cores == _NONE), _SPREAD)
    reached = (labels < WALL) & (grown != _NONE)
    labels[reached] = grown[reached]


def _fill(labels: Labels, holes: NDArray[np.bool_], steps: int) -> None:
    """Give the pixels of `holes`, 255 so far, the lowest class of their 4 neighbours, from the rim inwards, in place."""
    padded = np.pad(labels, 1, constant_values=_NONE)
    width = padded.shape[1]
    flat = padded.ravel()
    waiting = np.flatnonzero(np.pad(holes, 1))
    for _ in range(steps):
        if not len(waiting):
            break
        found = np.minimum(
            np.minimum(flat[waiting - width], flat[waiting + width]), np.minimum(flat[waiting - 1], flat[waiting + 1])
        )
        flat[waiting] = found
        waiting = waiting[found == _NONE]
    labels[:] = padded[1:-1, 1:-1]


def _without_pockets(labels: Labels) -> Labels:
    """Turn outside pixels that touch a room, with no wall in between, into the room: the colours may be similar."""
    filled = labels.copy()
    height, width = labels.shape
    for _, (rows, columns), mask in components(labels == EXTERNAL, (1,)):
        if rows.start == 0 or columns.start == 0 or rows.stop == height or columns.stop == width:
            continue
        around = slice(rows.start - 1, rows.stop + 1), slice(columns.start - 1, columns.stop + 1)
        near = labels[around][dilate(np.pad(mask, 1), 1)]
        near = near[(near < WALL) & (near != EXTERNAL)]
        if len(near):
            filled[rows, columns][mask] = np.bincount(near).argmax()
    return filled


def _straightened(labels: Labels, rgb: Rgb, style: Style, soft: bool) -> Labels:
    """Step 5 of the module's method; in a sharp image the door pixels in a corner are taken as they are."""
    rooms = (labels < WALL) & (labels != EXTERNAL)
    # A blob beside no room is not an opening and does not become one: photographs have such blobs.
    openings = [(label, blob) for label, blob in openings_of(labels) if (dilate(blob, 1) & rooms).any()]
    if len(openings) > _MOST_OPENINGS:
        return labels
    bare = np.minimum(labels, WALL)
    walls = straight_walls(bare, _STRAIGHT_PX, wall_thickness(bare == WALL))
    if not _same_rooms(labels, walls):
        return labels
    wall, door = style.palette[[WALL, DOOR]].astype(np.float32)
    likeness = (rgb - wall) @ (door - wall) / max(1.0, np.square(door - wall).sum())  # 0 where a palette lacks doors
    segments = segments_of(walls == WALL)
    straight = walls.copy()
    for label, blob in openings:
        if label != DOOR:
            straight[through_wall(blob, segments)] = label
        elif np.percentile(likeness[blob], 80) >= _DOOR_LIKENESS:
            straight[through_wall(blob, segments, likeness.clip(0, 1) if soft else None)] = DOOR
    return straight


def _same_rooms(labels: Labels, straight: Labels) -> bool:
    """Whether each room still exists, mostly at its old place, in the same order."""
    before, after = (list(components(each, ROOM_CLASSES)) for each in (labels, straight))
    if [label for label, _, _ in before] != [label for label, _, _ in after]:
        return False
    return all(2 * (straight[where][mask] == label).sum() > mask.sum() for label, where, mask in before)
