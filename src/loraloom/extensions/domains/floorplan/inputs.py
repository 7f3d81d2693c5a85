"""What a person names on the command line, opened: texts, pictures, plans.

In: a path or a text as it was typed. Out: a text, a picture, a reading, a plan. Every mistake is one `UserError`.
"""

import codecs
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from loraloom.errors import UserError, did_you_mean

from .pixels import Labels
from .plan import MOST_ROOMS, Plan
from .reading import Reading, read
from .scale import Scale
from .vocabulary import EXTERNAL, ROOM_CLASSES, SIZE_PX, STYLES, WALL, Style

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_TEXT_SUFFIXES = {".txt", ".caption", ".md"}
_MAX_TEXT_BYTES = 1 << 20
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MAX_PIXELS = 16 << 20
_MIN_SIDE_PX = 16

# What a file must be to be worked on; a picture that a model drew is judged however bad it is.
_MOST_OFF_PALETTE = 0.35
_LEAST_ENCLOSED = 0.55
"""Plans have 1.0, badly compressed ones 0.8 and more, photographs in a plan's colours 0.52 and less."""


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A plan from a file.

    Attributes:
        path: The file.
        reading: What was read; of a JSON file it is exact.
        style: Of the picture.
        image: The picture; of a JSON file that `export` wrote None.
        scale: What a JSON file says; of a picture None.
        title: What a JSON file says; of a picture None.
    """

    path: Path
    reading: Reading
    style: Style
    image: Image.Image | None
    scale: Scale | None = None
    title: str | None = None

    @property
    def plan(self) -> Plan:
        """The plan read."""
        return self.reading.plan


def text_of(given: str) -> str:
    """The text itself, or what the file of that name holds.

    Raises:
        UserError: It looks like a file and there is none, or the file holds no text.
    """
    path = Path(given)
    if "\n" in given or len(given) > 1000 or "\0" in given:
        return given
    words = given.split()
    if words and _is_folder(path):
        raise UserError(f"{path} is a folder", expected="a text, or a file with one")
    if not _is_file(path):
        if path.suffix.lower() in _TEXT_SUFFIXES | PICTURES and (len(words) == 1 or "/" in given):
            raise _missing(path)
        if not words:
            raise UserError("the text is empty", fix="give a text or the path of a file with one")
        return given
    if path.suffix.lower() in PICTURES:
        raise UserError(f"{path} is a picture", expected="a text, or a file with one")
    if path.stat().st_size > _MAX_TEXT_BYTES:
        raise UserError(
            f"{path} is too long for a text", got=f"{path.stat().st_size:,} bytes", expected="at most 1 MiB"
        )
    content = path.read_bytes()
    try:
        text = content.decode("utf-16" if content.startswith(_UTF16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} holds no text", expected="UTF-8") from None
    if not text.strip():
        raise UserError(f"{path} is empty", expected="a text about a plan")
    return text


def is_plan_file(given: str) -> bool:
    """Whether what was typed names a picture or a JSON file, there or not."""
    return "\n" not in given and len(given) <= 1000 and Path(given).suffix.lower() in PICTURES | {".json"}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
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


def open_picture(path: Path) -> Image.Image:
    """A picture, RGB, or RGBA where parts of it are transparent.

    Raises:
        UserError: No such file, or no picture in it.
    """
    if not path.is_file():
        raise _missing(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # said below, in our words
            with Image.open(path) as file:
                _check_size(path, file.width, file.height)
                return file.convert("RGBA" if file.has_transparency_data else "RGB")
    except UserError:
        raise
    # Broken files end in many ways: Pillow has errors of its own, and of each decoder's making.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        why = "no picture format that is known" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise UserError(f"{path} cannot be read as a picture: {why}", fix="give a PNG of a plan") from None


def _check_size(path: Path, width: int, height: int) -> None:
    """Before a pixel of it is decoded."""
    if width * height > _MAX_PIXELS:
        raise UserError(
            f"{path} is too large for a plan", got=f"{width} x {height} pixels", expected="at most 16 megapixels"
        )
    if min(width, height) < _MIN_SIDE_PX:
        raise UserError(
            f"{path} is no plan picture: it is too small", got=f"{width} x {height} pixels",
            expected=f"at least {_MIN_SIDE_PX} x {_MIN_SIDE_PX}",
        )  # fmt: skip


def open_plan(path: Path, style: Style | None = None) -> Opened:
    """A plan from a picture, or from a .json that `export` wrote.

    Args:
        path: The file.
        style: Whose colours the picture has; None finds out, or takes what the .json says.

    Raises:
        UserError: No such file, unreadable, or no plan in it.
    """
    if path.suffix.lower() == ".json":
        return _open_json(path, style)
    picture = open_picture(path)
    chosen, image, reading = _best_reading(picture, [style] if style else STYLES.values())
    fault = _fault(reading)
    if fault:
        what, fix = fault, "give a plan in the colours of a style"
        if reading.off_palette > _MOST_OFF_PALETTE:
            what += f" in style {chosen.name!r}"
            fix = "leave --style out, or name another" if style else fix
        raise UserError(f"{path} is no plan picture: {what}", fix=fix)
    _check_rooms(path, reading.plan)
    return Opened(path, reading, chosen, image)


def _fault(reading: Reading) -> str | None:
    """Why what was read is no plan: a photograph, too, has pixels of every colour somewhere."""
    plan = reading.plan
    if reading.off_palette > _MOST_OFF_PALETTE:
        return f"{reading.off_palette:.0%} of it has no colour of a plan"
    if not plan.rooms:
        return "it has no room"
    if not (plan.labels == WALL).any():
        return "it has no wall"
    share = _enclosed(plan.labels)
    if share < _LEAST_ENCLOSED:
        return f"only {share:.0%} of its rooms' edges are walls, doors or windows"
    # In a thousand pieces nothing is looked for but rooms: how many they are is told elsewhere.
    if len(plan.rooms) <= MOST_ROOMS and not any(opening.rooms for opening in plan.openings):
        return "no room of it has a door or a window"
    return None


def _enclosed(labels: Labels) -> float:
    """Share of the rooms' edges beyond which lies a wall or an opening, 0 .. 1; 1 in a plan by the rules."""
    pairs = ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1]))
    first, second = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    is_edge = (first != second) & (np.isin(first, ROOM_CLASSES) | np.isin(second, ROOM_CLASSES))
    return float(((first >= WALL) | (second >= WALL))[is_edge].mean()) if is_edge.any() else 0.0


