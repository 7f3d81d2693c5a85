"""Open what a person names on the command line: texts, images, plans.

In: a path or a text as it was typed. Out: a text, an image, a reading, a plan. Every mistake is one `UserError`.
"""

import codecs
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.untrusted import Shown, check_regular_file, read_bytes

from ..plan import MOST_ROOMS, Plan, annotate
from ..vision.flat_colours import (
    MOST_FOREIGN,
    FlatColour,
    flat_colours,
    foreign,
    foreign_share,
    has_plain_colours,
    known_of,
    without_noise,
)
from ..vision.palette_file import Palette
from ..vision.pixels import Labels
from ..vision.reading import Reading, as_array, off_palette, read
from ..vision.scale import Scale
from ..vocabulary import CLASS_NAMES, EXTERNAL, ROOM_CLASSES, SIZE_PX, STYLES, WALL, Style, hex_of

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_TEXT_SUFFIXES = {".txt", ".caption", ".md"}
_MAX_TEXT_BYTES = 1 << 20
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MAX_IMAGE_BYTES = 256 << 20
_MAX_PIXELS = 16 << 20
_MIN_SIDE_PX = 16

# What a file must be before it is edited; an image that a model generated is verified however bad it is.
_MOST_OFF_PALETTE = 0.35
_MOST_NAMED = 12
_LEAST_ENCLOSED = 0.55
"""Real plans have 1.0, badly compressed ones 0.8 or more, photographs in a plan's colours 0.52 or less."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Opened:
    """A plan from a file.

    Attributes:
        path: The file.
        reading: What was read from it; the reading of a JSON file is exact.
        style: Style whose colours the image has.
        image: The image; None for a JSON file that `export` wrote.
        scale: Scale that a JSON file gives; None for an image.
        title: Title that a JSON file gives; None for an image.
        foreign: Flat colours that no room and no outside of the style has, of too little area to be another palette.
    """

    path: Path
    reading: Reading
    style: Style
    image: Image.Image | None
    scale: Scale | None = None
    title: str | None = None
    foreign: tuple[FlatColour, ...] = ()

    @property
    def plan(self) -> Plan:
        """The plan that was read."""
        return self.reading.plan


def text_of(given: str) -> str:
    """The text itself, or the content of the file with that name.

    Raises:
        UserError: It looks like a file and there is none, or the file holds no text.
    """
    path = Path(given)
    if "\n" in given or len(given) > 1000 or "\0" in given:
        return given
    words = given.split()
    if words and _is_folder(path):
        raise UserError(f"{path} is a folder", expected="a text, or a file with one")
    if not words or not _exists(path):
        if path.suffix.lower() in _TEXT_SUFFIXES | IMAGES and (len(words) == 1 or "/" in given):
            raise _missing(path)
        if not words:
            raise UserError("the text is empty", fix="give a text or the path of a file with one")
        return given
    if path.suffix.lower() in IMAGES:
        raise UserError(f"{path} is an image", expected="a text, or a file with one")
    content = read_bytes(path, f"the text {path}", max_bytes=_MAX_TEXT_BYTES)
    try:
        text = content.decode("utf-16" if content.startswith(_UTF16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} holds no text", expected="UTF-8") from None
    if not text.strip():
        raise UserError(f"{path} is empty", expected="a text about a plan")
    return text


def is_plan_file(given: str) -> bool:
    """Whether the typed text names an image or a JSON file, existing or not."""
    return "\n" not in given and len(given) <= 1000 and Path(given).suffix.lower() in IMAGES | {".json"}


def _check_file(path: Path) -> None:
    """Check that a path may be opened; the error lists near names where nothing is there.

    Raises:
        UserError: It may not.
    """
    if not _exists(path) or _is_folder(path):
        raise _missing(path)
    check_regular_file(path, f"{path}", max_bytes=_MAX_IMAGE_BYTES)


def _exists(path: Path) -> bool:
    try:
        return path.exists() or path.is_symlink()
    except OSError:  # a text may be longer than a file name can be
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _missing(path: Path) -> UserError:
    folder = path.parent
    if _is_folder(path):
        return UserError(f"{path} is a folder", expected="a file")
    near: list[str] = []
    if folder.is_dir():
        near = get_close_matches(path.name, (entry.name for entry in folder.iterdir()), n=2, cutoff=0.7)
    near = [str(folder / name) for name in near]
    return UserError(f"there is no file {path}", fix=f"did you mean {' or '.join(near)}?" if near else None)


def style_named(name: str | None) -> Style | None:
    """The style of that name; None for None.

    Raises:
        UserError: There is none.
    """
    if name is None:
        return None
    if name not in STYLES:
        raise UserError("unknown style", got=name, fix=did_you_mean(name, STYLES))
    return STYLES[name]


def open_image(path: Path) -> Image.Image:
    """An image file as RGB, or as RGBA where parts of it are transparent.

    Raises:
        UserError: There is no such file, or it holds no image.
    """
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # reported below, in our words
            with Image.open(path) as file:
                _check_size(path, file.width, file.height)
                return file.convert("RGBA" if file.has_transparency_data else "RGB")
    except UserError:
        raise
    # Broken files fail in many ways: Pillow has errors of its own, and each decoder has others.
    except Exception as error:
        why = "no image format that is known" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise UserError(f"{path} cannot be read as an image: {why}", fix="give a PNG of a plan") from None


def _check_size(path: Path, width: int, height: int) -> None:
    """Check an image's size and kind before any pixel of it is decoded."""
    if width * height > _MAX_PIXELS:
        raise UserError(
            f"{path} is too large for a plan", got=f"{width} x {height} pixels", expected="at most 16 megapixels"
        )
    if min(width, height) < _MIN_SIDE_PX:
        raise UserError(
            f"{path} is no plan image: it is too small",
            got=f"{width} x {height} pixels",
            expected=f"at least {_MIN_SIDE_PX} x {_MIN_SIDE_PX}",
        )


