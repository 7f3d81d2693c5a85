"""Tables of pyarrow with a column of images: which columns they have, and one row of one table read at first use.

In: columns of a Parquet or Arrow file. Out: source items whose images are read later, and the columns of an export. Images are
bytes, or structs of `bytes` and `path` as the library `datasets` writes them. pyarrow comes with the extra `tables`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from loraloom.extensions.formats._common import more_captions
from loraloom.protocols.contracts import FormatContract, SaveImage
from loraloom.protocols.data import ImageData, PackedImage, SourceItem, WritableFormat
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.listing import split_name
from loraloom.utils.safe_paths import path_problem

_USUAL_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "picture", "pixel_values")
MAX_BYTES = 1 << 44
"""Largest table that is opened; a FIFO or a device in its place is not opened at all."""
FEATURES = {
    "image": {"_type": "Image"},
    "text": {"dtype": "string", "_type": "Value"},
    "captions": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
}
"""Columns of an export in the words of the library `datasets`."""


def pyarrow(module: str = "pyarrow") -> Any:
    """A module of pyarrow.

    Raises:
        UserError: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise UserError(
            "Parquet and Arrow tables need pyarrow", fix="pip install 'loraloom[tables]' (or pip install pyarrow)"
        ) from None


def is_installed() -> bool:
    """Whether pyarrow is there."""
    try:
        import_module("pyarrow")
    except ImportError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What is read of a table.

    Attributes:
        image: Column of images.
        caption: Column of captions; None without one.
        has_path: Whether the images are structs with a path.
        has_more: Whether the column `captions` lists all captions of each row.
    """

    image: str
    caption: str | None
    has_path: bool
    has_more: bool


def columns_of(schema: Any, options: Mapping[str, Any], where: str) -> Columns:
    """What is read of a table.

    Raises:
        UserError: There is no such column of images, or several could be meant.
    """
    names: list[str] = list(schema.names)
    wanted = str(options.get("image_column", ""))
    if wanted and wanted not in names:
        raise UserError(f"{where} has no column of this name", got=wanted, fix=did_you_mean(wanted, names))
    images = [wanted] if wanted else [name for name in names if _holds_images(schema.field(name))]
    if len(images) != 1:
        images = [name for name in images if name.lower() in _USUAL_IMAGE_COLUMNS] or images
    if len(images) != 1:
        expected = f"one column of images among {', '.join(names[:12])}"
        raise UserError(
            f"{where} has {len(images)} columns of images", expected=expected, fix="name it with --image-column"
        )
    caption = str(options.get("caption_column", "text"))
    types = pyarrow("pyarrow.types")
    kind = schema.field(images[0]).type
    return Columns(
        image=images[0],
        caption=caption if caption in names else None,
        has_path=types.is_struct(kind) and "path" in [field.name for field in kind],
        has_more="captions" in names and types.is_list(schema.field("captions").type),
    )


def _holds_images(field: Any) -> bool:
    types = pyarrow("pyarrow.types")
    kind = field.type
    if types.is_struct(kind):
        return any(kind.field(number).name == "bytes" for number in range(kind.num_fields))
    return types.is_binary(kind) or types.is_large_binary(kind)


def items_of(
    names: list[Any],
    captions: list[Any],
    more: list[Any],
    file: Path,
    stem: str,
    first: int,
    data: Callable[[int], ImageData],
) -> Iterator[SourceItem]:
    """Source items of some rows of a table.

    Args:
        names: The path inside each image struct, or None.
        captions: The caption of each row; None where there is none.
        more: The list of all captions of each row, or None.
        file: The table.
        stem: Its path below the folder without suffix; with the row's number the id of a row without a path.
        first: Number of the first row in the file.
        data: Reads the image of a row, by its number among these.
    """
    for number, (name, caption, listed) in enumerate(zip(names, captions, more, strict=True)):
        usable = isinstance(name, str) and path_problem(name) is None
        item_id = split_name(name)[0] if usable else f"{stem}/{first + number:08d}"
        problem = None if caption is None or isinstance(caption, str) else "its caption is no text"
        yield SourceItem(
            id=item_id,
            image=file,
            caption=caption if isinstance(caption, str) else None,
            problem=problem,
            source=file,
            more_captions=more_captions(caption if isinstance(caption, str) else None, listed),
            data=data(number),
        )


def image_bytes(value: Any, what: str, max_bytes: int) -> bytes:
    """The bytes of a cell.

    Raises:
        UserError: There are none, or too many.
    """
    data = value
    if isinstance(value, dict):
        data = cast("dict[str, Any]", value).get("bytes")
    if not isinstance(data, bytes):
        raise UserError(
            "the table has no bytes of this image, only its path", got=what, fix="embed images when you write it"
        )
    if len(data) > max_bytes:
        raise UserError("it is larger than any image within --max-megapixels needs", got=f"{len(data):,} bytes")
    return data


def table_of(images: list[PackedImage]) -> Any:
    """A table of an export: `image`, `text`, `captions`, in a schema that `datasets` reads as images."""
    arrow = pyarrow()
    image = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    features = {"info": {"features": FEATURES}}
    schema = arrow.schema(
        [("image", image), ("text", arrow.string()), ("captions", arrow.list_(arrow.string()))],
        metadata={"huggingface": json.dumps(features)},
    )
    columns = {
        "image": [{"bytes": one.data, "path": f"{one.id}.png"} for one in images],
        "text": [one.captions[0] for one in images],
        "captions": [list(one.captions) for one in images],
    }
    return arrow.table(columns, schema=schema)


def shards_of(images: Iterator[PackedImage], shard_size: int) -> Iterator[tuple[str, int, list[PackedImage]]]:
    """Split, number and images of each file of an export."""
    waiting: list[PackedImage] = []
    number = 0
    for image in images:
        if waiting and (len(waiting) == shard_size or waiting[0].split != image.split):
            yield waiting[0].split, number, waiting
            number = number + 1 if waiting[0].split == image.split else 0
            waiting = []
        waiting.append(image)
    if waiting:
        yield waiting[0].split, number, waiting


def contract_of(made: WritableFormat) -> FormatContract:
    """The contract of a format of tables: what is written by its own `write` is read back."""

    def write(folder: Path, captions: Mapping[str, str], save_image: SaveImage) -> None:
        rows: list[PackedImage] = []
        for item_id, caption in captions.items():
            save_image(folder / "scratch.png")
            data = (folder / "scratch.png").read_bytes()
            rows.append(PackedImage(id=item_id, data=data, captions=(caption,), split="train"))
        (folder / "scratch.png").unlink()
        made.write(folder, iter(rows), 1000)

    return FormatContract(write=write, packed=True, needs=("pyarrow",))
