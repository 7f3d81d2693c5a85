"""What a person names on the command line, opened: texts, pictures, plans.

In: a path or a text as it was typed. Out: a text, a picture, a reading, a plan. Every mistake is one `UserError`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from PIL import Image

from loraloom.errors import UserError, did_you_mean

from .plan import Plan
from .reading import Reading, read
from .verifying import MOST_OFF_PALETTE
from .vocabulary import STYLES, Style

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_TEXT_SUFFIXES = {".txt", ".caption", ".md"}
_MAX_TEXT_BYTES = 1 << 20
_MAX_PIXELS = 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A plan from a file.

    Attributes:
        path: The file.
        reading: What was read; of a JSON file it is exact.
        style: Of the picture.
        image: The picture; of a JSON file None.
    """

    path: Path
    reading: Reading
    style: Style
    image: Image.Image | None

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
    if not _is_file(path):
        words = given.split()
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
    try:
        text = path.read_text(encoding="utf-8-sig")
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


def _missing(path: Path) -> UserError:
    folder = path.parent
    near: list[str] = []
    if folder.is_dir():
        near = get_close_matches(path.name, (entry.name for entry in folder.iterdir()), n=2, cutoff=0.7)
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
    """An RGB picture.

    Raises:
        UserError: No such file, or no picture in it.
    """
    if not path.is_file():
        raise _missing(path)
    try:
        with Image.open(path) as file:
            if file.width * file.height > _MAX_PIXELS:
                raise UserError(f"{path} is too large for a plan", got=f"{file.width} x {file.height} pixels")
            return file.convert("RGB")
    except UserError:
        raise
    # Broken files end in many ways: Pillow has errors of its own, and of each decoder's making.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        why = "no picture format that is known" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise UserError(f"{path} cannot be read as a picture: {why}", fix="give a PNG of a plan") from None


def open_plan(path: Path, style: Style | None = None) -> Opened:
    """A plan from a picture, or from a .json that `export` wrote.

    Args:
        path: The file.
        style: Whose colours the picture has; None finds out.

    Raises:
        UserError: No such file, unreadable, or no plan in it.
    """
    if path.suffix.lower() == ".json":
        return Opened(path, Reading(_plan_of_json(path), 0.0, True), style or STYLES["sjh"], None)
    image = open_picture(path)
    chosen, reading = _best_reading(image, [style] if style else STYLES.values())
    if reading.off_palette > MOST_OFF_PALETTE:
        raise UserError(
            f"{path} is no plan picture: {reading.off_palette:.0%} of it has no colour of a plan in style {chosen.name!r}",
            fix="give a plan in the colours of a style" if not style else "leave --style out, or name another",
        )
    if not reading.plan.rooms:
        raise UserError(f"{path} is no plan picture: it has no room", fix="give a plan in the colours of a style")
    return Opened(path, reading, chosen, image)


def _best_reading(image: Image.Image, styles: Iterable[Style]) -> tuple[Style, Reading]:
    """The reading in the style whose colours the picture comes nearest to."""
    best: tuple[Style, Reading] | None = None
    for style in styles:
        reading = read(image, style)
        if reading.exact:
            return style, reading
        if best is None or reading.off_palette < best[1].off_palette:
            best = style, reading
    assert best
    return best


def _plan_of_json(path: Path) -> Plan:
    """A plan as `export` wrote it; the truth of a data set leads to its picture."""
    import json

    from .exports.json_file import parse

    if not path.is_file():
        raise _missing(path)
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(
            f"{path} cannot be read as JSON", fix="give a .json that `loraloom plan export` wrote"
        ) from None
    picture = path.parent.parent / "label_floorplan" / f"{path.stem}.png"
    if isinstance(value, dict) and "graph_hash" in value and picture.is_file():
        return open_plan(picture).plan
    plan = parse(value, path.name)
    if not plan.rooms:
        raise UserError(f"{path} has no room")
    return plan