def open_plan(path: Path, style: Style | None = None, palette: Palette | None = None) -> Opened:
    """A plan from an image, or from a .json that `export` wrote.

    Args:
        path: The file.
        style: Style whose colours the image has; None detects it, or takes the one that the .json names. With a
            palette: the style in which the plan is written, None means `sjh`.
        palette: The image's own colours, where they are no style's.

    Raises:
        UserError: No such file, not readable, no plan in it, or colours that are not known.
    """
    if path.suffix.lower() == ".json":
        return _open_json(path, style, palette)
    source_image = open_image(path)
    if palette is not None:
        return _open_with(palette, path, source_image, style or STYLES["sjh"])
    return open_decoded(path, source_image, style)


def open_decoded(path: Path, source_image: Image.Image, style: Style | None = None) -> Opened:
    """As `open_plan`, of an image in memory; `path` names it in errors."""
    chosen, image, reading, colours = _best_reading(source_image, [style] if style else STYLES.values())
    fault = _fault(reading, image, chosen)
    if reading.exact:
        is_foreign = False
    elif fault:
        is_foreign = foreign_share(colours, known_of(chosen)) > MOST_FOREIGN and has_plain_colours(
            as_array(image), colours
        )
    else:
        is_foreign = foreign_share(colours, known_of(chosen)) > MOST_FOREIGN
    if is_foreign:
        raise _unknown_palette(path, chosen if style else None, colours)
    if fault:
        what, fix = fault, "give a plan in the colours of a style"
        if "no colour of a plan" in fault:
            what += f" in style {chosen.name!r}"
            fix = "leave --style out, or name another" if style else fix
        raise UserError(f"{path} is no plan image: {what}", fix=fix)
    _check_rooms(path, reading.plan)
    return Opened(
        path=path, reading=reading, style=chosen, image=image, foreign=tuple(foreign(colours, known_of(chosen)))
    )


def foreign_colours(image: Image.Image) -> str:
    """The flat colours of an image that has no style's palette, each with its share; empty where it has one."""
    colours = flat_colours(as_array(image))
    if min(foreign_share(colours, known_of(style)) for style in STYLES.values()) <= MOST_FOREIGN:
        return ""
    return str(_colour_list(colours))


def _open_with(palette: Palette, path: Path, source_image: Image.Image, style: Style) -> Opened:
    own = palette.style
    image = unified = _flattened(source_image, own)
    rgb, unknown = as_array(image), tuple[FlatColour, ...]()
    exact = palette.exact_labels(rgb)
    if exact is not None:
        reading = Reading(annotate(exact), 0.0, True)
    else:
        colours = flat_colours(rgb)
        unknown = tuple(foreign(colours, palette.known))
        if foreign_share(colours, palette.known) > MOST_FOREIGN:
            raise UserError(
                f"{path} has large areas in colours that the palette {palette.name} gives to no room and not to 'external'",
                got=_colour_list(unknown),
                fix=f"add them to {palette.name}, or to the list of a class that it has",
            )
        palette.check_distance()
        unified = palette.unify(image)
        reading = read(unified, own)
    if fault := _fault(reading, unified, own):
        raise UserError(f"{path} is no plan image: {fault}", fix=f"check the colours in {palette.name}")
    _check_rooms(path, reading.plan)
    return Opened(path=path, reading=reading, style=style, image=image, foreign=unknown)


