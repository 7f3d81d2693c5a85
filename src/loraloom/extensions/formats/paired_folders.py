"""Texts in one folder, images in another, joined by name: `input_text/0.txt` with `label_floorplan/0.png`.

In: a folder that contains both (or sub-folders that do), and their names from the options `text_folder` and
`image_folder`. Out: one source item per image; a text without image and an image without text are reported.
"""

from collections.abc import Iterator, Mapping, Sized
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from loraloom.extensions.formats._common import ByName, caption_suffixes, listed, read_text, sorted_unique
from loraloom.protocols.contracts import FormatContract, SaveImage
from loraloom.protocols.data import Format, SourceItem
from loraloom.protocols.settings import CaptionFiles, setting
from loraloom.utils.counted import counted
from loraloom.utils.errors import UserError
from loraloom.utils.listing import Entry, name_key

TEXT_FOLDER = "input_text"
IMAGE_FOLDER = "label_floorplan"
_OTHER_CASE = "the name of its text differs in upper and lower case"


class PairedFoldersSettings(CaptionFiles):
    """Settings of the layout paired_folders."""

    text_folder: str = setting(
        "", "name of the folder of texts; empty is the layout's own, input_text", flag="--text-folder"
    )
    image_folder: str = setting("", "name of the folder of images; empty is label_floorplan", flag="--image-folder")


class PairedFolders:
    """The `paired_folders` layout."""

    name = "paired_folders"
    settings = PairedFoldersSettings
    expects = (
        "two folders joined by file name (input_text/0.txt with label_floorplan/0.png); "
        "--text-folder and --image-folder name them"
    )
    priority = 20

    def sniff(self, folder: Path, options: Mapping[str, Any]) -> str | None:
        """The number of texts and images in the two folders."""
        texts, images = _sides(folder, options)
        if not texts or not images:
            return None
        return _counts(texts, images, options)

    def read(self, folder: Path, options: Mapping[str, Any]) -> Iterator[SourceItem]:
        """All pairs, and all incomplete pairs with their problem."""
        texts, images = _sides(folder, options)
        image_folder = _folder_names(options)[1]
        if not texts or not images:
            raise UserError(
                f"{folder} has no pairs of texts and images",
                got=_counts(texts, images, options),
                expected=self.expects,
                fix="check the folder, or name the two folders with --text-folder and --image-folder",
            )
        by_name = ByName((key, (key, entry)) for key, entry in texts.items())
        items: list[SourceItem] = []
        with_image: set[str] = set()
        for key, entry in images:
            found = by_name.find(key) or by_name.find(f"{key}{entry.suffix}")
            items.append(_item(key, entry, found[0][1] if found else None, options))
            if found is not None:
                with_image.add(found[0][0])
                if found[1]:
                    items[-1] = replace(items[-1], notes=(_OTHER_CASE,))
        items += [
            SourceItem(
                id=key,
                image=entry.path,
                caption=None,
                problem=f"a text without an image: no {image_folder}/ file has its name",
            )
            for key, entry in texts.items()
            if key not in with_image
        ]
        yield from sorted_unique(items)


def _folder_names(options: Mapping[str, Any]) -> tuple[str, str]:
    return options.get("text_folder") or TEXT_FOLDER, options.get("image_folder") or IMAGE_FOLDER


def _counts(texts: Sized, images: Sized, options: Mapping[str, Any]) -> str:
    text_folder, image_folder = _folder_names(options)
    return f"{text_folder}/ with {counted(len(texts), 'text')}, {image_folder}/ with {counted(len(images), 'image')}"


def _sides(folder: Path, options: Mapping[str, Any]) -> tuple[dict[str, Entry], list[tuple[str, Entry]]]:
    """Texts by key and images with their key; a key is the path without suffix and without the folder's name."""
    text_folder, image_folder = _folder_names(options)
    texts: dict[str, Entry] = {}
    entries = listed(folder)
    images = [
        (key, entry) for entry in entries if entry.is_image and (key := _without(entry.stem, image_folder)) is not None
    ]
    for suffix in caption_suffixes(options):
        for entry in entries:
            ends = entry.name.lower().endswith(suffix.lower()) and not (entry.is_image or entry.system)
            if ends and (key := _without(entry.name[: -len(suffix)], text_folder)) is not None:
                texts.setdefault(key, entry)
    return texts, images


def _without(stem: str, folder_name: str) -> str | None:
    """`a/input_text/b/0` without `input_text` is `a/b/0`; None if no folder in the path has that name."""
    *folders, last = PurePosixPath(stem).parts
    wanted = PurePosixPath(name_key(folder_name)).parts
    names = tuple(name_key(name) for name in folders)
    for start in range(len(folders) - len(wanted) + 1):
        if names[start : start + len(wanted)] == wanted:
            return "/".join([*folders[:start], *folders[start + len(wanted) :], last])
    return None


def _item(key: str, image: Entry, text: Entry | None, options: Mapping[str, Any]) -> SourceItem:
    caption, problem = None, image.problem
    if problem is None:
        if text is None:
            problem = f"an image without a text: no {_folder_names(options)[0]}/ file has its name"
        elif text.problem:
            problem = f"its text {text.path.name}: {text.problem}"
        else:
            caption, problem = read_text(text.path, options.get("encoding", ""))
    return SourceItem(id=key, image=image.path, caption=caption, problem=problem, source=text.path if text else None)


FORMAT: Format = PairedFolders()


def _write(folder: Path, captions: Mapping[str, str], save_image: SaveImage) -> None:
    for item_id, caption in captions.items():
        save_image(folder / IMAGE_FOLDER / f"{item_id}.png")
        text = folder / TEXT_FOLDER / f"{item_id}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(caption, encoding="utf-8", newline="")


CONTRACT = FormatContract(write=_write)