def _check_rooms(path: Path, plan: Plan) -> None:
    if len(plan.rooms) > MOST_ROOMS:
        raise UserError(f"{path} has too many rooms for a plan", got=len(plan.rooms), expected=f"at most {MOST_ROOMS}")


def _best_reading(image: Image.Image, styles: Iterable[Style]) -> tuple[Style, Image.Image, Reading]:
    """The reading in the style whose colours the picture comes nearest to, and the picture on that style's ground."""
    best: tuple[Style, Image.Image, Reading] | None = None
    for style in styles:
        flat = _flattened(image, style)
        reading = read(flat, style)
        if reading.exact:
            return style, flat, reading
        if best is None or reading.off_palette < best[2].off_palette:
            best = style, flat, reading
    assert best
    return best


def _flattened(image: Image.Image, style: Style) -> Image.Image:
    """What is transparent shows the outside."""
    if image.mode == "RGB":
        return image
    ground = Image.new("RGBA", image.size, (*style.colours[EXTERNAL], 255))
    return Image.alpha_composite(ground, image).convert("RGB")


def _open_json(path: Path, style: Style | None) -> Opened:
    """A plan as `export` wrote it; the truth of a data set leads to its picture."""
    from .exports.json_file import load, parse, scale_in, style_in

    if not path.is_file():
        raise _missing(path)
    value: Any = load(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} is no floor plan of ours", expected="a .json that `loraloom plan export` wrote")
    record = cast("dict[str, Any]", value)
    style, scale = style or style_in(record, path.name), scale_in(record, path.name)
    if "graph_hash" in record and "walls" not in record:
        picture = path.parent.parent / "label_floorplan" / f"{path.stem}.png"
        if not picture.is_file():
            raise UserError(f"{path} is the truth of a data set, and its picture is missing", expected=picture)
        return replace(open_plan(picture, style), path=path, scale=scale)
    plan = parse(record, path.name)
    if plan.labels.shape != (SIZE_PX, SIZE_PX):
        raise UserError(f"size out of range in {path}", got=record["size"], expected=SIZE_PX)
    if not plan.rooms:
        raise UserError(f"{path} has no room")
    _check_rooms(path, plan)
    title = record.get("title")
    return Opened(path, Reading(plan, 0.0, True), style, None, scale, title if isinstance(title, str) else None)
