"""Pictures with a text of the same name beside them: `dog.jpg`, `dog.txt`.

In: a folder. Out: one source item a picture; the text may be missing, then the caption is None. A text without a
picture is reported.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from loraloom.contracts import Format, SourceItem
from loraloom.extensions.formats._common import Entry, count, read_text, sorted_unique, walk


class Sidecar:
    """The `sidecar` layout."""

    name = "sidecar"
    expects = "pictures, each with a .txt of the same name beside it (dog.jpg, dog.txt); the text may be missing"
    priority = 10

    def sniff(self, folder: Path, options: Mapping[str, str]) -> str | None:
        """How many pictures there are, and how many have a text."""
        entries = walk(folder)
        texts = {entry.stem for entry in entries if entry.is_text}
        pictures = [entry for entry in entries if entry.is_picture]
        if not pictures:
            return None
        with_text = sum(picture.stem in texts for picture in pictures)
        return f"{count(len(pictures), 'picture')}, {with_text:,} with a .txt of the same name"

    def read(self, folder: Path, options: Mapping[str, str]) -> Iterator[SourceItem]:
        """All pictures below `folder` and all texts without one."""
        entries = walk(folder)
        texts = {entry.stem: entry for entry in entries if entry.is_text}
        pictures = [entry for entry in entries if entry.is_picture]
        with_picture = {entry.stem for entry in pictures}
        picture_folders = {PurePosixPath(stem).parent for stem in with_picture}
        items = [_item(entry, texts.get(entry.stem)) for entry in pictures]
        items += [
            SourceItem(entry.stem, entry.path, None, problem="a text without a picture of the same name")
            for stem, entry in texts.items()
            # A text among pictures has lost its picture; one in a folder without pictures is a note.
            if stem not in with_picture and PurePosixPath(stem).parent in picture_folders
        ]
        yield from sorted_unique(items)


def _item(picture: Entry, text: Entry | None) -> SourceItem:
    caption, problem = None, picture.problem
    if text is not None and problem is None:
        if text.problem:
            problem = f"its text {text.path.name}: {text.problem}"
        else:
            caption, problem = read_text(text.path)
    return SourceItem(picture.stem, picture.path, caption, problem)


FORMAT: Format = Sidecar()
