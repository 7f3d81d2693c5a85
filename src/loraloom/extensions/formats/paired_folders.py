"""Texts in one folder, pictures in another, joined by name: `input_text/0.txt` with `label_floorplan/0.png`.

In: a folder that holds both (or sub-folders that do), and their names from the options `text_folder` and
`image_folder`. Out: one source item a picture; a text without picture and a picture without text are reported.
"""

from collections.abc import Iterator, Mapping, Sized
from pathlib import Path, PurePosixPath

from loraloom.contracts import Format, SourceItem
from loraloom.errors import UserError
from loraloom.extensions.formats._common import Entry, count, read_text, sorted_unique, walk

TEXT_FOLDER = "input_text"
IMAGE_FOLDER = "label_floorplan"


class PairedFolders:
    """The `paired_folders` layout."""

    name = "paired_folders"
    expects = (
        "two folders joined by file name (input_text/0.txt with label_floorplan/0.png); "
        "--text-folder and --image-folder name them"
    )
    priority = 20

    def sniff(self, folder: Path, options: Mapping[str, str]) -> str | None:
        """How many texts and pictures the two folders hold."""
        texts, pictures = _sides(folder, options)
        if not texts or not pictures:
            return None
        return _counts(texts, pictures, options)

    def read(self, folder: Path, options: Mapping[str, str]) -> Iterator[SourceItem]:
        """All pairs, and all halves of pairs with their problem."""
        texts, pictures = _sides(folder, options)
        text_folder, image_folder = _folder_names(options)
        if not texts or not pictures:
            raise UserError(
                f"{folder} has no pairs of texts and pictures",
                got=_counts(texts, pictures, options),
                expected=self.expects,
                fix="check the folder, or name the two folders with --text-folder and --image-folder",
            )
        items = [_item(key, entry, texts.get(key), text_folder) for key, entry in pictures]
        with_picture = {key for key, _ in pictures}
        items += [
            SourceItem(key, entry.path, None, problem=f"a text without a picture: no {image_folder}/ file has its name")
            for key, entry in texts.items()
            if key not in with_picture
        ]
        yield from sorted_unique(items)


def _folder_names(options: Mapping[str, str]) -> tuple[str, str]:
    return options.get("text_folder", TEXT_FOLDER), options.get("image_folder", IMAGE_FOLDER)


def _counts(texts: Sized, pictures: Sized, options: Mapping[str, str]) -> str:
    text_folder, image_folder = _folder_names(options)
    return f"{text_folder}/ with {count(len(texts), 'text')}, {image_folder}/ with {count(len(pictures), 'picture')}"


def _sides(folder: Path, options: Mapping[str, str]) -> tuple[dict[str, Entry], list[tuple[str, Entry]]]:
    """Texts by key and pictures with their key; a key is the path without suffix and without the folder's own name."""
    text_folder, image_folder = _folder_names(options)
    texts: dict[str, Entry] = {}
    pictures: list[tuple[str, Entry]] = []
    for entry in walk(folder):
        if entry.is_text and (key := _without(entry.stem, text_folder)):
            texts[key] = entry
        elif entry.is_picture and (key := _without(entry.stem, image_folder)):
            pictures.append((key, entry))
    return texts, pictures


def _without(stem: str, folder_name: str) -> str | None:
    """`a/input_text/b/0` without `input_text` is `a/b/0`; None when no folder on the way has that name."""
    *folders, last = PurePosixPath(stem).parts
    wanted = PurePosixPath(folder_name).parts
    for start in range(len(folders) - len(wanted) + 1):
        if tuple(folders[start : start + len(wanted)]) == wanted:
            return "/".join([*folders[:start], *folders[start + len(wanted) :], last])
    return None


def _item(key: str, picture: Entry, text: Entry | None, text_folder: str) -> SourceItem:
    caption, problem = None, picture.problem
    if problem is None:
        if text is None:
            problem = f"a picture without a text: no {text_folder}/ file has its name"
        elif text.problem:
            problem = f"its text {text.path.name}: {text.problem}"
        else:
            caption, problem = read_text(text.path)
    return SourceItem(key, picture.path, caption, problem)


FORMAT: Format = PairedFolders()
