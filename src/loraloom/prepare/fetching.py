"""Fetch a dataset of the Hugging Face hub, or any that the library `datasets` opens, image by image.

In: a hub id or a local folder, streamed. Out: a folder that `prepare` reads: the original bytes of the images in `images/` and
`metadata.jsonl`. An interrupted fetch continues after the last image. No code of a dataset is run.
"""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from loraloom.utils.atomic_files import write_json
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.image_bytes import RefusedError, decodable_formats
from loraloom.utils.listing import sniff_image
from loraloom.utils.locks import lock_folder
from loraloom.utils.progress import Progress
from loraloom.utils.untrusted import check_range, is_there, library_errors, read_json_object

STATE_FILE, TABLE_FILE, IMAGES = ".fetch.json", "metadata.jsonl", "images"
_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "GIF": ".gif",
    "WEBP": ".webp",
    "TIFF": ".tif",
    "BMP": ".bmp",
    "AVIF": ".avif",
}
_SAVE_EVERY = 100


def fetch(
    location: str,
    out: Path,
    *,
    split: str = "train",
    subset: str = "",
    image_column: str = "",
    caption_column: str = "text",
    max_images: int = 0,
    console: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> int:
    """Write the images of one split to `out`; returns how many there are now.

    Args:
        location: Hub id, or folder of a dataset.
        out: Folder to write; one that an earlier call with the same arguments began is continued.
        split: Name of the split.
        subset: Name of the configuration; empty: the only one.
        image_column: Column of images; empty: the only one.
        caption_column: Column of captions.
        max_images: Number of images to stop after; 0: all.
        console: Takes one line for the user.
        progress: Called with images done and all, where their number is known.

    Raises:
        UserError: `datasets` is missing, there is no such dataset, split or column, or `out` holds something else.
    """
    try:
        library = import_module("datasets")
    except ImportError:
        raise UserError(
            "fetching needs the library datasets", fix="pip install 'loraloom[tables]' (or pip install datasets)"
        ) from None
    settings = {"location": location, "split": split, "subset": subset, "image": image_column, "text": caption_column}
    done = _begun(out, settings)
    with library_errors("the dataset", location, fix="check the name, --split and --subset, and the network"):
        rows: Any = library.load_dataset(location, subset or None, split=split, streaming=True)
        features = rows.features or rows.select_columns(rows.column_names or []).features or {}
    image = _image_column(library, features, image_column)
    if caption_column not in features:
        hint = did_you_mean(caption_column, features)
        raise UserError(
            "the dataset has no column of captions of this name", got=caption_column, fix=f"--caption-column: {hint}"
        )
    rows = rows.cast_column(image, library.Image(decode=False))
    total = max_images or int(getattr(rows.info.splits.get(split), "num_examples", 0) if rows.info.splits else 0)
    out.mkdir(parents=True, exist_ok=True)
    with lock_folder(out, console), (out / TABLE_FILE).open("a", encoding="utf-8", newline="\n") as table:
        table.truncate(done["bytes"])
        refused = done["refused"]
        number = done["rows"]
        for row in rows.skip(number):
            if max_images and number >= max_images:
                break
            refused += not _take(out, table, number, row[image], row[caption_column])
            number += 1
            if number % _SAVE_EVERY == 0:
                _save(out, settings, number, refused, table)
            if progress:
                progress(number, max(total, number))
        _save(out, settings, number, refused, table)
    if refused:
        console(f"  {refused:,} of {number:,} rows have no image that can be decoded, or no caption: not written")
    return number - refused


def _take(out: Path, table: Any, number: int, image: Any, caption: Any) -> bool:
    """Write one row; False where it cannot be used."""
    data = image.get("bytes") if isinstance(image, dict) else None
    if not isinstance(data, bytes) or not isinstance(caption, str):
        return False
    try:
        decodable_formats(data)
    except RefusedError:
        return False
    suffix = _SUFFIXES.get(sniff_image(data[:64]) or "")
    if suffix is None:
        return False
    name = f"{IMAGES}/{number // 1000:05d}/{number:08d}{suffix}"
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_bytes(data)
    table.write(json.dumps({"file_name": name, "text": caption}, ensure_ascii=False) + "\n")
    return True


def _save(out: Path, settings: dict[str, str], number: int, refused: int, table: Any) -> None:
    table.flush()
    write_json(out / STATE_FILE, {"settings": settings, "rows": number, "refused": refused, "bytes": table.tell()})


def _begun(out: Path, settings: dict[str, str]) -> dict[str, int]:
    """How far an earlier call came: rows read, rows not written, bytes of the table."""
    path = out / STATE_FILE
    if not is_there(path):
        if out.is_dir() and any(out.iterdir()):
            fix = "choose a new folder with --out: nothing of yours is overwritten"
            raise UserError("the output folder is not empty and no fetch", got=str(out), fix=fix)
        return {"rows": 0, "refused": 0, "bytes": 0}
    value = read_json_object(path, str(path))
    if value.get("settings") != settings:
        raise UserError("the output folder holds another fetch", got=str(out), fix="choose another --out")
    return {name: check_range(value.get(name), f"{path}: {name}", 0, 1 << 50) for name in ("rows", "refused", "bytes")}


def _image_column(library: Any, features: Any, wanted: str) -> str:
    found = [name for name, kind in features.items() if isinstance(kind, library.Image)]
    if wanted:
        if wanted not in features:
            raise UserError("the dataset has no such column", got=wanted, fix=did_you_mean(wanted, features))
        return wanted
    if len(found) != 1:
        expected = f"one column of images among {', '.join(features)}"
        raise UserError(
            f"the dataset has {len(found)} columns of images", expected=expected, fix="name it with --image-column"
        )
    return found[0]