def _unknown_palette(path: Path, style: Style | None, colours: Sequence[FlatColour]) -> UserError:
    """The message about an image whose flat colours are foreign to a style, or to all of them."""
    styles = [style] if style else list(STYLES.values())
    known = "; ".join(
        f"{each.name} ({', '.join(f'{CLASS_NAMES[label]} {hex_of(each.colours[label])}' for label in range(WALL))})"
        for each in styles
    )
    return UserError(
        f"{path} is in a palette that {f'style {style.name!r} has not' if style else 'no style has'}",
        got=_colour_list(colours),
        expected=f"large areas in the colours of {known}",
        fix='name each colour\'s class in a JSON file, {"external": "#…", "wall": "#…", "bedroom": ["#…", "#…"]}, and give'
        " it with --palette" + ("; or leave --style out" if style else ""),
    )


def _colour_list(colours: Sequence[FlatColour]) -> Shown:
    """The colours with the largest shares, as many as fit into a line."""
    named = [f"{each.hex} {each.share:.1%}" for each in colours[:_MOST_NAMED]]
    return Shown(", ".join(named) + (f" and {len(colours) - len(named)} more" if len(colours) > len(named) else ""))


def _fault(reading: Reading, image: Image.Image, style: Style) -> str | None:
    """Why a reading is no plan; empty when it may be one.

    A photograph has pixels of every colour too. Noise alone is no reason."""
    plan = reading.plan
    if reading.off_palette > _MOST_OFF_PALETTE:
        off = off_palette(without_noise(as_array(image)), style)
        if off > _MOST_OFF_PALETTE:
            return f"{off:.0%} of it has no colour of a plan"
    if not plan.rooms:
        return "it has no room"
    if not (plan.labels == WALL).any():
        return "it has no wall"
    share = _enclosed(plan.labels)
    if share < _LEAST_ENCLOSED:
        return f"only {share:.0%} of its rooms' edges are walls, doors or windows"
    # In an image of a thousand pieces only rooms are looked for; their number is reported elsewhere.
    if len(plan.rooms) <= MOST_ROOMS and not any(opening.rooms for opening in plan.openings):
        return "no room of it has a door or a window"
    return None


def _enclosed(labels: Labels) -> float:
    """Share of the rooms' edges that border on a wall or an opening, 0 .. 1; 1 in a plan by the rules."""
    pairs = ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1]))
    first, second = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    is_edge = (first != second) & (np.isin(first, ROOM_CLASSES) | np.isin(second, ROOM_CLASSES))
    return float(((first >= WALL) | (second >= WALL))[is_edge].mean()) if is_edge.any() else 0.0


def _check_rooms(path: Path, plan: Plan) -> None:
    if len(plan.rooms) > MOST_ROOMS:
        raise UserError(f"{path} has too many rooms for a plan", got=len(plan.rooms), expected=f"at most {MOST_ROOMS}")


def _best_reading(
    image: Image.Image, styles: Iterable[Style]
) -> tuple[Style, Image.Image, Reading, Sequence[FlatColour]]:
    """The reading in the style with the nearest colours, the image on that style's ground, and its flat colours, which
    are not looked for when the reading is exact.
    """
    best: tuple[Style, Image.Image, Reading] | None = None
    for style in styles:
        flat = _flattened(image, style)
        reading = read(flat, style)
        if reading.exact:
            return style, flat, reading, ()
        if best is None or reading.off_palette < best[2].off_palette:
            best = style, flat, reading
    assert best
    return *best, flat_colours(as_array(best[1]))


def _flattened(image: Image.Image, style: Style) -> Image.Image:
    """The image with transparent parts replaced by the colour of the outside."""
    if image.mode == "RGB":
        return image
    ground = Image.new("RGBA", image.size, (*style.colours[EXTERNAL], 255))
    return Image.alpha_composite(ground, image).convert("RGB")


def _open_json(path: Path, style: Style | None, palette: Palette | None) -> Opened:
    """A plan from a .json that `export` wrote; the truth file of a dataset leads to its image."""
    from ..export.json_file import load, parse, scale_in, style_in, words_in

    _check_file(path)
    value: Any = load(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} is no floor plan of ours", expected="a .json that `loraloom plan export` wrote")
    record = cast("dict[str, Any]", value)
    style, scale = style or style_in(record, path.name), scale_in(record, path.name)
    if "graph_hash" in record and "walls" not in record:
        image = path.parent.parent / "label_floorplan" / f"{path.stem}.png"
        if not image.is_file():
            raise UserError(f"{path} is the truth of a data set, and its image is missing", expected=image)
        return replace(open_plan(image, style, palette), path=path, scale=scale)
    if palette is not None:
        raise UserError(f"{path} has classes, not colours: --palette says nothing about it", fix="leave --palette out")
    plan = parse(record, path.name)
    if plan.labels.shape != (SIZE_PX, SIZE_PX):
        raise UserError(f"size out of range in {path}", got=record["size"], expected=SIZE_PX)
    if not plan.rooms:
        raise UserError(f"{path} has no room")
    _check_rooms(path, plan)
    return Opened(
        path=path,
        reading=Reading(plan, 0.0, True),
        style=style,
        image=None,
        scale=scale,
        title=words_in(record, "title", path.name),
    )
